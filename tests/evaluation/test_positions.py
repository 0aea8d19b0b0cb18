"""Distances and searches near a position, against numbers computed by hand."""

import dataclasses

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.positions import Near, Prior, errors_m, rows_within

DEGREE_M = np.pi / 180 * 6_371_008.8
TILES = np.array([[60, 25], [60.001, 25], [60, 25.004], [60.004, 25.001]])  # 111 m north, 222 m east, ...


def test_errors_m_are_metres_to_the_best_tile_and_infinite_without_one():
    queries = np.array([[60, 25], [60.002, 25], [60, 25.002], [np.nan, 25], [60, 25], [60, 25]])
    found = errors_m(queries, TILES, np.array([0, 1, 2, 0, -1, 2]))
    east = 0.002 * DEGREE_M / 2  # cos 60 = 1 / 2
    np.testing.assert_allclose(found, [0, 0.001 * DEGREE_M, east, np.nan, np.inf, 2 * east], rtol=1e-5)


@pytest.mark.parametrize(
    ("queries", "tiles"), [(np.ones((3, 2)), TILES), (np.ones((2, 3)), TILES), (np.ones((2, 2)), np.ones((4, 3)))]
)
def test_errors_m_of_other_shapes_raises_an_error(queries, tiles):
    with pytest.raises(GenGeoError, match=r"positions must be \(queries, 2\) degrees"):
        errors_m(queries, tiles, np.array([0, 1]))


def test_near_tests_blocks_and_pairs_of_the_given_queries():
    queries = np.array([[0, 0], [60, 25], [60.0005, 25]])
    near = Near(Prior(queries, TILES, 115.0), slice(1, 3))
    assert near.block(0, 4).tolist() == [[True, True, False, False], [True, True, False, False]]
    assert near.block(1, 3).tolist() == [[True, False], [True, False]]
    assert near.pairs(np.array([0, 1, 1]), np.array([1, 0, 3])).tolist() == [True, True, False]
    wide = Near(Prior(queries, TILES, 225.0), slice(1, 2))
    assert wide.block(0, 4).tolist() == [[True, True, True, False]]


def test_prior_cannot_be_changed():
    prior = Prior(TILES[:1], TILES, 1.0)
    assert Near(prior, slice(0, 1)).block(0, 1).tolist() == [[True]]
    with pytest.raises(dataclasses.FrozenInstanceError):
        prior.radius_m = 2.0


def test_rows_within_lists_near_tiles_without_the_positive():
    queries = np.array([[60, 25], [60.004, 25.001], [60.0005, 25], [10, 10]])
    found = rows_within(queries, TILES, 230.0, np.array([0, 3, 2, 1]))
    assert found.tolist() == [[1, 2], [-1, -1], [0, 1], [-1, -1]]
    assert rows_within(queries[3:], TILES, 230.0, np.array([1])).shape == (1, 0)
    queries[1, 1] = np.nan
    with pytest.raises(GenGeoError, match="1 of 4 queries have no position"):
        rows_within(queries, TILES, 230.0, np.array([0, 3, 2, 1]))
    with pytest.raises(GenGeoError, match="2 of 4 tiles have no position"):
        rows_within(queries[:1], np.where(TILES == 60, np.nan, TILES), 230.0, np.array([0]))
