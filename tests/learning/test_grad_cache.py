"""`cached_backward` gives the gradient of a plain step, with dropout, loss scaling and two processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from gengeo_hf.learning import FrozenPrefix, cached_backward, gather_rows, symmetric_info_nce
from gengeo_hf.learning import grad_cache as module
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.model.backbones import frozen_stages


class Toy(torch.nn.Module):
    def __init__(self, dropout=0.5):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, 32), torch.nn.Dropout(dropout), torch.nn.ReLU(), torch.nn.Linear(32, 4)
        )
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return torch.nn.functional.normalize(self.layers(x), dim=1)


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 6, generator=generator), torch.randn(12, 6, generator=generator)


def parts_of(ground, aerial, size):
    return [(ground[i : i + size], aerial[i : i + size]) for i in range(0, len(ground), size)]


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


def plain(model, parts, scale=1.0):
    """Run one large batch with all activations; dropout is drawn part by part as in the cached step."""
    encoded = [(model(g), model(a)) for g, a in parts]
    ground, aerial = (torch.cat(views) for views in zip(*encoded, strict=True))
    loss = symmetric_info_nce(ground, aerial, model.scale, label_smoothing=0.1)
    (loss * scale).backward()
    return loss.item()


def cached(model, parts, scale=1.0):
    return cached_backward(
        parts,
        lambda part: (model(part[0]), model(part[1])),
        lambda g, a: symmetric_info_nce(g, a, model.scale, label_smoothing=0.1),
        backward=lambda loss: (loss * scale).backward(),
        loss_parameters=[model.scale],
    ).item()


@pytest.mark.parametrize("size", [1, 4, 5, 12])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_cached_backward_with_dropout_equals_plain_step(size, scale):
    one, other = Toy(), Toy()
    parts = parts_of(*images(), size)
    torch.manual_seed(7)
    expected_loss = plain(one, parts, scale)
    torch.manual_seed(7)
    assert cached(other, parts, scale) == pytest.approx(expected_loss, abs=1e-6)
    for expected, found in zip(gradients(one), gradients(other), strict=True):
        torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)


def test_cached_backward_random_state_is_that_of_one_pass():
    model = Toy()
    torch.manual_seed(7)
    plain(model, parts_of(*images(), 4))
    expected = torch.rand(3)
    torch.manual_seed(7)
    cached(model, parts_of(*images(), 4))
    torch.testing.assert_close(torch.rand(3), expected)


def test_cached_backward_without_restored_random_state_differs(monkeypatch):
    """Control of the test above: with other random numbers the gradients differ."""
    one, other = Toy(), Toy()
    parts = parts_of(*images(), 4)
    torch.manual_seed(7)
    plain(one, parts)
    monkeypatch.setattr(module._RngState, "restore", lambda self: None)
    torch.manual_seed(7)
    cached(other, parts)
    gap = max((a - b).abs().max().item() for a, b in zip(gradients(one), gradients(other), strict=True))
    assert gap > 1e-3


def test_sum_of_micro_batch_losses_differs_from_large_batch():
    one, other = Toy(dropout=0.0), Toy(dropout=0.0)
    parts = parts_of(*images(), 4)
    plain(one, parts)
    for ground, aerial in parts:
        (symmetric_info_nce(other(ground), other(aerial), other.scale, label_smoothing=0.1) / len(parts)).backward()
    gap = max((a - b).abs().max().item() for a, b in zip(gradients(one), gradients(other), strict=True))
    assert gap > 1e-3


def worker(rank, results):
    model = Toy(dropout=0.0)
    wrapped = DistributedDataParallel(model)
    ground, aerial = images()
    rows = slice(6 * rank, 6 * rank + 6)
    loss = cached_backward(
        parts_of(ground[rows], aerial[rows], 2),
        lambda part: (wrapped(part[0]), wrapped(part[1])),
        lambda g, a: symmetric_info_nce(gather_rows(g), gather_rows(a), model.scale, label_smoothing=0.1),
        no_sync=wrapped.no_sync,
        loss_parameters=[model.scale],
    )
    torch.save([loss.item(), gradients(model)], f"{results}-{rank}")


def both_workers(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    worker(rank, folder / "plain")
    dropout_worker(rank, folder / "dropout")
    dist.barrier()  # a rank that ends early would close the connection of the other
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Run both workers once, since most of their time is the import of PyTorch."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(both_workers, args=(folder,), nprocs=2)
    return folder


def test_cached_backward_two_processes_equal_one(two_processes):
    alone = Toy(dropout=0.0)
    expected_loss = plain(alone, parts_of(*images(), 12))
    for rank in range(2):
        loss, found = torch.load(f"{two_processes}/plain-{rank}", weights_only=True)
        assert loss == pytest.approx(expected_loss, abs=1e-6)
        for ours, expected in zip(found, gradients(alone), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def dropout_worker(rank, results):
    """Compute, with dropout and a loss scale, the gradients of a plain step, a cached step and a control."""
    ground, aerial = images()
    rows = slice(6 * rank, 6 * rank + 6)
    parts, found = parts_of(ground[rows], aerial[rows], 2), []
    for cache in (False, True, None):
        model = Toy(dropout=0.5)
        wrapped = DistributedDataParallel(model)
        torch.manual_seed(7 + rank)

        def loss_of(g, a, scale=model.scale):
            return symmetric_info_nce(gather_rows(g), gather_rows(a), scale, label_smoothing=0.1)

        if cache is None:  # the control with other dropout
            torch.manual_seed(99 + rank)
        if cache:
            cached_backward(
                parts,
                lambda part, net=wrapped: (net(part[0]), net(part[1])),
                loss_of,
                backward=lambda loss: (loss * 1024).backward(),
                no_sync=wrapped.no_sync,
                loss_parameters=[model.scale],
            )
        else:
            encoded = [(wrapped(g), wrapped(a)) for g, a in parts]
            (loss_of(*(torch.cat(views) for views in zip(*encoded, strict=True))) * 1024).backward()
        found.append([gradient / 1024 for gradient in gradients(model)])
    torch.save(found, f"{results}-{rank}")


def test_cached_backward_two_processes_with_dropout_and_loss_scale(two_processes):
    for rank in range(2):
        expected, cached, control = torch.load(f"{two_processes}/dropout-{rank}", weights_only=True)
        for one, other in zip(expected, cached, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=0)
        assert max((a - b).abs().max().item() for a, b in zip(expected, control, strict=True)) > 1e-3


def test_cached_backward_without_parts_is_refused():
    with pytest.raises(ValueError, match="at least one micro-batch"):
        cached_backward([], lambda part: (), lambda: torch.zeros(()))


BACKBONES = {
    "dinov2": {"model_type": "dinov2", "mlp_ratio": 2, "hidden_dropout_prob": 0.3},
    "dinov2_with_registers": {"model_type": "dinov2_with_registers", "mlp_ratio": 2, "hidden_dropout_prob": 0.3},
    "dinov3_vit": {"model_type": "dinov3_vit", "intermediate_size": 64, "drop_path_rate": 0.3},
}


def partly_frozen(kind, blocks):
    common = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    sizes = {"num_clusters": 4, "cluster_dim": 4, "token_dim": 4, "head_hidden_dim": 16, "descriptor_dim": 16}
    torch.manual_seed(0)
    config = GenGeoConfig(backbone_config={**common, **BACKBONES[kind]}, trainable_blocks=blocks, **sizes)
    return GenGeoModel(config).train()


def encode_with(model):
    return lambda part: tuple(
        model(image, view=view).pooler_output for view, image in zip(("ground", "aerial"), part, strict=True)
    )


def info_nce_of(model):
    return lambda ground, aerial: symmetric_info_nce(ground, aerial, model.logit_scale, label_smoothing=0.1)


def images_of_both_sizes(size):
    generator = torch.Generator().manual_seed(1)
    ground = torch.randn(7, 3, 42, 70, generator=generator)
    return parts_of(ground, torch.randn(7, 3, 56, 56, generator=generator), size)


def trained_gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("blocks", [0, 1, 2, None])
def test_frozen_prefix_runs_once_with_same_gradient(kind, blocks):
    one, other = partly_frozen(kind, blocks), partly_frozen(kind, blocks)
    parts = images_of_both_sizes(3)  # 3 + 3 + 1 pairs
    torch.manual_seed(7)
    encoded = [encode_with(one)(part) for part in parts]
    info_nce_of(one)(*(torch.cat(views) for views in zip(*encoded, strict=True))).backward()
    runs = []
    other.backbone.embeddings.register_forward_hook(lambda *_: runs.append(1))
    stages = frozen_stages(other.backbone)
    seen = []
    for stage in stages[1:]:
        stage.register_forward_pre_hook(lambda module, _: seen.append(vars(module).get("forward") is None))
    torch.manual_seed(7)
    prefix = FrozenPrefix(stages)
    cached_backward(parts, encode_with(other), info_nce_of(other), prefix=prefix)
    expected, found = trained_gradients(one), trained_gradients(other)
    assert expected.keys() == found.keys()
    for name in expected:
        size = max([1.0, *expected[name].abs().flatten().tolist()])  # the toy head's gradients reach some hundreds
        torch.testing.assert_close(found[name] / size, expected[name] / size, atol=1e-5, rtol=0)
    assert len(stages) == (0 if blocks is None else 4 - blocks)
    # Of three parts with two views each, two parts are encoded twice, the second time with replaced stages.
    assert len(runs) == 10 and seen.count(True) == 6 * len(stages[1:]) and seen.count(False) == 4 * len(stages[1:])
    assert not any("forward" in vars(stage) for stage in stages)


class NoState:
    def __init__(self, device):
        pass

    def restore(self):
        pass


@pytest.mark.parametrize("kind", ["dinov2", "dinov3_vit"])  # DINOv3 draws its positions between two stages
def test_frozen_prefix_without_restored_random_state_differs(kind, monkeypatch):
    """Control of the test above: without the random states of the frozen blocks the gradients differ."""
    one, other = partly_frozen(kind, 1), partly_frozen(kind, 1)
    parts = images_of_both_sizes(3)
    torch.manual_seed(7)
    cached_backward(parts, encode_with(one), info_nce_of(one))
    prefix = FrozenPrefix(frozen_stages(other.backbone))
    replacements = prefix._replacements
    monkeypatch.setattr(prefix, "_replacements", lambda outputs, s: replacements(outputs, [NoState(0) for _ in s]))
    torch.manual_seed(7)
    cached_backward(parts, encode_with(other), info_nce_of(other), prefix=prefix)
    expected, found = trained_gradients(one), trained_gradients(other)
    assert max(((expected[name] - found[name]).abs().max()).item() for name in expected) > 1e-3


def test_frozen_prefix_error_in_second_pass_restores_model():
    model = partly_frozen("dinov2", 1)
    prefix = FrozenPrefix(frozen_stages(model.backbone))
    image = torch.zeros(1, 3, 56, 56)
    with torch.no_grad(), prefix.part(0):
        expected = model(image, view="aerial").pooler_output
    with pytest.raises(RuntimeError, match="stop"), prefix.part(0):
        raise RuntimeError("stop")
    model.eval()
    assert model(image, view="aerial").pooler_output.shape == expected.shape
    assert not any("forward" in vars(stage) for stage in prefix.stages)


def test_cached_backward_single_view_without_loss_parameters_equals_plain_step():
    one, other = Toy(dropout=0.0), Toy(dropout=0.0)
    photos, _ = images()

    def spread(descriptors):
        return (descriptors @ descriptors.T).exp().mean()

    expected = spread(one(photos))
    expected.backward()
    found = cached_backward([photos[:5], photos[5:10], photos[10:]], lambda part: (other(part),), spread)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6) and not found.requires_grad
    for name, parameter in other.layers.named_parameters():
        torch.testing.assert_close(parameter.grad, one.layers.get_parameter(name).grad, atol=1e-6, rtol=1e-5)


def test_replace_forward_restores_a_wrapped_forward():
    layer = torch.nn.Linear(2, 2)
    wrapped = layer.forward = lambda x: x + 1
    with module.replace_forward(layer, lambda x: x * 5):
        assert layer(torch.ones(1)).item() == 5
    assert layer.forward is wrapped
