"""The fused map of several tiles: position, probability, spread and tile of its peaks, by slow formulas."""

import math

import numpy as np
import pytest

from gengeo_hf.common.geo import great_circle_m, offset
from gengeo_hf.localization.fusion import MODE_M, FusionWeights, TilePosterior, fuse


def tile(east, north, points, masses):
    lat, lon = offset(60.0, 25.0, east, north)
    return TilePosterior(float(lat), float(lon), 0.9, 0.0, np.array(points, float), np.array(masses, float))


def test_fuse_gives_the_peak_of_the_overlap_of_two_tiles():
    """Both tiles hold mass at (10, 0) metres of the first tile's centre; each has a peak of its own elsewhere."""
    first = tile(0, 0, [(10, 0), (-25, 0)], [0.5, 0.5])
    second = tile(30, 0, [(-20, 0), (20, 20)], [0.6, 0.4])
    weights = np.log([0.4, 0.6])
    (mode, *others) = fuse([first, second], weights, count=3)
    east = great_circle_m(60.0, 25.0, 60.0, mode.lon) * math.copysign(1, mode.lon - 25.0)
    assert east == pytest.approx(10, abs=0.05) and mode.lat == pytest.approx(60.0, abs=1e-6)
    assert mode.probability == pytest.approx(0.4 * 0.5 + 0.6 * 0.6) and mode.tile == 1
    # The spread counts what lies within five times MODE_M, 40 metres; the far peak of the second tile is 44.7 m away.
    assert mode.spread_m == pytest.approx(math.sqrt(0.2 * 35**2 / (0.56 + 0.2)), rel=0.01)
    assert len(others) == 1 and others[0].probability == pytest.approx(0.6 * 0.4)


def test_spread_of_a_mode_is_the_weighted_root_mean_square_distance():
    points = [(0, 0), (3, 0), (0, 4), (0, 100)]
    mass = np.array([0.6, 0.1, 0.1, 0.2])
    (mode,) = fuse([tile(0, 0, points, mass)], np.zeros(1))
    near = np.array(points[:3], float)
    answer = mass[:3] @ near / mass[:3].sum()
    assert MODE_M < 100 and mode.probability == pytest.approx(0.8)
    expected = math.sqrt(sum(m * math.dist(p, answer) ** 2 for m, p in zip(mass[:3], near, strict=True)) / 0.8)
    assert mode.spread_m == pytest.approx(expected)


def test_log_weights_are_the_logarithm_of_a_softmax():
    weights = FusionWeights(cosine=0.5, evidence=2.0, scale=10.0)
    cosines, evidence = np.array([0.9, 0.5, 0.1]), np.array([0.0, 1.0, -1.0])
    raw = np.exp(0.5 * 10 * cosines + 2 * evidence)
    np.testing.assert_allclose(np.exp(weights.log_weights(cosines, evidence)), raw / raw.sum())
