"""SALAD compared with a slow implementation of its equations in float64."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.model.salad import GenGeoSalad
from tests.conftest import TINY


def make_salad(**changes):
    torch.manual_seed(0)
    salad = GenGeoSalad(GenGeoConfig(**{**TINY, **changes}), 32).eval()
    # With the default initialisation the scores are nearly equal, and any number of iterations gives the same plan.
    salad.score[3].weight.data *= 60
    return salad


def tokens(batch=2, count=30, width=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, width, generator=generator), torch.randn(batch, width, generator=generator)


def slow_mlp(x, layers):
    for i, layer in enumerate(layers):
        x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        if i < len(layers) - 1:
            x = np.maximum(x, 0)
    return x


def slow_salad(salad, tokens, global_token, iterations=3, dustbin=True):
    """Aggregate one image with explicit loops over clusters and tokens, not in the log domain."""
    tokens, global_token = tokens.double().numpy(), global_token.double().numpy()
    features = slow_mlp(tokens, (salad.cluster_features[0], salad.cluster_features[3]))
    scores = slow_mlp(tokens, (salad.score[0], salad.score[3])).T
    (clusters, count), width = scores.shape, features.shape[1]
    mass = np.full(clusters, count / clusters)
    if dustbin:
        scores = np.concatenate([scores, np.full((1, count), float(salad.dust_bin.detach()))])
        mass = np.append(np.ones(clusters), count - clusters)
    kernel = np.exp(scores)
    columns = np.ones(count)
    for _ in range(iterations):
        rows = np.array([mass[j] / sum(kernel[j, i] * columns[i] for i in range(count)) for j in range(len(mass))])
        columns = np.array([1 / sum(kernel[j, i] * rows[j] for j in range(len(mass))) for i in range(count)])
    plan = rows[:, None] * kernel * columns[None]
    summary = slow_mlp(global_token, (salad.token_features[0], salad.token_features[2]))
    vectors = np.array([sum(plan[j, i] * features[i] for i in range(count)) for j in range(clusters)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    flat = np.zeros(len(summary) + width * clusters)
    flat[: len(summary)] = summary / np.linalg.norm(summary)
    for k in range(width):
        for j in range(clusters):
            flat[len(summary) + k * clusters + j] = vectors[j, k]
    return flat / np.linalg.norm(flat), plan


@pytest.mark.parametrize("iterations", [1, 3, 5])
@pytest.mark.parametrize("dustbin", [True, False])
def test_salad_equals_equations(iterations, dustbin):
    salad = make_salad(sinkhorn_iterations=iterations, use_dustbin=dustbin)
    x, t = tokens()
    descriptor, plan = salad(x, t)
    for i in range(2):
        expected, expected_plan = slow_salad(salad, x[i], t[i], iterations, dustbin)
        assert np.abs(descriptor[i].detach().numpy() - expected).max() < 1e-6
        assert np.abs(plan[i].detach().numpy() - expected_plan).max() < 1e-5


def test_salad_number_of_iterations_changes_result():
    x, t = tokens()
    outputs = [make_salad(sinkhorn_iterations=k)(x, t)[0] for k in (1, 3, 4)]
    # Far above the tolerance of the comparison with the equations, which therefore tests the number of iterations.
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2
    assert (outputs[2] - outputs[1]).abs().max() > 1e-3


def test_salad_columns_sum_to_one_and_dustbin_has_its_mass():
    x, t = tokens(count=200)
    _, plan = make_salad()(x, t)
    assert torch.allclose(plan.sum(1), torch.ones(2, 200), atol=1e-6)
    assert torch.allclose(plan[:, -1].mean(1), torch.tensor((200 - 4) / 200), atol=0.02)


def test_salad_dust_bin_value_has_no_effect():
    salad = make_salad().double()
    x, t = (a.double() for a in tokens())
    before, _ = salad(x, t)
    before[:, :3].sum().backward()
    assert abs(salad.dust_bin.grad.item()) < 1e-5
    salad.dust_bin.data.fill_(-7.0)
    assert torch.allclose(salad(x, t)[0], before, atol=1e-6)


def test_learned_dustbin_is_initialised_as_salad_and_depends_on_image():
    model = GenGeoModel(GenGeoConfig(**TINY, dustbin_mass="learned")).eval()
    learned = model.heads["shared"].aggregator
    learned.score[3].weight.data *= 50
    x, t = tokens()
    fixed = make_salad()
    fixed.load_state_dict(learned.state_dict(), strict=False)
    assert torch.allclose(learned(x, t)[0], fixed(x, t)[0], atol=1e-6)

    learned(x, t)[0][:, 8:12].sum().backward()
    assert learned.dustbin_shift.weight.grad.norm() > 1e-4
    learned.dustbin_shift.weight.data.normal_(std=0.3)
    shares = learned(x, t)[1][:, -1].mean(1)
    target = torch.sigmoid(learned.dustbin_shift(t)[:, 0] + np.log((30 - 4) / 4))
    assert (shares[0] - shares[1]).abs() > 0.01
    assert torch.allclose(shares, target, atol=0.05)


def test_output_assignment_contains_rejected_share(tiny_model):
    output = tiny_model(torch.randn(2, 3, 56, 56), output_assignment=True)
    assert output.token_grid == (4, 4) and output.assignment.shape == (2, 5, 16)
    assert torch.allclose(output.rejected_share, output.assignment[:, -1].sum(1) / 16)
    expected = torch.nn.functional.normalize(tiny_model.heads["shared"].projection(output.unprojected), dim=1)
    assert torch.allclose(output.pooler_output, expected, atol=1e-6)
    assert tiny_model(torch.randn(2, 3, 56, 56)).assignment is None


@pytest.mark.parametrize("mode", ["bf16 autocast", "fp16 autocast", "bf16 weights", "fp16 weights"])
def test_salad_half_precision_keeps_transport_in_float32(mode):
    dtype = torch.bfloat16 if mode.startswith("bf16") else torch.float16
    salad = make_salad()
    x, t = tokens(count=605)
    expected, _ = salad(x, t)
    if mode.endswith("autocast"):
        with torch.autocast("cpu", dtype=dtype):
            descriptor, plan = salad(x, t)
    else:
        descriptor, plan = salad.to(dtype)(x.to(dtype), t.to(dtype))
    assert descriptor.dtype == plan.dtype == torch.float32
    assert (plan.sum(1) - 1).abs().max() < 1e-5
    assert (descriptor * expected).sum(1).min() > (0.999 if dtype == torch.bfloat16 else 0.99999)


def test_projection_and_norm_are_float32_under_autocast(tiny_model):
    pixels = torch.randn(2, 3, 28, 112)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = tiny_model(pixels, output_assignment=True)
    assert output.pooler_output.dtype == torch.float32
    assert (output.pooler_output.norm(dim=1) - 1).abs().max() < 1e-6
    with_half = tiny_model.to(torch.float16)(pixels.half())
    assert with_half.pooler_output.dtype == torch.float32


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_salad_has_no_tensor_of_clusters_times_width_times_tokens():
    salad = make_salad(num_clusters=16, cluster_dim=32)
    x, t = tokens(count=100)
    with Largest() as largest:
        salad(x, t)[0].sum().backward()
    assert largest.size < 2 * 16 * 32 * 100 / 2
