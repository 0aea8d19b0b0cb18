"""Clusters, classes and figures: values against slow formulas, and contents of the pictures."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.explain import (
    attribute,
    cluster_histogram,
    cluster_map_figure,
    clusters_figure,
    explain_match,
    explain_preference,
    histogram_similarity,
    link_direction_error,
    match_figure,
    overlay,
    pairs_figure,
    parse_box,
    preference_figure,
    regions_figure,
    selection_figure,
    similarity_elsewhere,
    stretch,
    stretch_signed,
    top_patches,
)
from gengeo_hf.explain.classes import asymmetry, class_preference, class_shares
from gengeo_hf.explain.clusters import patches_in
from gengeo_hf.explain.draw import SERIES, Panel, Row, Scale, sheet
from tests.explain.test_attribution import sharpen


@pytest.fixture
def encoder(tiny_model, tiny_processor):
    sharpen(tiny_model)
    return Encoder(tiny_model, tiny_processor, device="cpu", batch_size=3)


def noise(seed, size):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8))


GROUND, AERIAL = noise(0, (28, 112)), noise(1, (56, 56))


def test_patches_in_box_count_by_share_inside():
    inside = patches_in((2, 4), (0.125, 0.0, 0.75, 0.5)).reshape(2, 4)
    np.testing.assert_allclose(inside, [[0.5, 1, 1, 0], [0, 0, 0, 0]], atol=1e-6)


def test_cluster_histogram_is_mean_plan_of_region(encoder):
    attribution = attribute(encoder, AERIAL, "aerial")
    plan = attribution.plan.reshape(-1, 4, 4)[:, 1:3, 0:2].mean(axis=(1, 2))
    np.testing.assert_allclose(cluster_histogram(attribution, (0, 0.25, 0.5, 0.75)), plan / plan.sum(), rtol=1e-5)
    assert cluster_histogram(attribution).sum() == pytest.approx(1, abs=1e-5)
    box = (0, 0.25, 0.5, 0.75)
    elsewhere = similarity_elsewhere(cluster_histogram(attribution, box), attribution, box)
    assert len(elsewhere) == 9 and elsewhere.max() == pytest.approx(1)
    assert histogram_similarity(np.array([1.0, 0]), np.array([0, 1.0])) == 0


@pytest.mark.parametrize("text", ["1,2,3", "0.5,0,0.2,1", "0,0,2,1", "a,b,c,d", "nan,0,1,1"])
def test_parse_box_of_wrong_text_raises(text):
    with pytest.raises(GenGeoError, match="box"):
        parse_box(text)


def test_top_patches_equal_those_of_slow_search(encoder):
    images = [noise(seed, (28, 112)) for seed in range(8)]
    chosen, plan = top_patches(encoder, iter(images), "ground", count=3)
    plans = [attribute(encoder, image, "ground").plan for image in images]
    np.testing.assert_allclose(plan, np.mean(plans, axis=0).reshape(-1, 2, 8), atol=1e-6)
    for cluster, patches in enumerate(chosen):
        slow = sorted(((p[cluster].max(), n) for n, p in enumerate(plans)), reverse=True)[:3]
        assert [patch.image_index for patch in patches] == [n for _, n in slow]
        row, column = patches[0].cell
        assert plans[slow[0][1]][cluster].reshape(2, 8)[row, column] == pytest.approx(slow[0][0], abs=1e-5)
        assert patches[0].picture.size == (96, 96)
    with pytest.raises(GenGeoError, match="no images"):
        top_patches(encoder, [], "ground")


def test_link_direction_error_is_angle_between_azimuths(encoder):
    match = explain_match(encoder, GROUND, AERIAL)
    links = np.zeros_like(match.links)
    links[4, 2] = 1.0  # azimuth 22.5 degrees in the panorama, 18.4 degrees in the upper row of the tile
    assert link_direction_error(type(match)(**{**match.__dict__, "links": links})) == pytest.approx(4.07, abs=0.01)
    links[4, 2], links[4, 14] = 0.0, 1.0  # the lower row of the tile, in the opposite direction
    assert link_direction_error(type(match)(**{**match.__dict__, "links": links})) == pytest.approx(
        180 - 40.93, abs=0.1
    )
    assert np.isnan(link_direction_error(type(match)(**{**match.__dict__, "links": -links})))


def test_class_shares_equal_counts():
    kinds = np.random.default_rng(0).integers(0, 3, (6, 8))
    shares = class_shares(kinds, (3, 2), 3)
    assert shares[3, 1] == pytest.approx(np.mean(kinds[2:4, 4:8] == 1))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    with pytest.raises(GenGeoError, match="cannot be divided"):
        class_shares(kinds, (4, 2), 3)


def test_class_preference_separates_class_from_position():
    make = np.random.default_rng(0)
    shares = [np.eye(3)[make.integers(0, 3, 12)] for _ in range(200)]
    by_class = class_preference([0.1 + 0.8 * s[:, 2] for s in shares], shares, resamples=50)
    assert by_class.preference[2] > 2 and by_class.low[2] > 2 and by_class.beyond_position[2] > 2
    assert by_class.preference[0] < 0.4 and by_class.position_share < 0.05
    kept = np.full(12, 0.1)
    kept[5] = 0.9
    by_position = class_preference([kept] * 200, shares, resamples=50)
    np.testing.assert_allclose(by_position.beyond_position, 1, atol=1e-9)
    assert by_position.position_share == pytest.approx(1)
    assert by_position.low[2] < 1 < by_position.high[2] or abs(by_position.preference[2] - 1) < 0.3
    distance, areas = asymmetry(by_class, by_position, left_out=[0])
    assert distance > 0.25 and areas == pytest.approx(0)


@pytest.mark.filterwarnings("error")
def test_class_preference_of_rare_class_has_interval_and_of_absent_class_nan():
    kinds = [np.zeros(12, int) for _ in range(9)]
    kinds[0][:6] = 1  # a third of the resamples do not contain this image
    shares = [np.eye(3)[row] for row in kinds]
    found = class_preference([0.2 + 0.1 * (row == 1) for row in kinds], shares, resamples=50)
    assert found.low[1] <= found.preference[1] <= found.high[1]
    assert np.isnan([found.low[2], found.preference[2], found.high[2]]).all()


def test_stretch_maps_values_to_0_to_1():
    values = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert stretch(values).min() == 0 and stretch(values).max() == 1
    assert stretch(np.ones((2, 2))).max() == 0
    signed = stretch_signed(np.array([[-1.0, 0.0], [0.5, 1.0]]))
    assert signed[0, 1] == 0.5 and signed[0, 0] < 0.02 and signed[1, 1] > 0.98
    assert stretch_signed(np.zeros((2, 2))).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_overlay_is_bright_where_values_are_high():
    grey = Image.new("RGB", (112, 28), (90, 90, 90))
    picture = np.asarray(overlay(grey, np.array([[0.0, 1.0]]), smooth=False)).astype(int)
    assert picture.shape[1] >= 392 and picture.shape[1] == 4 * picture.shape[0]
    left, right = picture[:, :180].mean(axis=(0, 1)), picture[:, -180:].mean(axis=(0, 1))
    assert right[1] > left[1] + 80 and left[2] > left[1]


def colours_of(picture):
    return np.array([colour for _, colour in picture.getcolors(1 << 24)], int)


def has_colour(picture, colour):
    """Whether a picture contains a colour, up to a difference that is not visible."""
    return np.abs(colours_of(picture) - ImageColor.getrgb(colour)).sum(axis=1).min() <= 6


def test_sheet_with_scale_draws_colour_scale():
    plain, scaled, signed = (sheet([Row([Panel(AERIAL)], 60)], scale=s) for s in (None, Scale(), Scale(signed=True)))
    assert scaled.height == signed.height > plain.height and scaled.width == plain.width
    assert has_colour(scaled, "#fde725") and has_colour(scaled, "#440154"), "yellow and violet, the ends of a map"
    assert has_colour(signed, "#c85410") and has_colour(signed, "#1b5fa0") and not has_colour(plain, "#440154")


def test_preference_figure_frames_have_colours_of_map_ends(encoder):
    preference = explain_preference(encoder, GROUND, AERIAL, noise(5, (56, 56)))
    picture = preference_figure(preference, ("one", "another"), side=120)
    assert has_colour(picture, SERIES[0]) and has_colour(picture, SERIES[1])


def test_every_figure_is_drawn_in_colour_at_readable_size(encoder):
    match = explain_match(encoder, GROUND, AERIAL)
    preference = explain_preference(encoder, GROUND, AERIAL, noise(5, (56, 56)))
    patches = [top_patches(encoder, [GROUND, GROUND], "ground", 2), top_patches(encoder, [AERIAL], "aerial", 2)]
    box = (0.0, 0.0, 0.5, 0.5)
    figures = {
        "selection": selection_figure(encoder, [(GROUND, AERIAL)] * 2, ["a", "b"], side=60),
        "match": match_figure(match, side=120),
        "no links": match_figure(match, count=0, side=120),
        "preference": preference_figure(preference, side=120),
        "regions": regions_figure(match.ground, box, match.aerial, box, side=120),
        "clusters": clusters_figure(patches[0][0], patches[1][0], (patches[0][1], patches[1][1])),
        "one image": cluster_map_figure(match.ground, side=60),
        "pairs": pairs_figure([(GROUND, AERIAL)], ["a pair"]),
    }
    for name, picture in figures.items():
        assert picture.mode == "RGB" and min(picture.size) > 150, name
        assert len(picture.getcolors(1 << 24)) > 50, name
