"""Positions in evaluation: errors in metres, and searches restricted to a neighbourhood.

Positions are latitudes and longitudes in degrees; distances are great-circle metres.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M, chord, great_circle_m, to_unit_vectors


@dataclass(frozen=True)
class Prior:
    """Search only the tiles whose centre lies within `radius_m` of where the query is believed to be.

    Args:
        query_positions: (queries, 2) latitude and longitude in degrees: the centre of each search.
        gallery_positions: (tiles, 2) latitude and longitude in degrees.
        radius_m: Great-circle metres.
    """

    query_positions: np.ndarray
    gallery_positions: np.ndarray
    radius_m: float


def errors_m(query_positions: np.ndarray, gallery_positions: np.ndarray, top_rows: np.ndarray) -> np.ndarray:
    """Great-circle metres from each query's true position to the centre of its best tile.

    Args:
        query_positions: (queries, 2) latitude and longitude in degrees.
        gallery_positions: (tiles, 2).
        top_rows: (queries,) gallery row of the best tile, -1 for none.

    Returns:
        (queries,) metres; NaN where a position is unknown, infinity where no tile was searched.

    Raises:
        GenGeoError: Positions are not (count, 2), or there are not as many as queries.
    """
    found = np.asarray(gallery_positions, dtype=np.float64)[top_rows]
    given = np.asarray(query_positions, dtype=np.float64)
    if given.shape != (len(top_rows), 2) or found.shape != given.shape:
        raise GenGeoError(f"positions must be (count, 2) degrees; found {given.shape} for {len(top_rows)} queries")
    metres = great_circle_m(given[:, 0], given[:, 1], found[:, 0], found[:, 1])
    return np.where(top_rows < 0, np.inf, metres)


class Near:
    """Which tiles lie within the prior of some queries."""

    def __init__(self, prior: Prior, rows: slice) -> None:
        # The dot product of unit vectors is the cosine of the angle; float64 resolves metres (1 - 1e-13 at 3 m).
        self.queries = to_unit_vectors(*np.transpose(prior.query_positions[rows]))
        self.tiles = to_unit_vectors(*np.transpose(prior.gallery_positions))
        self.limit = np.cos(prior.radius_m / EARTH_RADIUS_M)

    def block(self, first: int, last: int) -> np.ndarray:
        """(queries, last - first) bool.

        Args:
            first, last: Gallery rows.
        """
        return np.asarray(self.queries @ self.tiles[first:last].T >= self.limit)

    def pairs(self, queries: np.ndarray, tiles: np.ndarray) -> np.ndarray:
        """Bool for each pair of a query and a tile row.

        Args:
            queries: (pairs,) rows of the block.
            tiles: (pairs,) gallery rows.

        Returns:
            bool (pairs,)
        """
        return np.asarray((self.queries[queries] * self.tiles[tiles]).sum(axis=1) >= self.limit)


def rows_within(
    query_positions: np.ndarray, gallery_positions: np.ndarray, radius_m: float, positive_rows: np.ndarray
) -> np.ndarray:
    """Rows of the tiles whose centre lies within a radius of each query's true position, its positive left out.

    Args:
        query_positions: (queries, 2) latitude and longitude in degrees.
        gallery_positions: (tiles, 2).
        radius_m: Great-circle metres, the bound included.
        positive_rows: (queries,).

    Returns:
        (queries, S) int64, -1 for none: the form of `semi_positive_rows`.

    Raises:
        GenGeoError: A position is unknown.
    """
    for which, positions in (("queries", query_positions), ("tiles", gallery_positions)):
        if unknown := int(np.isnan(positions).any(axis=1).sum()):
            raise GenGeoError(f"{unknown} of {len(positions)} {which} have no position; this rule needs all of them")
    tree = KDTree(to_unit_vectors(*np.transpose(gallery_positions)))
    near = tree.query_ball_point(to_unit_vectors(*np.transpose(query_positions)), chord(radius_m))
    lists = [[row for row in found if row != own] for found, own in zip(near, positive_rows, strict=True)]
    rows = np.full((len(lists), max(map(len, lists), default=0)), -1, dtype=np.int64)
    for number, found in enumerate(lists):
        rows[number, : len(found)] = sorted(found)
    return rows
