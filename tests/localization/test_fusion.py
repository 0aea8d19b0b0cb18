"""Limits of the fused map, its peak against a slow formula, and the fit of its weights."""

import itertools
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from gengeo_hf.common.geo import great_circle_m, metres_per_degree, offset
from gengeo_hf.localization.fusion import FusionWeights, TilePosterior, fit_weights, fuse

LAT, LON = 60.0, 25.0


def tile(points, masses, *, lat=LAT, lon=LON, cosine=0.9, evidence=0.0):
    return TilePosterior(lat, lon, cosine, evidence, np.array(points, float), np.array(masses, float))


def metres(mode, lat=LAT, lon=LON):
    """East and north of a mode from a position."""
    per_lat, per_lon = metres_per_degree(lat)
    return ((mode.lon - lon + 180) % 360 - 180) * float(per_lon), (mode.lat - lat) * float(per_lat)


def test_fuse_averages_within_6_m_counts_within_8_m_and_measures_the_spread_within_40_m():
    # The peak is the centre of the cell from 0 to 3 m; the points lie exactly at these distances and just beyond.
    at = [(0.0, 0.0), (6.0, 0.0), (0.0, -6.5), (0.0, 8.0), (-8.5, 0.0), (0.0, 40.0), (-40.5, 0.0)]
    mass = np.array([0.4, 0.1, 0.05, 0.15, 0.04, 0.1, 0.06])
    points = np.array(at) + 1.5
    (mode,) = fuse([tile(points, mass)], np.zeros(1))
    answer = (0.4 * points[0] + 0.1 * points[1]) / 0.5
    assert metres(mode) == pytest.approx(answer, abs=1e-6)
    assert mode.probability == pytest.approx(0.4 + 0.1 + 0.05 + 0.15, rel=1e-12)
    inside = mass[:6]
    square = [(x - answer[0]) ** 2 + (y - answer[1]) ** 2 for x, y in points[:6]]
    assert mode.spread_m == pytest.approx(math.sqrt(inside @ square / inside.sum()), rel=1e-9)


def test_fuse_drops_positions_of_at_most_a_millionth():
    for far, modes in ((1e-6, 1), (1.1e-6, 2)):
        found = fuse([tile([(1.5, 1.5), (301.5, 1.5)], [0.9, far])], np.zeros(1), count=5)
        assert len(found) == modes and found[0].tile == 0


def test_fuse_gives_one_mode_by_default_and_all_by_descending_probability():
    tiles = [tile([(1.5, 1.5)], [1.0], lat=60.01), tile([(-100.5, 1.5)], [1.0]), tile([(1.5, 1.5)], [1.0], lon=25.01)]
    weights = np.log([0.2, 0.5, 0.3])
    assert [mode.tile for mode in fuse(tiles, weights)] == [1]
    modes = fuse(tiles, weights, count=3)
    assert [(mode.tile, round(mode.probability, 9)) for mode in modes] == [(1, 0.5), (2, 0.3), (0, 0.2)]
    for mode, east in zip(modes, (-100.5, 1.5, 1.5), strict=True):
        place = tiles[mode.tile]
        distance = great_circle_m(place.lat, place.lon, *offset(place.lat, place.lon, east, 1.5))
        assert great_circle_m(place.lat, place.lon, mode.lat, mode.lon) == pytest.approx(distance, abs=0.2)


@pytest.mark.parametrize("side", [1, -1])
def test_fuse_across_the_date_line_adds_the_mass_of_both_tiles(side):
    lat, (per_lat, per_lon) = -17.0, metres_per_degree(-17.0)
    east, north = side * 60.0, 12.0
    first = tile([(1.5, 1.5), (-90.0, 0.0)], [0.4, 0.6], lat=lat, lon=side * 179.9998)
    lon = (first.lon + east / float(per_lon) + 180) % 360 - 180
    second = tile([(1.5 - east, 1.5 - north)], [1.0], lat=lat + north / float(per_lat), lon=lon)
    assert first.lon * second.lon < 0
    (mode,) = fuse([first, second], np.log([0.6, 0.4]))
    assert mode.probability == pytest.approx(0.6 * 0.4 + 0.4) and mode.tile == 1
    assert metres(mode, lat, first.lon) == pytest.approx((1.5, 1.5), abs=1e-6)


def slow_peak(points, mass):
    """Cell of 3 m with the most mass after a Gaussian of 3 m over the 7 x 7 cells around each."""
    total = {}
    for (east, north), part in zip(points, mass, strict=True):
        cell = math.floor(east / 3), math.floor(north / 3)
        total[cell] = total.get(cell, 0.0) + part
    steps = list(itertools.product(range(-3, 4), repeat=2))
    smooth = {
        (x, y): sum(math.exp(-(i * i + j * j) / 2) * total.get((x + i, y + j), 0.0) for i, j in steps)
        for x, y in sorted(total)
    }
    return np.array(max(smooth, key=smooth.get)) * 3 + 1.5


def test_fuse_finds_the_peak_of_the_smoothed_map():
    rng = np.random.default_rng(4)
    for _ in range(40):
        points, mass = rng.uniform((-25, -15), (20, 30), (60, 2)), rng.exponential(1.0, 60)
        (mode,) = fuse([tile(points, mass / mass.sum())], np.zeros(1))
        near = np.hypot(*(points - slow_peak(points, mass)).T) <= 6
        assert metres(mode) == pytest.approx(mass[near] @ points[near] / mass[near].sum(), abs=1e-6)


@pytest.mark.parametrize("step", [(3, 0), (-3, 0), (0, 3), (0, -3), (2, -2), (-1, 3)])
@pytest.mark.parametrize("counts", [True, False])
def test_fuse_smooths_over_three_cells_and_not_over_four(step, counts):
    """A slightly lighter cell wins by its neighbour three cells away; with one more cell between them it does not."""
    far = np.array(step) * 3.0 + (0 if counts else np.sign(step[0] or step[1]) * np.array([9.0, 9.0]))
    weight = math.exp(-(step[0] ** 2 + step[1] ** 2) / 2)
    lighter = 0.4 - 0.5 * weight * 0.3
    points = np.array([(0.0, 0.0), (200.0, 100.0), tuple(np.array([200.0, 100.0]) + far)]) + 1.5
    mode = fuse([tile(points, [0.4, lighter, 0.3])], np.zeros(1))[0]
    assert (metres(mode)[0] > 100) is counts


def test_log_weights_of_the_default_weights_are_those_of_the_cosines():
    found = FusionWeights().log_weights(np.array([0.9, 0.5]), np.array([0.0, 3.0]))
    assert np.exp(found) == pytest.approx([1 / (1 + math.exp(-0.4)), 1 / (1 + math.exp(0.4))])
    assert FusionWeights() == FusionWeights(1.0, 0.0, 1.0, tiles=40, enabled=False, gain_percent=0.0, photos=0)


def test_log_weights_of_large_scores_are_finite():
    found = FusionWeights(scale=500.0).log_weights(np.array([1.0, -1.0]), np.zeros(2))
    assert found == pytest.approx([0.0, -1000.0])


def test_modes_tiles_and_weights_cannot_be_changed():
    one = tile([(1.5, 1.5)], [1.0])
    for value, name in ((one, "lat"), (fuse([one], np.zeros(1))[0], "lat"), (FusionWeights(), "enabled")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 1)


def candidates(cosine_gap, evidence_gap):
    """Two tiles, 300 m apart: the right one, at the true position, has these gaps to the other; best cosine first."""
    right = tile([(0.0, 0.0)], [1.0], cosine=0.5 + cosine_gap, evidence=evidence_gap)
    wrong = tile([(300.0, 0.0)], [1.0], cosine=0.5)
    return [right, wrong] if cosine_gap > 0 else [wrong, right]


TRUE, FALSE = (LAT, LON), (LAT, LON + 0.1)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.0, (0.25, 0.0)),
        (0.125, (2.0, 0.25)),
        (0.25, (1.0, 0.25)),
        (0.5, (0.5, 0.25)),
        (1.0, (0.25, 0.25)),
        (2.0, (0.25, 0.5)),
        (4.0, (0.25, 1.0)),
    ],
)
def test_fit_weights_chooses_the_first_weights_of_the_only_right_ratio(ratio, expected):
    """One photo needs more evidence than 0.8 x the ratio, the other needs less than 1.2 x the ratio."""
    more, less = candidates(-0.1, 1 / (0.8 * ratio) if ratio else 9e9), candidates(0.1, -1 / max(1.2 * ratio, 0.1))
    photos = [more, less] if ratio else [less] * 2
    found = fit_weights(photos, [FALSE] * 2, np.array([TRUE] * 2), scale=10.0)
    assert (found.cosine, found.evidence) == expected
    assert (found.enabled, found.gain_percent, found.photos) == (True, 100.0, 2)
    assert (found.scale, found.tiles) == (10.0, 40)


@pytest.mark.parametrize(("gained", "lost", "enabled"), [(10, 6, False), (10, 5, True), (1, 0, False), (5, 0, True)])
def test_fit_weights_enables_fusion_only_for_a_gain_of_more_than_one_standard_error(gained, lost, enabled):
    """Of 16 photos; a gain of 10 - 6 is exactly one standard error, sqrt(10 + 6)."""
    good, bad = candidates(0.1, 0.0), [tile([(300.0, 0.0)], [1.0])]
    photos = [good] * gained + [bad] * lost + [good] * (16 - gained - lost)
    answers = [FALSE] * gained + [TRUE] * (16 - gained)
    found = fit_weights(photos, answers, np.array([TRUE] * 16), scale=10.0)
    assert found.enabled is enabled and found.gain_percent == pytest.approx(100 * (gained - lost) / 16)


def test_fit_weights_without_an_improvement_states_the_loss_of_the_best_weights():
    good, bad = candidates(0.1, 0.0), [tile([(300.0, 0.0)], [1.0])]
    found = fit_weights([good, good, good, bad], [TRUE] * 4, np.array([TRUE] * 4), scale=10.0)
    assert (found.cosine, found.evidence, found.enabled, found.gain_percent) == (0.25, 0.0, False, -25.0)


def test_fit_weights_counts_answers_within_10_metres():
    for metres_away, right in ((9.8, True), (10.2, False)):
        position = tuple(float(value) for value in offset(LAT, LON, 0.0, metres_away))
        plain = fit_weights([candidates(0.1, 0.0)], [position], np.array([TRUE]), scale=10.0)
        assert plain.gain_percent == (0.0 if right else 100.0)
        fused = fit_weights([[tile([(0.0, metres_away)], [1.0])]], [TRUE], np.array([TRUE]), scale=10.0)
        assert fused.gain_percent == (0.0 if right else -100.0)
    away = float(great_circle_m(*TRUE, *position))
    exact = fit_weights([candidates(0.1, 0.0)], [position], np.array([TRUE]), scale=10.0, within_m=away)
    assert exact.gain_percent == 0.0


def test_fit_weights_fuses_the_given_number_of_tiles():
    """The last of the tiles is right, by its evidence."""
    many = [tile([(300.0, 0.0)], [1.0])] * 40 + candidates(-0.5, 30.0)[1:]
    for given, gain in (({}, 0.0), ({"tiles": 40}, 0.0), ({"tiles": 41}, 100.0)):
        found = fit_weights([many], [FALSE], np.array([TRUE]), scale=1.0, **given)
        assert found.gain_percent == gain and found.tiles == given.get("tiles", 40)
