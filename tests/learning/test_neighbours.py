"""Tables of geographic neighbours, compared with the full distance matrix."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import haversine_distances

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M, mean_positions
from gengeo_hf.learning.neighbours import (
    great_circle_neighbours,
    training_neighbours,
    true_tiles,
)
from tests.data.helpers import toy_dataset


def random_positions(count, seed=0, spread=90.0):
    rng = np.random.default_rng(seed)
    lat = rng.uniform(-spread, spread, count).clip(-90, 90)
    lon = rng.uniform(-2 * spread, 2 * spread, count)
    return [f"p{i}" for i in range(count)], lat, lon


@pytest.mark.parametrize("spread", [90.0, 0.01])
@pytest.mark.parametrize("legacy", [False, True])
def test_great_circle_neighbours_equals_full_matrix(spread, legacy):
    ids, lat, lon = random_positions(300, spread=spread)
    table = great_circle_neighbours(ids, lat, lon, 17, legacy_degrees=legacy)
    degrees = np.stack([lat, lon], axis=1)
    searched = haversine_distances(degrees if legacy else np.radians(degrees))
    np.fill_diagonal(searched, np.inf)
    expected = np.sort(searched, axis=1)[:, :17]
    np.testing.assert_allclose(np.take_along_axis(searched, table.neighbours, axis=1), expected, atol=1e-7)
    true_m = haversine_distances(np.radians(degrees)) * EARTH_RADIUS_M
    np.testing.assert_allclose(
        np.take_along_axis(true_m, table.neighbours, axis=1), table.distances_m, rtol=1e-5, atol=0.5
    )


def test_great_circle_neighbours_legacy_degrees_differs():
    lat, lon = np.array([10.0, 10.0 + np.degrees(np.radians(360)) * np.pi / 180, 10.5]), np.zeros(3)
    # 6.2832 degrees of latitude are one full turn when they are used as radians.
    assert great_circle_neighbours("abc", lat, lon, 1, legacy_degrees=True).neighbours[0, 0] == 1
    right = great_circle_neighbours("abc", lat, lon, 1)
    assert right.neighbours[0, 0] == 2
    assert right.distances_m[0, 0] == pytest.approx(0.5 * np.pi / 180 * EARTH_RADIUS_M, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 9))
def test_great_circle_neighbours_few_and_equal_positions(count, k, seed):
    rng = np.random.default_rng(seed)
    lat, lon = rng.integers(0, 4, count) * 3e-4, rng.integers(0, 4, count) * 3e-4  # many equal positions
    table = great_circle_neighbours([str(i) for i in range(count)], lat, lon, k)
    matrix = haversine_distances(np.radians(np.stack([lat, lon], axis=1))) * EARTH_RADIUS_M
    for row in range(count):
        found = [j for j in table.neighbours[row] if j >= 0]
        assert len(found) == len(set(found)) == min(k, count - 1)
        assert row not in found
        np.testing.assert_allclose(matrix[row][found], sorted(np.delete(matrix[row], row))[: len(found)], atol=1e-3)
        assert np.isinf(table.distances_m[row][len(found) :]).all()


def test_great_circle_neighbours_at_date_line_and_pole():
    table = great_circle_neighbours("abcd", [0, 0, 89.9, 89.9], [179.99, -179.99, 0, 180], 1)
    assert table.neighbours[:, 0].tolist() == [1, 0, 3, 2]


@settings(max_examples=50, deadline=None)
@given(lat=st.floats(-89.9, 89.9), lon=st.floats(-180, 180), seed=st.integers(0, 2**16))
def test_mean_positions_is_near_all_members(lat, lon, seed):
    """At any position, also at the date line and near a pole; a rotation of longitudes rotates the means."""
    rng = np.random.default_rng(seed)
    lats = np.clip(lat + rng.uniform(-1e-3, 1e-3, 6), -90, 90)
    lons = (lon + rng.uniform(-1e-3, 1e-3, 6) + 180) % 360 - 180
    group = np.array([0, 2, 0, 2, 0, 1])
    a, b = mean_positions(group, lats, lons, 4)
    assert (a[1], b[1]) == (lats[5], lons[5]) and np.isnan([a[3], b[3]]).all()
    for number in (0, 2):
        members = np.radians(np.stack([lats, lons], axis=1)[group == number])
        metres = haversine_distances(np.radians([[a[number], b[number]]]), members)[0] * EARTH_RADIUS_M
        assert metres.max() < 320  # the diagonal of the box that contains the photos
    turned = mean_positions(group, lats, (lons + 90 + 180) % 360 - 180, 4)
    assert np.abs(turned[0] - a)[:3].max() < 1e-9
    assert np.abs((turned[1] - b - 90 + 180)[:3] % 360 - 180).max() < 1e-6


def test_true_tiles_without_position_have_mean_of_photos():
    data = toy_dataset()
    one = data.queries[0]["positive"]
    queries = data.queries.map(
        lambda row, n: row | {"positive": one, "lat": -17.0, "lon": (179.999, -179.997)[n % 2]}, with_indices=True
    ).select(range(2))
    gallery = data.gallery.map(lambda row: row | {"lat": None, "lon": None})
    ids, lat, lon = true_tiles(dataclasses.replace(data, queries=queries, gallery=gallery))
    assert ids == [one] and lat[0] == pytest.approx(-17) and lon[0] == pytest.approx(-179.999)


def test_great_circle_neighbours_invalid_positions_are_refused():
    for lat, lon in (([1, np.nan], [0, 0]), ([1, 91], [0, 0]), ([1, 2], [0])):
        with pytest.raises(GenGeoError):
            great_circle_neighbours("ab", lat, lon, 1)
    with pytest.raises(GenGeoError, match="more than once"):
        great_circle_neighbours("aa", [1, 2], [0, 0], 1)


def test_rows_for_returns_gallery_rows():
    data = toy_dataset()
    table = training_neighbours(data, k=3)
    tiles = data.gallery["tile_id"][:]
    rows = table.rows_for(data.queries["positive"][:], tiles)
    assert [tiles[row] for row in rows[5]] in (
        ["t4", "t6", "t3"],
        ["t6", "t4", "t3"],
        ["t4", "t6", "t7"],
        ["t6", "t4", "t7"],
    )
    with pytest.raises(GenGeoError, match="rebuild"):
        table.rows_for(["nowhere"], tiles)


def test_neighbours_import_no_datasets():
    code = "import sys, gengeo_hf.learning.neighbours, gengeo_hf.data; assert 'datasets' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_great_circle_neighbours_of_vigor_size_take_seconds():
    import time

    ids, lat, lon = random_positions(105_214, spread=0.1)
    start = time.process_time()  # independent of other load on the machine
    great_circle_neighbours(ids, lat, lon, 128)
    assert time.process_time() - start < 20


def test_rows_for_gallery_order_and_missing_neighbours():
    table = great_circle_neighbours("abc", [0.0, 0.1, 0.3], [0.0, 0.0, 0.0], 3)
    rows = table.rows_for(["c", "a", "c"], ["x", "c", "b", "a"])
    assert rows.tolist() == [[2, 3, -1], [2, 1, -1], [2, 3, -1]] and rows.dtype == np.int32
    with pytest.raises(GenGeoError, match="1 tiles of the neighbour table, first 'c', are not in the gallery"):
        table.rows_for(["a"], ["a", "b"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.ids = ()


def test_great_circle_neighbours_positions_at_limits():
    table = great_circle_neighbours("ab", [90.0, -90.0], [360.0, -360.0], 1)
    assert table.neighbours.tolist() == [[1], [0]]
    np.testing.assert_allclose(table.distances_m, np.pi * EARTH_RADIUS_M, rtol=1e-6)
    for lat, lon, message in (
        ([0, 90.5], [0, 0], r"first 'b' at \(90.5, 0\)"),
        ([-90.5, 0], [0, 0], r"first 'a' at \(-90.5, 0\)"),
        ([0, 0], [360.5, 0], r"first 'a' at \(0, 360.5\)"),
        ([0], [0, 0], "found 2 ids"),
    ):
        with pytest.raises(GenGeoError, match=message):
            great_circle_neighbours("ab", lat, lon, 1)
    with pytest.raises(GenGeoError, match="k must be at least 1, found 0"):
        great_circle_neighbours("ab", [0, 1], [0, 0], 0)


def with_positions(data, positions):
    """Return a data set whose tiles have these positions, in the order of the gallery."""
    gallery = data.gallery.map(lambda row, n: row | {"lat": positions[n][0], "lon": positions[n][1]}, with_indices=True)
    return dataclasses.replace(data, gallery=gallery)


def test_training_neighbours_has_128_columns_and_true_distances_by_default():
    positions = [(0.0, 0.0), (6.2831853, 0.0), (1.0, 0.0)]  # the first two coincide if degrees are used as radians
    data = with_positions(toy_dataset(count=3), positions)
    table = training_neighbours(data)
    assert table.neighbours.shape == (3, 128) and table.ids == ("t2", "t1", "t0")
    assert table.neighbours[:, :2].tolist() == [[2, 1], [2, 0], [0, 1]] and (table.neighbours[:, 2:] == -1).all()
    assert training_neighbours(data, 2, legacy_degrees=True).neighbours[0].tolist() == [1, 2]


def test_true_tiles_with_half_a_position_have_that_of_their_photo():
    data = with_positions(toy_dataset(count=3), [(None, 25.0), (61.0, None), (62.0, 26.0)])
    ids, lat, lon = true_tiles(data)
    assert ids == ["t2", "t1", "t0"]
    assert lat == pytest.approx([60.002, 60.001, 62.0]) and lon == pytest.approx([24.0, 24.0, 26.0])
