"""Runs of rows near a position equal a comparison of distances, also at the poles and the date line."""

import numpy as np
import pytest

from gengeo_hf.common.geo import great_circle_m, offset
from gengeo_hf.common.units import Near
from gengeo_hf.index import spatial


def ordered(lat, lon):
    order = spatial.spatial_order(lat, lon)
    assert np.array_equal(np.sort(order), np.arange(len(lat)))
    return lat[order], lon[order]


def found(lat, lon, near):
    rows = [
        first + np.flatnonzero(spatial.within(lat[first:last], lon[first:last], near))
        for first, last in spatial.runs_near(spatial.block_balls(lat, lon), len(lat), near)
    ]
    return np.concatenate([np.empty(0, int), *rows])


@pytest.mark.parametrize("centre", [(48, 11), (0, 180), (-17, -179.999), (89.99, 0), (-90, 50), (89.95, 179)])
@pytest.mark.parametrize("radius", [1.0, 900.0, 5000.0, 30_000_000.0])
def test_within_equals_a_comparison_of_distances(centre, radius):
    rng = np.random.default_rng(0)
    near = Near(*centre, radius)
    lat, lon = offset(np.full(4000, float(centre[0])), float(centre[1]), *rng.uniform(-12_000, 12_000, (2, 4000)))
    lat, lon = ordered(np.append(lat, [0.0, -89.0]), np.append(lon, [0.0, 179.0]))
    expected = np.flatnonzero(great_circle_m(lat, lon, near.lat, near.lon) <= radius)
    assert np.array_equal(found(lat, lon, near), expected)


def test_spatial_order_keeps_neighbours_together():
    rows, columns = np.divmod(np.arange(512 * 512), 512)
    lat, lon = ordered(48 + rows * 2.9e-4, 11 + columns * 4.4e-4)
    runs = spatial.runs_near(spatial.block_balls(lat, lon), len(lat), Near(48.07, 11.11, 2000))
    touched = sum(last - first for first, last in runs)
    inside = len(found(lat, lon, Near(48.07, 11.11, 2000)))
    assert inside > 10_000 and touched < 2 * inside and len(runs) < 60


def test_spatial_order_of_equal_positions_is_stable():
    assert spatial.spatial_order(np.full(300, 60.0), np.full(300, 25.0)).tolist() == list(range(300))
