"""The configuration: documented defaults, and values at and beyond the limits of each field."""

import warnings

import pytest
from transformers import AutoConfig

from gengeo_hf.model import GenGeoConfig
from tests.conftest import TINY
from tests.model.test_rivals import DEIT

DINO = TINY["backbone_config"]
DINOV3 = {"model_type": "dinov3_vit", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
REGISTERS = {**DINO, "model_type": "dinov2_with_registers"}
CONVNEXT = {"backbone_config": {"model_type": "convnext"}, "trainable_blocks": None}


def test_config_defaults_are_those_of_the_paper():
    config = GenGeoConfig()
    assert (config.num_clusters, config.cluster_dim, config.token_dim, config.descriptor_dim) == (64, 128, 256, 1024)
    assert (config.head_hidden_dim, config.head_dropout, config.sinkhorn_iterations) == (512, 0.3, 3)
    assert (config.trainable_blocks, config.label_smoothing) == (4, 0.1)
    assert config.use_dustbin and config.share_aggregator and config.share_backbone
    assert config.logit_scale_init_value == pytest.approx(2.6593, abs=1e-4)  # ln(1 / 0.07)
    assert (config.layout_layers, config.layout_heads) == (2, 4)
    assert config.backbone_config.model_type == "dinov2" and config.backbone_config.image_size == 518


ONES = ("num_clusters", "cluster_dim", "token_dim", "head_hidden_dim", "sinkhorn_iterations")


@pytest.mark.parametrize(
    "changes",
    [
        {**dict.fromkeys((*ONES, "descriptor_dim", "truncate_dim"), 1), "matryoshka_dims": [1]},
        {"matryoshka_dims": [1, 24], "truncate_dim": 24},
        {"descriptor_dim": None, "matryoshka_dims": [500]},
        {"ground_vertical_fov": 0.5},
        {"ground_vertical_fov": 180},
        {"aerial_keep": 1, "guide_size": [1, 28]},
        {"aerial_keep": 0.5, "backbone_config": REGISTERS},
        {"aerial_keep": 0.5, "backbone_config": DEIT, "aggregator": "cls"},
        {"aggregator": "layout", "layout_layers": 1, "layout_heads": 1},
        {"backbone_config": {**DINO, "patch_size": 1, "image_size": 1}},
        {"head_dropout": 0, "label_smoothing": 0},
        {"position_init_std": 0.5, "initializer_range": 0.5},
        {"position_init_std": 0.5, "backbone_config": REGISTERS},
        {"position_init_std": 0.5, "backbone_config": DEIT, "aggregator": "cls"},
        {"trainable_blocks": 0},
        {**CONVNEXT, "trainable_blocks": 0},
        {"cluster_dim": None, "aggregator": "netvlad"},
        {"dustbin_mass": "learned"},
    ],
)
def test_config_values_at_limits_are_accepted(changes):
    config = GenGeoConfig(**{**TINY, **changes})
    assert all(getattr(config, name) == value for name, value in changes.items() if name != "backbone_config")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: 0}, f"{name} is 0: it must be at least 1") for name in (*ONES, "descriptor_dim", "truncate_dim")),
        ({"cluster_dim": None}, "cluster_dim is null"),
        ({"matryoshka_dims": [0, 4]}, r"matryoshka_dims \[0, 4\] must lie between 1 and"),
        ({"matryoshka_dims": [4, 25]}, r"matryoshka_dims \[4, 25\] must lie between 1 and"),
        ({"ground_vertical_fov": 0}, "ground_vertical_fov is 0"),
        ({"ground_vertical_fov": 180.5}, "ground_vertical_fov is 180.5"),
        ({"aerial_keep": 1.5}, "aerial_keep is 1.5"),
        ({"aerial_keep": 0.5, "backbone_config": DINOV3}, "aerial_keep needs a backbone of blocks with learned pos"),
        ({"aerial_keep": 0.5, **CONVNEXT}, "aerial_keep needs a backbone of blocks with learned positions"),
        ({"guide_size": [0, 28]}, r"guide_size is \[0, 28\]"),
        ({"layout_layers": 0}, "layout_layers and layout_heads must be at least 1"),
        ({"layout_heads": 0}, "layout_layers and layout_heads must be at least 1"),
        ({"backbone_config": {**DINO, "patch_size": 0}}, "backbone_config.patch_size is 0"),
        ({"head_dropout": 1}, "head_dropout is 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5"),
        ({"initializer_range": 0.0}, "initializer_range is 0.0"),
        ({"initializer_range": float("inf")}, "initializer_range is inf"),
        ({"trainable_blocks": -1}, "trainable_blocks is -1"),
        ({**CONVNEXT, "trainable_blocks": 1}, "a convnext has no transformer blocks"),
        ({"position_init_std": 0.5, "backbone_config": DINOV3}, "a dinov3_vit has no learned position embeddings"),
        ({"position_init_std": 0.5, **CONVNEXT}, "a convnext has no learned position embeddings"),
        ({"dustbin_mass": "learned", "aggregator": "gem"}, 'dustbin_mass is "learned"'),
        ({"dustbin_mass": "learned", "use_dustbin": False}, 'dustbin_mass is "learned"'),
    ],
)
def test_config_values_beyond_limits_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GenGeoConfig(**{**TINY, **changes})


@pytest.mark.parametrize(
    ("backbone", "aggregator", "blocks"),
    [(DINO, "salad", 4), (DEIT, "cls", 4), ({"model_type": "convnext"}, "salad", None)],
)
def test_config_of_a_backbone_checkpoint_has_a_head_that_fits(tmp_path, backbone, aggregator, blocks):
    AutoConfig.for_model(**backbone).save_pretrained(tmp_path)
    config = GenGeoConfig.from_pretrained(tmp_path)
    assert config.backbone_config.model_type == backbone["model_type"]
    assert (config.aggregator, config.trainable_blocks) == (aggregator, blocks)


def test_config_warns_only_of_unknown_public_names_where_it_is_created(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GenGeoConfig(**TINY, _private=1).save_pretrained(tmp_path)
        assert GenGeoConfig.from_pretrained(tmp_path).num_clusters == 4
    with pytest.warns(UserWarning, match="does not know giraffe, zebra: stored, not used") as caught:
        assert GenGeoConfig(**TINY, zebra=1, giraffe=2).zebra == 1
    assert caught[0].filename == __file__
