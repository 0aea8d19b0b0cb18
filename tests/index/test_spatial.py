"""Runs of rows near a position equal a comparison of distances, also at the poles and the date line."""

import math

import numpy as np
import pytest

from gengeo_hf.common.geo import great_circle_m, offset, to_unit_vectors
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


def morton_code(lat, lon):
    """Morton code of one position by its definition: 24 bits of Web Mercator for each axis, latitude first."""

    def mercator(degrees):
        phi = math.radians(min(max(degrees, -89.9), 89.9))
        return math.log(math.tan(math.pi / 4 + phi / 2))

    shares = (mercator(lat) / mercator(89.9) + 1) / 2, (lon + 180) / 360
    bits = [f"{min(max(math.floor(share * 2**24), 0), 2**24 - 1):024b}" for share in shares]
    return int("".join(a + b for a, b in zip(*bits, strict=True)), 2)


def test_spatial_order_is_that_of_the_morton_codes():
    rng = np.random.default_rng(1)
    edges = np.array([-180.0, -180 + 1e-5, -180 + 3e-5, 180 - 3e-5, 180 - 1e-5, 180.0])  # a cell has 2.1e-5 degrees
    lat_edges = [-90.0, -89.9, -89.8999999, 12.3, 89.8999999, 89.9, 90.0]
    border = np.stack(np.meshgrid(lat_edges, edges), axis=-1).reshape(-1, 2)
    world = np.stack([rng.uniform(-89, 89, 2000), rng.uniform(-180, 180, 2000)], axis=1)
    near = np.array([48.0, 11.0]) + rng.uniform(0, 2e-4, (500, 2))  # some cells
    places = rng.permutation(np.concatenate([border, world, near]))
    codes = [morton_code(*place) for place in places]
    expected = sorted(range(len(places)), key=lambda row: codes[row])
    assert spatial.spatial_order(*places.T).tolist() == expected


def test_block_balls_of_many_blocks_are_their_means_and_largest_distances():
    rng = np.random.default_rng(2)
    count = 1030 * 256 - 100  # more blocks than are converted at a time
    lat, lon = rng.uniform(-80, 80, count), rng.uniform(-180, 180, count)
    balls = spatial.block_balls(lat, lon)
    points = to_unit_vectors(lat, lon)
    assert balls.shape == (1030, 4)
    for block in (0, 1, 1023, 1024, 1025, 1029):
        members = points[256 * block : 256 * (block + 1)]
        centre = members.mean(axis=0)
        np.testing.assert_allclose(balls[block, :3], centre, atol=1e-12)
        assert balls[block, 3] == pytest.approx(max(math.dist(centre, point) for point in members), abs=1e-9)


def test_block_balls_of_one_position_have_a_positive_radius():
    assert 0 < spatial.block_balls(np.array([12.0]), np.array([-34.0]))[0, 3] < 1e-9


def test_runs_near_are_whole_blocks_and_end_with_the_last_tile():
    lat = np.repeat([10.0, 20.0, 30.0, 30.0, 40.0], [256, 256, 256, 256, 44])
    balls = spatial.block_balls(lat, np.full(1068, -5.0))
    assert balls.shape == (5, 4)
    assert spatial.runs_near(balls, 1068, Near(30.0, -5.0, 1000.0)) == [(512, 1024)]
    assert spatial.runs_near(balls, 1068, Near(40.0, -5.0, 1000.0)) == [(1024, 1068)]
    assert spatial.runs_near(balls, 1068, Near(15.0, -5.0, 600_000.0)) == [(0, 512)]
    assert spatial.runs_near(balls, 1068, Near(35.0, -5.0, 600_000.0)) == [(512, 1068)]
    assert spatial.runs_near(balls, 1068, Near(50.0, 80.0, 1000.0)) == []
    assert spatial.runs_near(np.empty((0, 4)), 0, Near(10.0, -5.0, 1000.0)) == []


def test_within_a_circle_without_radius_is_only_its_centre():
    near = Near(48.5, 11.25, 0.0)
    assert spatial.within(np.array([48.5, 48.5001]), np.array([11.25, 11.25]), near).tolist() == [True, False]
