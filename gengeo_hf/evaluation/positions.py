"""Errors in metres, and searches restricted to tiles near a position.

Positions are latitudes and longitudes in degrees; distances are great-circle metres.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M, chord, great_circle_m, to_unit_vectors


@dataclass(frozen=True)
class Prior:
    """Restricts each query to the tiles whose centre lies within `radius_m` of its approximate position.

    Args:
        query_positions: (queries, 2) latitude and longitude in degrees: the centre of each search.
        gallery_positions: (tiles, 2) tile centres, latitude and longitude in degrees.
        radius_m: Radius of the search, great-circle metres.
    """

    query_positions: np.ndarray
    gallery_positions: np.ndarray
    radius_m: float


def errors_m(query_positions: np.ndarray, gallery_positions: np.ndarray, top_rows: np.ndarray) -> np.ndarray:
    """Great-circle metres from each query's true position to the centre of its best tile.

    Args:
        query_positions: (queries, 2) latitude and longitude in degrees.
        gallery_positions: (tiles, 2) tile centres in degrees.
        top_rows: (queries,) gallery row of the best tile, -1 for none.

    Returns:
        (queries,) metres; NaN where a position is unknown, infinity where no tile was searched.

    Raises:
        GenGeoError: Positions do not have the shape (count, 2), or their number is not that of the queries.
    """
    found = np.asarray(gallery_positions, dtype=np.float64)[top_rows]
    given = np.asarray(query_positions, dtype=np.float64)
    if given.shape != (len(top_rows), 2) or found.shape != given.shape:
        raise GenGeoError(f"positions must be (queries, 2) degrees; found {given.shape} for {len(top_rows)} queries")
    metres = great_circle_m(given[:, 0], given[:, 1], found[:, 0], found[:, 1])
    return np.where(top_rows < 0, np.inf, metres)


class Near:
    """Tests whether tiles lie within the prior of a block of queries.

    Args:
        prior: Centres and radius of the searches.
        rows: Rows of the block in `prior.query_positions`.
    """

    def __init__(self, prior: Prior, rows: slice) -> None:
        # The dot product of unit vectors is the cosine of the angle; float64 resolves metres (1 - 1e-13 at 3 m).
        self.queries = to_unit_vectors(*np.transpose(prior.query_positions[rows]))
        self.tiles = to_unit_vectors(*np.transpose(prior.gallery_positions))
        self.limit = np.cos(prior.radius_m / EARTH_RADIUS_M)

    def block(self, first: int, last: int) -> np.ndarray:
        """Test all queries against a range of tiles.

        Args:
            first, last: First gallery row, and the row after the last.

        Returns:
            bool (queries, last - first).
        """
        return np.asarray(self.queries @ self.tiles[first:last].T >= self.limit)

    def pairs(self, queries: np.ndarray, tiles: np.ndarray) -> np.ndarray:
        """Test single pairs of a query and a tile.

        Args:
            queries: (pairs,) index of each query in the block.
            tiles: (pairs,) gallery row of each tile.

        Returns:
            bool (pairs,).
        """
        return np.asarray((self.queries[queries] * self.tiles[tiles]).sum(axis=1) >= self.limit)


def rows_within(
    query_positions: np.ndarray, gallery_positions: np.ndarray, radius_m: float, positive_rows: np.ndarray
) -> np.ndarray:
    """Find the tiles whose centre lies within a radius of each query's true position, except its positive.

    Args:
        query_positions: (queries, 2) latitude and longitude in degrees.
        gallery_positions: (tiles, 2) tile centres in degrees.
        radius_m: Largest distance, great-circle metres.
        positive_rows: (queries,) gallery row of each true tile.

    Returns:
        int64 (queries, S) gallery rows, -1 for none, as `semi_positive_rows`.

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
