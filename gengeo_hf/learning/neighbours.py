"""Tables of geographic neighbours for hard-negative batches: exact great-circle distances in metres, by id.

This module and the modules that it needs do not import `datasets`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import arc_m, mean_positions, to_unit_vectors


@dataclass(frozen=True)
class NeighbourTable:
    """The k nearest neighbours of each of N tiles, nearest first.

    Args:
        ids: Ids of the tiles, N of them.
        neighbours: Indices of the neighbours in `ids`, int32 (N, k); -1 where there are fewer than k.
        distances_m: Great-circle distances in metres, float32 (N, k); infinite where there are fewer than k.
    """

    ids: tuple[str, ...]
    neighbours: np.ndarray
    distances_m: np.ndarray

    def rows_for(self, tile_ids: Sequence[str], gallery_ids: Sequence[str]) -> np.ndarray:
        """Return the neighbours of the true tile of each query as gallery rows, for the batch sampler.

        Args:
            tile_ids: Id of the true tile of each query; ids may repeat.
            gallery_ids: Ids of all tiles in the order of the gallery.

        Returns:
            Gallery rows, int32 (queries, k); -1 where there are fewer than k.

        Raises:
            GenGeoError: An id of `tile_ids` is not in the table, or an id of the table is not in the gallery.
        """
        row_of = {tile: row for row, tile in enumerate(self.ids)}
        gallery_row = {tile: row for row, tile in enumerate(gallery_ids)}
        if unknown := [tile for tile in tile_ids if tile not in row_of]:
            raise GenGeoError(
                f"{len(unknown)} true tiles, first {unknown[0]!r}, are not in the neighbour table; rebuild it"
            )
        if unknown := [tile for tile in self.ids if tile not in gallery_row]:
            raise GenGeoError(
                f"{len(unknown)} tiles of the neighbour table, first {unknown[0]!r}, are not in the gallery; rebuild it"
            )
        to_gallery = np.array([gallery_row[tile] for tile in self.ids] + [-1], dtype=np.int32)
        return to_gallery[self.neighbours[[row_of[tile] for tile in tile_ids]]]


def great_circle_neighbours(
    ids: Sequence[str], lat: Any, lon: Any, k: int, *, legacy_degrees: bool = False
) -> NeighbourTable:
    """Find the k nearest neighbours of each position by exact great-circle distance.

    Positions become unit vectors, whose straight distances have the same order as great-circle distances; a KD-tree
    searches them without an N x N array. Neighbours at equal distances are in the order of the rows.

    Args:
        ids: Unique ids, N of them.
        lat: Latitudes in degrees, shape (N,).
        lon: Longitudes in degrees, shape (N,).
        k: Number of neighbours.
        legacy_degrees: Whether to reproduce, for baselines, a common error: the haversine formula applied to degrees
            instead of radians, in which positions 6.2832 degrees apart coincide. `distances_m` are correct anyway.

    Returns:
        The table; rows with fewer than k neighbours are filled with -1.

    Raises:
        GenGeoError: An id occurs twice, a position is missing or out of range, or k is less than 1.
    """
    ids, lat, lon = _check(ids, lat, lon, k)
    points = to_unit_vectors(lat, lon)
    # The haversine formula holds for any angles, so degrees used as radians correspond to the unit vectors of the same
    # numbers in radians.
    searched = to_unit_vectors(np.degrees(lat), np.degrees(lon)) if legacy_degrees else points
    rows = _nearest(searched, k)
    padded = rows.clip(0)
    chords = np.stack([np.linalg.norm(points[padded[:, j]] - points, axis=1) for j in range(k)], axis=1)
    metres = np.where(rows < 0, np.inf, arc_m(chords)).astype(np.float32)
    return NeighbourTable(ids, rows, metres)


def training_neighbours(dataset: Any, k: int = 128, *, legacy_degrees: bool = False) -> NeighbourTable:
    """Find the neighbours among the tiles that are the true tile of at least one query.

    A tile without a position has the mean position of its queries.

    Args:
        dataset: A `CrossViewDataset`.
        k: Number of neighbours.
        legacy_degrees: See `great_circle_neighbours`.

    Returns:
        Table of the true tiles, in the order of the gallery.

    Raises:
        GenGeoError: A tile has no position.
    """
    return great_circle_neighbours(*true_tiles(dataset), k, legacy_degrees=legacy_degrees)


def true_tiles(dataset: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the tiles that are the true tile of at least one query, in the order of the gallery.

    Args:
        dataset: A `CrossViewDataset`.

    Returns:
        Ids, latitudes and longitudes in degrees, N of each: the position of the tile, or else the mean position of its
        queries; NaN if neither is known.
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


def _check(ids: Sequence[str], lat: Any, lon: Any, k: int) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Return ids and positions as a tuple and float64 arrays; refuse invalid ones."""
    ids, lat, lon = tuple(ids), np.array(lat, dtype=np.float64), np.array(lon, dtype=np.float64)
    if lat.shape != (len(ids),) or lon.shape != (len(ids),):
        raise GenGeoError(f"found {len(ids)} ids and positions of shapes {lat.shape} and {lon.shape}: expected as many")
    if len(set(ids)) != len(ids):
        raise GenGeoError(f"{len(ids) - len(set(ids))} ids occur more than once; neighbours are named by id")
    if k < 1:
        raise GenGeoError(f"k must be at least 1, found {k}")
    bad = ~(np.abs(lat) <= 90) | ~(np.abs(lon) <= 360)
    if bad.any():
        row = int(np.argmax(bad))
        raise GenGeoError(
            f"{bad.sum()} tiles have no valid position, first {ids[row]!r} at ({lat[row]:g}, {lon[row]:g}); "
            "expected degrees, latitude first"
        )
    return ids, lat, lon


def _nearest(points: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest rows of each row, except itself, int32 (N, k); -1 where there are fewer."""
    from scipy.spatial import cKDTree

    count = len(points)
    wanted = min(k + 1, count)
    tree = cKDTree(points)
    out = np.full((count, k), -1, dtype=np.int32)
    for rows in np.array_split(np.arange(count), max(1, count * wanted // 2**20)):  # bounds the memory
        distance, found = tree.query(points[rows], k=wanted, workers=-1)
        distance, found = distance.reshape(len(rows), wanted), found.reshape(len(rows), wanted)
        found = np.take_along_axis(found, np.lexsort((found, distance), axis=1), axis=1)
        # Move the row itself to the end. It may be missing where more than k positions are equal.
        others = np.take_along_axis(found, np.argsort(found == rows[:, None], axis=1, kind="stable"), axis=1)
        out[rows, : wanted - 1] = others[:, : wanted - 1]
    return out
