"""Attributions equal slow formulas, and their parts sum to the output of the model."""

import numpy as np
import pytest
import torch
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.explain import (
    attribute,
    attribute_many,
    explain_match,
    explain_preference,
    kept_map,
    match_attributions,
)
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from tests.conftest import TINY

CONVNEXT = {"model_type": "convnext", "hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "patch_size": 4}
REGISTERS = {**TINY["backbone_config"], "model_type": "dinov2_with_registers", "num_register_tokens": 2}


@pytest.fixture
def images():
    make = np.random.default_rng(0)
    sizes = {"ground": (28, 112), "aerial": (56, 56)}
    return {view: Image.fromarray(make.integers(0, 255, (*size, 3), np.uint8)) for view, size in sizes.items()}


@pytest.fixture
def encoder(tiny_model, tiny_processor):
    sharpen(tiny_model)
    return Encoder(tiny_model, tiny_processor, device="cpu")


def sharpen(model):
    """Scale the weights: random weights give a nearly uniform plan, which would hide errors."""
    for head in model.heads.values():
        with torch.no_grad():
            head.aggregator.score[3].weight.mul_(2.3)  # to a standard deviation of 0.4
            if head.projection is not None:
                head.projection.bias.normal_(std=0.05)


def variant(tiny_processor, **changes):
    torch.manual_seed(1)
    model = GenGeoModel(GenGeoConfig(**{**TINY, **changes})).eval()
    if model.config.aggregator == "salad":
        sharpen(model)
    return Encoder(model, tiny_processor, device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_dustbin": False},
        {"share_aggregator": False},
        {"descriptor_dim": None},
        {"truncate_dim": 10},
        {"dustbin_mass": "learned"},
        {"head_dropout": 0.0},
        {"backbone_config": CONVNEXT},
        {"backbone_config": REGISTERS},
    ],
    ids=lambda changes: "-".join(changes) or "paper",
)
def test_match_parts_sum_to_score(tiny_processor, images, changes):
    encoder = variant(tiny_processor, **changes)
    match = explain_match(encoder, images["ground"], images["aerial"])
    for view in ("ground", "aerial"):
        found = getattr(match, view)
        expected = encoder.encode([images[view]], view)[0]
        np.testing.assert_allclose(found.descriptor, expected, atol=1e-6)
        np.testing.assert_allclose(found.parts.sum(0) + found.rest, expected, atol=2e-6)
        np.testing.assert_allclose(np.linalg.norm(found.clusters, axis=1), 1, atol=1e-5)
    assert match.score == pytest.approx(float(match.ground.descriptor @ match.aerial.descriptor))
    assert match.ground_evidence.sum() + match.ground_rest == pytest.approx(match.score, abs=1e-5)
    assert match.aerial_evidence.sum() + match.aerial_rest == pytest.approx(match.score, abs=1e-5)
    rest_terms = match.ground.parts.sum(0) @ match.aerial.rest + match.ground.rest @ match.aerial.descriptor
    assert match.links.sum() + rest_terms == pytest.approx(match.score, abs=1e-5)


def test_links_without_projection_equal_sum_over_clusters(tiny_processor, images):
    """Before the projection, a pair of patches adds sum_j P_ji P_jk h_i.h_k / (|V_j| |V'_j|) / (m + 1)."""
    match = explain_match(variant(tiny_processor, descriptor_dim=None), images["ground"], images["aerial"])
    ground, aerial, clusters = match.ground, match.aerial, len(match.cluster_agreement)
    for i, k in [(0, 0), (3, 7), (15, 2)]:
        slow = 0.0
        for j in range(clusters):
            lengths = [
                np.linalg.norm(sum(x.plan[j, t] * x.features[t] for t in range(len(x.norms)))) for x in (ground, aerial)
            ]
            slow += ground.plan[j, i] * aerial.plan[j, k] * (ground.features[i] @ aerial.features[k]) / np.prod(lengths)
        assert match.links[i, k] == pytest.approx(slow / (clusters + 1), abs=1e-6)
    assert match.links.sum() == pytest.approx(match.cluster_agreement.sum() / (clusters + 1), abs=1e-5)


def test_norms_are_those_before_final_layernorm(encoder, images):
    found = attribute(encoder, images["ground"], "ground")
    pixels = encoder.processor([images["ground"]], view="ground", return_tensors="pt")["pixel_values"]
    features = []
    hook = encoder.model.backbone.layernorm.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        encoder.model(pixels, view="ground")
    hook.remove()
    np.testing.assert_allclose(found.norms, features[0][0, 1:].norm(dim=1).numpy(), rtol=1e-5)
    assert found.on_grid(found.norms).shape == (2, 8)


def test_attribute_applies_exif_orientation_as_encoder(encoder, images, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    images["aerial"].save(tmp_path / "photo.png", exif=exif)
    for photo in (tmp_path / "photo.png", Image.open(tmp_path / "photo.png")):
        found = attribute(encoder, photo, "aerial")
        np.testing.assert_allclose(found.descriptor, encoder.encode([photo], "aerial")[0], atol=1e-6)
        assert found.image.tobytes() == images["aerial"].transpose(Image.Transpose.ROTATE_270).tobytes()


def test_attribute_many_equals_attribute_of_single_images(encoder, images):
    other = images["ground"].transpose(Image.Transpose.ROTATE_180)
    together = attribute_many(encoder, [images["ground"], other], "ground")
    for found, image in zip(together, (images["ground"], other), strict=True):
        np.testing.assert_allclose(found.plan, attribute(encoder, image, "ground").plan, atol=1e-5)


def test_kept_map_mean_is_clusters_over_patches(encoder, images):
    kept = kept_map(encoder, images["aerial"], "aerial")
    assert kept.shape == (4, 4) and kept.min() >= 0 and kept.max() <= 1
    assert kept.mean() == pytest.approx(4 / 16, abs=0.03)


def test_preference_difference_sums_to_gap(encoder, images):
    other = images["aerial"].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    found = explain_preference(encoder, images["ground"], images["aerial"], other)
    assert found.ground_difference.sum() + found.rest_difference == pytest.approx(found.gap, abs=1e-5)
    turned = explain_preference(encoder, images["ground"], other, images["aerial"])
    assert turned.gap == pytest.approx(-found.gap)
    with pytest.raises(GenGeoError, match="same descriptor"):
        explain_preference(encoder, images["ground"], other, other)


def test_strongest_links_are_largest_and_not_adjacent(encoder, images):
    match = explain_match(encoder, images["ground"], images["aerial"])
    chosen = match.strongest(3)
    assert match.strongest(0) == []
    assert chosen[0][2] == pytest.approx(match.links.max())
    cells = [divmod(patch, 8) for patch, *_ in chosen]
    assert all(max(abs(a - c), abs(b - d)) > 1 for n, (a, b) in enumerate(cells) for c, d in cells[:n])
    assert match_attributions(match.ground, match.aerial).score == match.score


@pytest.mark.parametrize("name", ["mean", "netvlad", "cls"])
def test_attribute_of_other_head_raises(tiny_processor, images, name):
    with pytest.raises(GenGeoError, match=f"{name} head"):
        attribute(variant(tiny_processor, aggregator=name), images["ground"], "ground")


def test_kept_map_without_dustbin_raises(tiny_processor, images):
    with pytest.raises(GenGeoError, match="keeps every patch"):
        kept_map(variant(tiny_processor, use_dustbin=False), images["ground"], "ground")
