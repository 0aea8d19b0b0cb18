"""The model: bound of the loss scale, nested widths, views, selected tokens and number of tokens."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from tests.model.test_aggregators import build, slow_pair_loss, unit


def pairs_of(output):
    return [x.detach().double().numpy() for x in (output.pooler_output, output.aerial_pooler_output)]


def test_loss_scale_is_bounded_by_100():
    model = build("salad")
    model.logit_scale.data.fill_(6.0)  # exp(6) is 403
    output = model(torch.randn(3, 3, 28, 112), aerial_pixel_values=torch.randn(3, 3, 56, 56))
    assert output.loss.item() == pytest.approx(slow_pair_loss(*pairs_of(output), 100, 0.1), rel=1e-5)


def test_loss_counts_a_nested_width_equal_to_the_full_width():
    model = build("salad", matryoshka_dims=[4, 24])
    output = model(torch.randn(3, 3, 28, 112), aerial_pixel_values=torch.randn(3, 3, 56, 56))
    ground, aerial = pairs_of(output)
    parts = [slow_pair_loss(unit(ground[:, :d]), unit(aerial[:, :d]), 1 / 0.07, 0.1) for d in (4, 24, 24)]
    assert output.loss.item() == pytest.approx(np.mean(parts), rel=1e-5)


def test_forward_list_of_equal_views_is_one_view():
    model, pixels = build("not shared"), torch.randn(2, 3, 28, 112)
    expected = model(pixels, view="aerial").pooler_output
    for views in (["aerial", "aerial"], ["aerial"], ("aerial", "aerial")):
        assert torch.equal(model(pixels, view=views).pooler_output, expected)
    for views in (["aerial", "ground"], ["ground", "aerial"], []):
        with pytest.raises(ValueError, match="view is"):
            model(pixels, view=views)


@pytest.mark.parametrize(
    ("kind", "shape", "count"),
    [
        ("salad", (14, 70), 5),  # m + 1 tokens for 4 clusters and the dustbin
        ("no dustbin", (14, 14), 1),
        ("gem", (14, 14), 1),
        ("mean", (14, 14), 1),
    ],
)
def test_forward_smallest_image_is_encoded(kind, shape, count):
    output = build(kind)(torch.randn(2, 3, *shape), output_assignment=True)
    assert output.last_hidden_state.shape == (2, 1 + count, 32) and torch.isfinite(output.pooler_output).all()
    assert output.token_grid == (shape[0] // 14, shape[1] // 14)


@pytest.mark.parametrize("shape", [(28, 40), (30, 28)])
def test_forward_one_side_with_an_incomplete_patch_is_refused(shape):
    with pytest.raises(ValueError, match=f"{shape[0]} x {shape[1]} pixels .height x width.: both sides"):
        build("mean")(torch.randn(1, 3, *shape))


def test_output_of_aggregators_without_dustbin_has_no_rejected_share():
    for kind in ("mean", "netvlad", "no dustbin"):
        assert build(kind)(torch.randn(2, 3, 28, 28), output_assignment=True).rejected_share is None


def test_model_with_smallest_head_encodes():
    ones = dict.fromkeys(("num_clusters", "cluster_dim", "token_dim", "head_hidden_dim", "descriptor_dim"), 1)
    assert build("salad", **ones)(torch.randn(2, 3, 28, 28)).pooler_output.shape == (2, 1)
    whole = build("unprojected", truncate_dim=40)  # 8 + 4 x 8 values, all of which are kept
    assert whole(torch.randn(2, 3, 28, 56)).pooler_output.shape == (2, 40)


def test_aerial_keep_requires_view_and_resizes_the_image_of_the_guide():
    model = build("mean", aerial_keep=0.25, guide_size=[28, 42])
    pixels, seen = torch.rand(1, 3, 112, 126), []
    with pytest.raises(ValueError, match="this model selects aerial tokens: pass view"):
        model(pixels)
    model.guide.embeddings.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.guide.train()
    assert model.chosen_tokens(pixels).shape == (1, 18) and model.guide.training
    bands = [Image.fromarray(band.numpy()).resize((42, 28), Image.Resampling.BILINEAR) for band in pixels[0]]
    np.testing.assert_allclose(seen[0][0], np.stack([np.array(band) for band in bands]), atol=1e-4)
    tokens = {view: model(pixels, view=view).last_hidden_state.shape for view in ("ground", "aerial")}
    assert tokens == {"ground": (1, 1 + 72, 32), "aerial": (1, 1 + 18, 32)}


def test_truncated_descriptor_is_a_normalised_prefix_of_the_projection():
    model = build("mean", truncate_dim=3)
    output = model(torch.randn(2, 3, 28, 28), output_assignment=True)
    projected = model.heads["shared"].projection(output.unprojected)
    torch.testing.assert_close(output.pooler_output, normalize(projected[:, :3], dim=1))
    assert output.assignment is None
