"""Backbones: position grids, sizes of the published models, and trained weights."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Dinov2Model

from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.model.backbones import BACKBONES, BackboneFamily, family_of, register_backbone
from tests.conftest import TINY
from tests.model.test_aggregators import CONVNEXT, KINDS, build
from tests.model.test_rivals import DEIT


def cubic_weights(length_in, length_out, scale):
    """Return bicubic weights (a = -0.75, half-pixel centres, repeated borders), one row per output position."""
    matrix = np.zeros((length_out, length_in))
    for i in range(length_out):
        centre = (i + 0.5) / scale - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            d = abs(centre - tap)
            weight = 1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
            matrix[i, min(max(tap, 0), length_in - 1)] += weight
    return matrix


@pytest.mark.parametrize("mode", ["hub", "size"])
@pytest.mark.parametrize("grid", [(2, 8), (7, 3), (4, 4), (5, 8), (2, 5)])
def test_position_grid_is_resized_by_position_interpolation(mode, grid):
    model = build("salad", position_interpolation=mode, position_init_std=1.0)
    embeddings = model.backbone.embeddings
    rows, columns = grid
    found = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + rows * columns, 32), rows * 14, columns * 14)
    positions = embeddings.position_embeddings.detach().double().numpy()[0]
    offset = 0.1 if mode == "hub" else 0.0
    down, across = (cubic_weights(5, new, (new + offset) / 5) for new in grid)
    expected = np.einsum("ra,cb,abd->rcd", down, across, positions[1:].reshape(5, 5, -1)).reshape(rows * columns, -1)
    assert np.abs(found.detach().numpy()[0, 1:] - expected).max() < 1e-5
    assert np.allclose(found.detach().numpy()[0, 0], positions[0])


def test_position_grid_of_native_size_is_unchanged():
    embeddings = build("salad").backbone.embeddings
    found = embeddings.interpolate_pos_encoding(torch.zeros(1, 26, 32), 70, 70)
    assert torch.equal(found, embeddings.position_embeddings)


def test_position_interpolation_size_equals_transformers_and_hub_differs():
    pixels = torch.randn(1, 3, 28, 112)
    size = build("salad", position_interpolation="size", position_init_std=1.0)
    hub = build("salad", position_interpolation="hub")
    hub.load_state_dict(size.state_dict())
    stock = Dinov2Model(size.config.backbone_config).eval()
    stock.load_state_dict(size.backbone.state_dict())
    expected = stock(pixels).last_hidden_state
    assert torch.equal(size(pixels).last_hidden_state, expected)
    gap = (hub(pixels).last_hidden_state - expected).abs().max()
    assert 1e-3 < gap < 1


# Parameters of the backbones as published, mask token included (DINOv2 card and timm for ConvNeXt-B).
SIZES = {
    "small": ({"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}, 22_056_960),
    "base": ({}, 86_580_480),
    "large": ({"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}, 304_368_640 + 1024),
    "giant": (
        {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
        1_136_480_768,
    ),
    "convnext": (
        {"model_type": "convnext", "depths": [3, 3, 27, 3], "hidden_sizes": [128, 256, 512, 1024]},
        87_566_464,
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_backbone_has_published_number_of_parameters(name):
    settings, expected = SIZES[name]
    blocks = None if name == "convnext" else 4
    backbone = {"image_size": 518, **settings}
    with torch.device("meta"):
        model = GenGeoModel(GenGeoConfig(backbone_config=backbone, trainable_blocks=blocks))
    assert model.backbone.num_parameters() == pytest.approx(expected, rel=2e-4)
    if name in ("base", "convnext"):
        assert model.backbone.num_parameters() == expected


def test_default_model_has_sizes_of_paper():
    with torch.device("meta"):
        model = GenGeoModel(GenGeoConfig())
    head = model.heads["shared"]
    assert head.aggregator.num_clusters == 64 and head.aggregator.width_out == 8448
    assert sum(p.numel() for p in head.aggregator.parameters()) == 1_411_009
    assert sum(p.numel() for p in head.projection.parameters()) == 8_651_776
    assert sum(p.numel() for p in model.backbone.parameters() if p.requires_grad) == 28_359_168
    output = model(torch.zeros(2, 3, 154, 770, device="meta"), output_assignment=True)
    assert output.token_grid == (11, 55) and output.assignment.shape == (2, 65, 605)
    assert model(torch.zeros(2, 3, 392, 392, device="meta")).pooler_output.shape == (2, 1024)


@pytest.mark.parametrize("kind", ["registers", "dinov3"])
def test_trainable_blocks_of_other_backbones(kind):
    model = build(kind, trainable_blocks=1)
    names = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    assert names and all("layer.1." in name or "norm." in name.split("layer.")[0] for name in names)
    assert any(name.startswith(("layernorm", "norm")) for name in names)


def test_convnext_can_be_frozen_and_register_tokens_are_excluded():
    frozen = GenGeoModel(GenGeoConfig(**{**TINY, "backbone_config": CONVNEXT, "trainable_blocks": 0}))
    assert not any(parameter.requires_grad for parameter in frozen.backbone.parameters())
    model = build("registers", aggregator="mean", descriptor_dim=None)
    output = model(torch.randn(2, 3, 28, 28))
    expected = torch.nn.functional.normalize(output.last_hidden_state[:, 5:].mean(1), dim=1)
    assert torch.allclose(output.pooler_output, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["registers", "dinov3", "convnext salad", "swiglu"])
def test_from_pretrained_other_backbones_fill_backbone(kind, tmp_path):
    source = build(kind)
    source.backbone.save_pretrained(tmp_path)
    settings = {key: value for key, value in {**TINY, **KINDS[kind]}.items() if key != "backbone_config"}
    model, report = GenGeoModel.from_pretrained(tmp_path, output_loading_info=True, **settings)
    assert all(key.startswith(("heads.", "logit_scale")) for key in report["missing_keys"])
    assert not report["unexpected_keys"]
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, source.backbone.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["salad", "registers", "dinov3", "convnext salad"])
def test_patches_before_norm_give_the_patch_tokens_after_the_final_norm(kind):
    model = build(kind)
    backbone = model.backbone
    family = family_of(model.config.backbone_config)
    with torch.no_grad():
        output = family.run(backbone, torch.randn(2, 3, 64, 64), output_hidden_states=True)
        tokens, _ = family.read_tokens(backbone, output)
        before = family.patches_before_norm(backbone, output)
        assert torch.allclose(family.final_norm(backbone)(before), tokens, atol=1e-5)
    assert not torch.allclose(before, tokens, atol=1e-2)


@pytest.mark.parametrize("kind", ["dinov2", "registers", "deit"])
def test_smooth_positions_is_the_antialiasing_of_transformers(kind):
    changes = {"backbone_config": DEIT, "aggregator": "cls"} if kind == "deit" else {}
    name = "registers" if kind == "registers" else "salad"
    model = build(name, position_interpolation="size", position_init_std=1.0, **changes)
    family, embeddings = family_of(model.config.backbone_config), model.backbone.embeddings
    patch, others = (16, 2) if kind == "deit" else (14, 1)
    positions = embeddings.position_embeddings.detach()
    side = round((positions.shape[1] - others) ** 0.5)
    grid = positions[:, others:].reshape(1, side, side, 32).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        grid, (3, 2), mode="bicubic", align_corners=False, antialias=family.smooth_positions
    )
    found = embeddings.interpolate_pos_encoding(torch.zeros(1, others + 6, 32), 3 * patch, 2 * patch)
    torch.testing.assert_close(found[:, others:], expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone_config": DEIT, "aggregator": "cls"},
        {"backbone_config": CONVNEXT, "aggregator": "cls", "descriptor_dim": None},
    ],
)
def test_backbones_ignore_incomplete_patches_at_the_right_and_bottom(changes):
    model = build("salad", **changes)
    pixels = torch.randn(2, 3, 71, 105)
    output, whole = model(pixels, output_assignment=True), model(pixels[:, :, :64, :96])
    torch.testing.assert_close(output.pooler_output, whole.pooler_output)
    patch = 32 if changes["backbone_config"] is CONVNEXT else 16
    assert output.token_grid == (64 // patch, 96 // patch)
    assert family_of(model.config.backbone_config).patch_sides(model.config.backbone_config) == (patch, patch)


def test_deit_has_no_weights_that_are_never_used():
    model = build("salad", backbone_config=DEIT, aggregator="cls")
    model(torch.randn(2, 3, 64, 64)).pooler_output.sum().backward()
    unused = {name for name, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None}
    assert not unused


def test_patch_sides_of_oblong_patches_are_height_and_width():
    config = SimpleNamespace(patch_size=(8, 16))
    assert BackboneFamily().patch_sides(config) == (8, 16)


def test_register_backbone_accepts_the_same_class_again_and_refuses_another(monkeypatch):
    monkeypatch.setitem(BACKBONES, "mine", BackboneFamily())

    class Other(BackboneFamily):
        global_tokens = 3

    with pytest.raises(ValueError, match="model type 'mine' is registered already"):
        register_backbone("mine")(Other)
    assert register_backbone("mine")(BackboneFamily) is BackboneFamily
    monkeypatch.delitem(BACKBONES, "mine")
    register_backbone("mine")(Other)
    assert family_of(SimpleNamespace(model_type="mine")).global_tokens == 3
