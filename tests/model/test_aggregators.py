"""Aggregators compared with their equations, and every kind of model by its configuration."""

import numpy as np
import pytest
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.model.aggregation import token_mlp
from gengeo_hf.model.aggregators import AGGREGATORS, register_aggregator
from gengeo_hf.training.initialization import start_netvlad
from tests.conftest import TINY


def aggregate(name, **changes):
    torch.manual_seed(0)
    config = GenGeoConfig(**{**TINY, "aggregator": name, **changes})
    module = AGGREGATORS[name](config, 32).eval()
    x, t = torch.randn(2, 30, 32), torch.randn(2, 32)
    return module, x, t, module(x, t)[0].detach().numpy()


def unit(x, axis=-1):
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


def test_mean_and_cls_equal_normalised_tokens():
    _, x, _, result = aggregate("mean")
    assert np.allclose(result, unit(x.numpy().mean(1)), atol=1e-6)
    _, _, t, result = aggregate("cls")
    assert np.allclose(result, unit(t.numpy()), atol=1e-6)


def test_gem_clamps_negative_values():
    module, x, _, result = aggregate("gem")
    assert module.exponent.item() == 3
    expected = (np.maximum(x.double().numpy(), 1e-6) ** 3).mean(1) ** (1 / 3)
    assert np.allclose(result, unit(expected), atol=1e-6)


@pytest.mark.parametrize("cluster_dim", [8, None])
def test_netvlad_equals_equation(cluster_dim):
    module, x, _, result = aggregate("netvlad", cluster_dim=cluster_dim)
    features = unit(module.cluster_features(x).detach().double().numpy())
    centroids, weights = (
        parameter.detach().double().numpy() for parameter in (module.centroids, module.assignment.weight)
    )
    for image, found in zip(features, result, strict=True):
        vlad = np.zeros_like(centroids)
        for vector in image:
            soft = np.exp(weights @ vector)
            for k, share in enumerate(soft / soft.sum()):
                vlad[k] += share * (vector - centroids[k])
        assert np.allclose(found, unit(unit(vlad).ravel()), atol=1e-5)
    assert result.shape[1] == 4 * (cluster_dim or 32)


def test_start_netvlad_initialises_from_clusters_of_data():
    model = GenGeoModel(GenGeoConfig(**{**TINY, "aggregator": "netvlad", "cluster_dim": None}))
    model.train()
    batches = [torch.randn(4, 3, 56, 56) for _ in range(4)]
    alpha = start_netvlad(model, batches, seed=3)
    assert model.training
    head = model.heads["shared"].aggregator
    with torch.no_grad():
        tokens = torch.cat([model.eval().backbone(b).last_hidden_state[:, 1:] for b in batches]).flatten(0, 1)
    features = torch.nn.functional.normalize(tokens, dim=1)
    nearest = torch.cdist(features, head.centroids).argmin(1)
    for k in range(4):  # k-means: each centroid is the mean of its features
        assert torch.allclose(features[nearest == k].mean(0), head.centroids[k], atol=0.02)
    directions = torch.nn.functional.normalize(head.centroids, dim=1)
    assert torch.allclose(head.assignment.weight, alpha * directions, rtol=1e-4)
    best = (features @ directions.T).topk(2, 1).values
    assert alpha * (best[:, 0] - best[:, 1]).mean().item() == pytest.approx(np.log(100), rel=1e-3)
    with pytest.raises(GenGeoError, match="only netvlad"):
        start_netvlad(GenGeoModel(GenGeoConfig(**TINY)), batches)


DINO = TINY["backbone_config"]
CONVNEXT = {"model_type": "convnext", "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 32], "layer_norm_eps": 1e-6}
KINDS = {
    "salad": {},
    "not shared": {"share_aggregator": False},
    "no dustbin": {"use_dustbin": False},
    "learned dustbin": {"dustbin_mass": "learned"},
    "unprojected": {"descriptor_dim": None},
    "netvlad": {"aggregator": "netvlad"},
    "netvlad full width": {"aggregator": "netvlad", "cluster_dim": None},
    "gem": {"aggregator": "gem"},
    "mean": {"aggregator": "mean"},
    "cls": {"aggregator": "cls", "descriptor_dim": None},
    "registers": {"backbone_config": {**DINO, "model_type": "dinov2_with_registers", "num_register_tokens": 4}},
    "swiglu": {"backbone_config": {**DINO, "use_swiglu_ffn": True}},
    "dinov3": {
        "backbone_config": {
            "model_type": "dinov3_vit",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_register_tokens": 4,
            "pos_embed_rescale": None,
        }
    },
    "convnext": {"backbone_config": CONVNEXT, "aggregator": "cls", "descriptor_dim": None},
    "convnext salad": {"backbone_config": CONVNEXT},
}


def build(kind, **changes):
    torch.manual_seed(0)
    return GenGeoModel(GenGeoConfig(**{**TINY, **KINDS[kind], **changes})).eval()


def sides(model):
    """Return a landscape and a portrait size that fit the patch size of the model."""
    patch = 32 if model.config.backbone_config.model_type == "convnext" else model.config.backbone_config.patch_size
    return (3, 2 * patch, 4 * patch), (3, 4 * patch, 3 * patch)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_encodes_saves_loads_and_trains(kind, tmp_path):
    model = build(kind)
    ground, aerial = (torch.randn(3, *shape) for shape in sides(model))
    output = model(ground, aerial_pixel_values=aerial, output_assignment=True)
    assert output.pooler_output.shape == output.aerial_pooler_output.shape
    assert torch.allclose(output.pooler_output.norm(dim=1), torch.ones(3), atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded, report = GenGeoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(loaded(aerial, view="aerial").pooler_output, output.aerial_pooler_output)
    alone = loaded(ground[1:2], view="ground").pooler_output
    assert torch.allclose(alone, output.pooler_output[1:2], atol=1e-5)

    output.loss.backward()
    named = dict(model.named_parameters())
    without = {name for name, parameter in named.items() if parameter.requires_grad and parameter.grad is None}
    # Aggregators that do not use the global token, or use only it, leave some weights of the backbone unused.
    assert not {name for name in without if not name.startswith("backbone.")}, without


def test_separate_heads_require_view():
    model = build("not shared")
    pixels = torch.randn(1, 3, 28, 112)
    with pytest.raises(ValueError, match="pass view="):
        model(pixels)
    with pytest.raises(ValueError, match="expected"):
        build("salad")(pixels, view="satellite")
    ground, aerial = (model(pixels, view=view).pooler_output for view in ("ground", "aerial"))
    assert not torch.allclose(ground, aerial, atol=1e-3)
    shared = build("salad")
    assert torch.equal(shared(pixels, view="ground").pooler_output, shared(pixels, view="aerial").pooler_output)


def test_cls_of_convnext_is_normalised_average():
    model = build("convnext")
    pixels = torch.randn(2, 3, 64, 128)
    average = model.backbone(pixels).last_hidden_state.mean((2, 3))
    expected = torch.nn.functional.normalize(model.backbone.layernorm(average), dim=1)
    assert torch.allclose(model(pixels).pooler_output, expected, atol=1e-6)


def test_truncate_dim_is_renormalised_prefix(tiny_model, tiny_checkpoint):
    pixels = torch.randn(2, 3, 28, 112)
    short = GenGeoModel.from_pretrained(tiny_checkpoint, truncate_dim=6)(pixels).pooler_output
    prefix = tiny_model(pixels).pooler_output[:, :6]
    assert torch.allclose(short, torch.nn.functional.normalize(prefix, dim=1), atol=1e-6)
    with pytest.raises(ValueError, match="truncate_dim 25"):
        GenGeoConfig(**TINY, truncate_dim=25)
    for setting in ({"truncate_dim": 41}, {"matryoshka_dims": [8, 41]}):  # 8 + 4 x 8 values without a projection
        with pytest.raises(ValueError, match="must not be above 40"):
            build("unprojected", **setting)


def test_loss_ignores_widths_above_truncate_dim():
    model = build("salad", matryoshka_dims=[4, 12], truncate_dim=8)
    output = model(torch.randn(3, 3, 28, 112), aerial_pixel_values=torch.randn(3, 3, 56, 56))
    ground, aerial = (x.detach().double().numpy() for x in (output.pooler_output, output.aerial_pooler_output))
    parts = [slow_pair_loss(unit(ground[:, :d]), unit(aerial[:, :d]), 1 / 0.07, 0.1) for d in (4, 8)]
    assert output.loss.item() == pytest.approx(np.mean(parts), rel=1e-5)


def slow_pair_loss(ground, aerial, scale, smoothing):
    total = 0
    for queries, gallery in ((ground, aerial), (aerial, ground)):
        for i, query in enumerate(queries):
            logits = scale * (gallery @ query)
            logs = logits - np.log(np.exp(logits).sum())
            total += -(1 - smoothing) * logs[i] - smoothing * logs.mean()
    return total / (2 * len(ground))


@pytest.mark.parametrize("dims", [None, [4, 12]])
def test_loss_of_both_views_is_mean_over_prefix_widths(dims):
    model = build("salad", matryoshka_dims=dims)
    output = model(torch.randn(3, 3, 28, 112), aerial_pixel_values=torch.randn(3, 3, 56, 56))
    ground, aerial = (x.detach().double().numpy() for x in (output.pooler_output, output.aerial_pooler_output))
    parts = [slow_pair_loss(unit(ground[:, :d]), unit(aerial[:, :d]), 1 / 0.07, 0.1) for d in (*(dims or ()), 24)]
    assert output.loss.item() == pytest.approx(np.mean(parts), rel=1e-5)
    assert output[0] is output.loss
    with torch.autocast("cpu", dtype=torch.bfloat16):  # descriptors are rounded, the loss is float32
        output = model(torch.randn(3, 3, 28, 112), aerial_pixel_values=torch.randn(3, 3, 56, 56))
    ground, aerial = (x.detach().double().numpy() for x in (output.pooler_output, output.aerial_pooler_output))
    parts = [slow_pair_loss(unit(ground[:, :d]), unit(aerial[:, :d]), 1 / 0.07, 0.1) for d in (*(dims or ()), 24)]
    assert output.loss.item() == pytest.approx(np.mean(parts), rel=1e-5)
    with pytest.raises(ValueError, match="3 ground and 2 aerial"):
        model(torch.randn(3, 3, 28, 112), aerial_pixel_values=torch.randn(2, 3, 56, 56))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_token_mlp_drops_hidden_values_in_training_with_a_probability(dropout):
    """The outputs of one hidden value: the bias for a dropped value, and larger ones for others."""
    torch.manual_seed(0)
    mlp = token_mlp(1, 1, 1, dropout)
    for parameter in mlp.parameters():
        torch.nn.init.ones_(parameter)
    tokens = torch.ones(20_000, 1)
    assert (mlp.eval()(tokens) == 3).all()
    found = mlp.train()(tokens)
    assert (found == 1).float().mean().item() == pytest.approx(dropout, abs=0.02)
    torch.testing.assert_close(found[found > 1], torch.full_like(found[found > 1], 1 + 2 / (1 - dropout)))


def test_salad_drops_hidden_values_only_in_training():
    torch.manual_seed(0)
    model, pixels = build("salad"), torch.randn(2, 3, 28, 112)
    assert torch.equal(model(pixels).pooler_output, model(pixels).pooler_output)
    model.train()
    assert not torch.allclose(model(pixels).pooler_output, model(pixels).pooler_output, atol=1e-4)


def test_netvlad_centroids_are_initialised_with_norm_of_about_one():
    model = build("netvlad", num_clusters=16, cluster_dim=200)
    norms = model.heads["shared"].aggregator.centroids.norm(dim=1)
    assert norms.min() > 0.8 and norms.max() < 1.2


def test_only_layout_needs_token_counts_and_has_a_layout():
    assert {name for name, kind in AGGREGATORS.items() if kind.has_layout} == {"layout"}
    assert {name for name, kind in AGGREGATORS.items() if kind.needs_token_counts} == {"layout"}


def test_register_aggregator_accepts_the_same_class_again_and_refuses_another(monkeypatch):
    monkeypatch.setitem(AGGREGATORS, "mine", AGGREGATORS["mean"])
    with pytest.raises(ValueError, match="'mine' exists: choose another name"):
        register_aggregator("mine")(AGGREGATORS["gem"])
    assert register_aggregator("mine")(AGGREGATORS["mean"]) is AGGREGATORS["mean"]
    monkeypatch.delitem(AGGREGATORS, "mine")
    register_aggregator("mine")(AGGREGATORS["gem"])
    assert AGGREGATORS["mine"] is AGGREGATORS["gem"]
