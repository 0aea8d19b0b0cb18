"""A training step: weight decay, gradients of micro-batches, settings of the loss."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.learning import Pairs, symmetric_info_nce
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.training.objective import Objective
from gengeo_hf.training.settings import Settings
from gengeo_hf.training.step import (
    backward_pass,
    build_optimizer,
    cached_stages,
    check_finite,
    parameter_groups,
    seed_step,
    semi_positive_masks,
)
from tests.conftest import TINY
from tests.training.settings_with import settings_with

PAIRS = 6


def tiny(**changes):
    torch.manual_seed(0)
    return GenGeoModel(GenGeoConfig(**TINY | changes)).eval()  # without dropout


def photos():
    generator = torch.Generator().manual_seed(1)
    sizes = {"ground": (28, 112), "aerial": (56, 56)}
    batch = {view: torch.randint(0, 256, (PAIRS, 3, *size), generator=generator) for view, size in sizes.items()}
    return {view: pixels.to(torch.uint8) for view, pixels in batch.items()} | {"query_row": torch.arange(PAIRS)}


def gradients(model, processor, settings, pairs=None):
    """Return loss and gradients of one step."""
    pairs = pairs or Pairs(torch.arange(PAIRS).numpy())
    model.zero_grad()
    accelerator, objective = Accelerator(cpu=True), Objective(model, settings)
    loss = backward_pass(photos(), accelerator, model, model, processor, settings, pairs, objective)
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def descriptors(model, processor):
    """Return the unit descriptors of both views from a plain call of the model."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    batch = photos()
    return [
        model((batch[view].float() / 255 - mean) / std, view=view).pooler_output.detach()
        for view in ("ground", "aerial")
    ]


def cross_entropy(ground, aerial, scale, smoothing):
    """Compute the symmetric loss with 1 - e of the target on the true pair and e spread over all."""
    logits = math.exp(scale) * ground @ aerial.T
    target = (1 - smoothing) * torch.eye(len(logits)) + smoothing / len(logits)
    return -(target * (logits.log_softmax(1) + logits.log_softmax(0))).sum().item() / len(logits) / 2


def test_build_optimizer_decays_only_matrices():
    model = tiny(trainable_blocks=1)
    settings = Settings(output="unused")
    settings.optimisation.weight_decay = 0.5
    optimizer, around = build_optimizer(model, settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert around is None and 0 < len(trained) < len(before)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()  # with zero gradients only weight decay changes weights, by 0.1 * 0.5
    for name, parameter in model.named_parameters():
        decays = name in trained and parameter.ndim >= 2
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if decays else 1.0), msg=name)
        if decays:
            assert not name.endswith(("bias", "logit_scale")), name
    groups = parameter_groups(model, 0.5)
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(
        id(p) for p in model.parameters() if p.requires_grad
    )
    assert optimizer.param_groups[0]["betas"] == tuple(settings.optimisation.betas)


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_backward_pass_micro_batches_equal_whole_batch(tiny_processor, micro_batch):
    model = tiny()
    settings = Settings(output="unused")
    whole_loss, whole = gradients(model, tiny_processor, settings)
    settings.sampling.micro_batch = micro_batch
    loss, parts = gradients(model, tiny_processor, settings)
    assert loss == pytest.approx(whole_loss, rel=1e-5) and parts.keys() == whole.keys()
    assert whole["logit_scale"].abs() > 1e-4
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("micro_batch", [None, 6, 7])
def test_backward_pass_small_batch_is_not_split(tiny_processor, monkeypatch, micro_batch):
    monkeypatch.setattr("gengeo_hf.training.step.cached_backward", None)
    settings = Settings(output="unused")
    settings.sampling.micro_batch = micro_batch
    assert gradients(tiny(), tiny_processor, settings)[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_backward_pass_uses_label_smoothing_of_settings(tiny_processor, smoothing):
    model = tiny()
    settings = Settings(output="unused")
    assert settings.optimisation.label_smoothing == 0.1  # as Sample4Geo
    settings.optimisation.label_smoothing = smoothing
    loss, _ = gradients(model, tiny_processor, settings)
    expected = cross_entropy(*descriptors(model, tiny_processor), model.logit_scale.item(), smoothing)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_backward_pass_trains_matryoshka_widths(tiny_processor):
    settings = Settings(output="unused")
    settings.optimisation.label_smoothing = 0.0
    model = tiny(matryoshka_dims=[8, 16])
    loss, _ = gradients(model, tiny_processor, settings)
    views, scale = descriptors(model, tiny_processor), model.logit_scale.item()
    each = [cross_entropy(*(F.normalize(v[:, :width], dim=1) for v in views), scale, 0.0) for width in (8, 16, 24)]
    assert loss == pytest.approx(sum(each) / 3, rel=1e-4) and abs(loss - each[2]) > 1e-4
    settings.loss.pair = "soft_triplet"
    with pytest.raises(GenGeoError, match="matryoshka_dims needs"):
        Objective(model, settings)


def test_backward_pass_ignores_semi_positives(tiny_processor):
    """Tile 1 covers the position of photo 0: this entry of the matrix is ignored in both directions."""
    model, settings = tiny(), Settings(output="unused")
    settings.optimisation.label_smoothing = 0.0
    semi = torch.full((PAIRS, 1), -1).numpy()
    semi[0] = 1
    loss, _ = gradients(model, tiny_processor, settings, Pairs(torch.arange(PAIRS).numpy(), semi))
    ground, aerial = descriptors(model, tiny_processor)
    logits = model.logit_scale.exp() * ground @ aerial.T
    logits[0, 1] = -torch.inf
    rows, columns = (F.cross_entropy(x, torch.arange(PAIRS)) for x in (logits, logits.T))
    assert loss == pytest.approx((rows + columns).item() / 2, rel=1e-4)
    plain = symmetric_info_nce(ground, aerial, model.logit_scale).item()
    assert abs(loss - plain) > 1e-4


def test_cached_stages_follow_settings():
    settings, model = Settings(output="unused"), tiny(trainable_blocks=1)
    assert cached_stages(model, settings)
    settings.sampling.keep_frozen = False
    assert not cached_stages(model, settings)
    settings.sampling.keep_frozen, settings.optimisation.compile = True, "inductor"
    assert not cached_stages(model, settings)
    settings.optimisation.compile = None
    assert not cached_stages(tiny(trainable_blocks=1, share_backbone=False, share_aggregator=False), settings)


def test_check_finite_raises_with_advice():
    settings = Settings(output="unused")
    assert check_finite(torch.tensor(0.5), 3, settings) == 0.5
    for value in (math.inf, -math.inf, math.nan):
        with pytest.raises(GenGeoError, match=r"at step 7: lower optimisation\.learning_rate"):
            check_finite(torch.tensor(value), 7, settings)


def test_seed_step_uses_63_of_64_random_bits():
    """A run that another version resumes has the same dropout: the seeds must not change between versions."""
    for key in ((0, 0, 0), (7, 123_456, 3)):
        seed_step(*key)
        high, low = np.random.SeedSequence(list(key)).generate_state(2).tolist()
        assert torch.initial_seed() == (high * 2**32 + low) // 2


def test_backward_pass_keeps_frozen_outputs_of_micro_batches(tiny_processor):
    """Three micro-batches of two pairs: all but the last are encoded twice, the frozen block only once."""
    model, settings = tiny(trainable_blocks=1), Settings(output="unused")
    settings.sampling.micro_batch = 2
    runs = dict.fromkeys(("frozen", "trained"), 0)
    frozen, trained = model.backbone.encoder.layer

    def count(name):
        def hook(*_):
            runs[name] += 1

        return hook

    frozen.norm1.register_forward_hook(count("frozen"))  # inside the block, whose call is replaced
    trained.norm1.register_forward_hook(count("trained"))
    kept, expected = gradients(model, tiny_processor, settings)
    assert runs == {"frozen": 2 * 3, "trained": 2 * 5}
    settings.sampling.keep_frozen = False
    again, plain = gradients(model, tiny_processor, settings)
    assert runs == {"frozen": 2 * (3 + 5), "trained": 2 * (5 + 5)}
    assert kept == pytest.approx(again, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-7, msg=name)


def test_build_optimizer_step_equals_adamw_by_hand():
    """The first step of AdamW is the learning rate times the sign of the gradient; the second has both moments."""
    layer, settings = torch.nn.Linear(2, 1, bias=False), Settings(output="unused")
    settings.optimisation.betas, settings.optimisation.weight_decay = [0.5, 0.75], 0.0
    optimizer, _ = build_optimizer(layer, settings)
    layer.weight.data = torch.tensor([[1.0, -2.0]])
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for gradient in ([4.0, -3.0], [8.0, -3.0]):
        layer.weight.grad = torch.tensor([gradient])
        optimizer.step()
    # First weight, second step: m = (0.5 * 2 + 0.5 * 8) / 0.75, v = (0.75 * 4 + 0.25 * 64) / 0.4375
    second = 0.1 * (5 / 0.75) / math.sqrt(19 / 0.4375)
    torch.testing.assert_close(layer.weight.data, torch.tensor([[0.9 - second, -1.8]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("protocol", "masked"), [("gengeo", True), ("sample4geo", False)])
def test_semi_positive_masks_are_absent_with_published_rules(protocol, masked):
    settings = Settings(output="unused")
    settings.sampling.protocol = protocol
    pairs = Pairs(np.arange(3), np.array([[1], [-1], [-1]]))
    masks = semi_positive_masks({"query_row": torch.arange(3)}, Accelerator(cpu=True), settings, pairs)
    assert list(masks) == (["ignored"] if masked else [])


@pytest.mark.parametrize(
    ("kind", "name"), [("banned", "ignored"), ("ignored", "ignored"), ("positive", "positives"), ("negative", None)]
)
def test_semi_positive_masks_follow_setting(kind, name):
    pairs = Pairs(np.arange(4), np.array([[1], [-1], [3], [-1]]))
    settings = settings_with(sampling__semi_positives=kind)
    masks = semi_positive_masks({"query_row": torch.arange(4)}, Accelerator(cpu=True), settings, pairs)
    assert list(masks) == ([name] if name else [])
    if name:
        expected = torch.eye(4, dtype=torch.bool)
        expected[0, 1] = expected[2, 3] = True
        assert torch.equal(masks[name], expected)
    assert not semi_positive_masks({"query_row": torch.tensor([1, 3])}, Accelerator(cpu=True), settings, pairs)


def test_seed_step_differs_by_step_and_process_and_repeats():
    drawn = {}
    for key in ((0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)):
        seed_step(*key)
        drawn[key] = torch.rand(1).item()
        seed_step(*key)
        assert torch.rand(1).item() == drawn[key]
    assert len(set(drawn.values())) == 4
