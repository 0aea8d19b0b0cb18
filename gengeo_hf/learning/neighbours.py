"""Which places lie nearest to each place: exact on the sphere, in metres, named by id.

The batch sampler puts neighbours into one batch.
This file imports no `datasets`, and neither does what it needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import arc_m, mean_positions, to_unit_vectors


@dataclass(frozen=True)
class NeighbourTable:
    """The k nearest other places of each place, nearest first.

    Args:
        ids: of the places, shape (N,).
        neighbours: int32 (N, k), rows of `ids`; -1 where there are no more.
        distances_m: float32 (N, k), great-circle metres; infinite where there are no more.
    """

    ids: tuple[str, ...]
    neighbours: np.ndarray
    distances_m: np.ndarray

    def rows_for(self, places: Sequence[str], gallery_ids: Sequence[str]) -> np.ndarray:
        """The neighbours in the numbering of a gallery: what the batch sampler takes.

        Args:
            places: one id for each query, its true tile; ids may repeat.
            gallery_ids: tile ids in the gallery's order.

        Returns:
            int32 (queries, k): gallery rows, -1 where there are no more.

        Raises:
            GenGeoError: an id of `places` is not in the table, or one of the table is not in the gallery.
        """
        row_of = {tile: row for row, tile in enumerate(self.ids)}
        gallery_row = {tile: row for row, tile in enumerate(gallery_ids)}
        if unknown := [place for place in places if place not in row_of]:
            raise GenGeoError(
                f"{len(unknown)} places, first {unknown[0]!r}, are not in the neighbour table; rebuild it"
            )
        if unknown := [tile for tile in self.ids if tile not in gallery_row]:
            raise GenGeoError(
                f"{len(unknown)} tiles of the neighbour table, first {unknown[0]!r}, are not in the gallery; rebuild it"
            )
        to_gallery = np.array([gallery_row[tile] for tile in self.ids] + [-1], dtype=np.int32)
        return to_gallery[self.neighbours[[row_of[place] for place in places]]]


def great_circle_neighbours(
    ids: Sequence[str], lat: Any, lon: Any, k: int, *, legacy_degrees: bool = False
) -> NeighbourTable:
    """The k nearest other places of each place by great-circle distance, exact.

    Places become points on the unit sphere, where the straight distance has the order of the great-circle distance;
    a KD-tree searches them without an N x N array. Of those found, equal distances are in the order of the rows.

    Args:
        ids: N different names.
        lat: degrees, shape (N,).
        lon: degrees, shape (N,).
        k: how many neighbours.
        legacy_degrees: repeat a widespread error for baselines: the haversine formula fed with degrees where it
            expects radians, so that places 6.2832 degrees apart count as one. The distances given are the true ones.

    Returns:
        The table; -1 fills rows that have fewer than k neighbours.

    Raises:
        GenGeoError: an id occurs twice, a position is missing or out of range, or k is less than 1.
    """
    ids, lat, lon = _checked(ids, lat, lon, k)
    points = to_unit_vectors(lat, lon)
    # The haversine formula is an identity in its angles, also beyond a quarter turn: degrees taken for radians are
    # the points that follow from the same numbers read as radians.
    searched = to_unit_vectors(np.degrees(lat), np.degrees(lon)) if legacy_degrees else points
    rows = _nearest(searched, k)
    padded = np.where(rows < 0, 0, rows)
    chords = np.stack([np.linalg.norm(points[padded[:, j]] - points, axis=1) for j in range(k)], axis=1)
    metres = np.where(rows < 0, np.inf, arc_m(chords)).astype(np.float32)
    return NeighbourTable(ids, rows, metres)


def training_neighbours(dataset: Any, k: int = 128, *, legacy_degrees: bool = False) -> NeighbourTable:
    """Neighbours among the tiles that are the true tile of some query.

    A tile's own position counts; where it has none, the mean position of its queries.

    Args:
        dataset: a `CrossViewDataset`.
        k: how many neighbours.
        legacy_degrees: see `great_circle_neighbours`.

    Returns:
        The table over the true tiles, in the gallery's order.

    Raises:
        GenGeoError: a tile has no position.
    """
    return great_circle_neighbours(*true_tiles(dataset), k, legacy_degrees=legacy_degrees)


def true_tiles(dataset: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The tiles that are some query's true tile, in the gallery's order.

    Args:
        dataset: a `CrossViewDataset`.

    Returns:
        Ids, latitudes and longitudes in degrees, (N,) each: a tile's own position or, where it has none, the mean
        position of its queries; NaN where neither is known.
    """
    tiles = dataset.gallery["tile_id"][:]
    rows = dataset.positive_rows()
    used = np.unique(rows)
    of_tile = [np.array(dataset.gallery[column][:], dtype=np.float64) for column in ("lat", "lon")]
    of_query = [np.array(dataset.queries[column][:], dtype=np.float64) for column in ("lat", "lon")]
    unknown = np.isnan(of_tile[0]) | np.isnan(of_tile[1])
    means = mean_positions(rows, of_query[0], of_query[1], len(tiles))
    lat, lon = (np.where(unknown, mean, own)[used] for mean, own in zip(means, of_tile, strict=True))
    return [tiles[row] for row in used], lat, lon


def _checked(ids: Sequence[str], lat: Any, lon: Any, k: int) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Ids and positions that can be searched."""
    ids, lat, lon = tuple(ids), np.array(lat, dtype=np.float64), np.array(lon, dtype=np.float64)
    if lat.shape != (len(ids),) or lon.shape != (len(ids),):
        raise GenGeoError(f"{len(ids)} ids, but positions of shape {lat.shape} and {lon.shape}; they must be as many")
    if len(set(ids)) != len(ids):
        raise GenGeoError(f"{len(ids) - len(set(ids))} ids occur more than once; neighbours are named by id")
    if k < 1:
        raise GenGeoError(f"k must be at least 1, found {k}")
    bad = ~(np.abs(lat) <= 90) | ~(np.abs(lon) <= 360)
    if bad.any():
        row = int(np.argmax(bad))
        raise GenGeoError(
            f"{bad.sum()} places have no usable position, first {ids[row]!r} at ({lat[row]:g}, {lon[row]:g}); "
            "expected degrees, latitude first"
        )
    return ids, lat, lon


def _nearest(points: np.ndarray, k: int) -> np.ndarray:
    """int32 (N, k): the rows nearest to each row without itself, -1 for none."""
    from scipy.spatial import cKDTree

    count = len(points)
    wanted = min(k + 1, count)
    tree = cKDTree(points)
    out = np.full((count, k), -1, dtype=np.int32)
    for rows in np.array_split(np.arange(count), max(1, count * wanted // 2**20)):  # a bounded piece of memory
        distance, found = tree.query(points[rows], k=wanted, workers=-1)
        distance, found = distance.reshape(len(rows), wanted), found.reshape(len(rows), wanted)
        found = np.take_along_axis(found, np.lexsort((found, distance), axis=1), axis=1)
        # Itself goes last. Where more than k places share one spot it may not be among them.
        others = np.take_along_axis(found, np.argsort(found == rows[:, None], axis=1, kind="stable"), axis=1)
        out[rows, : wanted - 1] = others[:, : wanted - 1]
    return out
