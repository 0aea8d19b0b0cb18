"""Grids of tile centres over an area: rows of equal latitude, spaced in metres on the ground.

The ground size of a tile depends neither on the latitude nor on the projection of the imagery.
"""

import math
from collections.abc import Sequence

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import metres_per_degree, wrap_longitude

MAX_CELLS = 50_000_000


def cell_grids(
    boxes: Sequence[np.ndarray] | np.ndarray, tile_m: float, stride_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """Centres of candidate tiles: one grid for each group of boxes that touch.

    Args:
        boxes: Boxes as arrays of south, north, west, east in degrees. The east of a box across the date line exceeds
            180.
        tile_m: Side of a tile in metres on the ground.
        stride_m: Maximum distance between the centres of neighbours in metres.

    Returns:
        Latitudes and longitudes in degrees, each of shape (tiles,).

    Raises:
        GenGeoError: More than `MAX_CELLS` tiles.
    """
    left, groups = np.array(boxes, dtype=float), []
    while len(left):
        box, left = left[-1].copy(), left[:-1]
        while (touching := _touch(box, left)).any():
            for other in left[touching]:
                other[2:] += 360.0 * round((box[2:].mean() - other[2:].mean()) / 360.0)
                box = np.where([True, False, True, False], np.minimum(box, other), np.maximum(box, other))
            left = left[~touching]
        groups.append(box)
    if sum(count_cells(box, tile_m, stride_m) for box in groups) > MAX_CELLS:
        raise GenGeoError(f"more than 50 million tiles of {tile_m:g} m: choose larger tiles (--tile) or a smaller area")
    grids = [_grid(box, tile_m, stride_m) for box in groups]
    return np.concatenate([g[0] for g in grids]), np.concatenate([g[1] for g in grids])


def count_cells(box: np.ndarray, tile_m: float, stride_m: float) -> float:
    """Estimated number of tiles of the grid over a box.

    Args:
        box: South, north, west, east in degrees.
        tile_m: Side of a tile in metres.
        stride_m: Maximum distance between the centres of neighbours in metres.
    """
    south, north, west, east = (float(side) for side in box)
    per_lat, per_lon = (float(v) for v in metres_per_degree((south + north) / 2))
    rows, columns = (
        (extent - tile_m) / stride_m + 1 for extent in ((north - south) * per_lat, (east - west) * per_lon)
    )
    return max(1.0, rows) * max(1.0, columns)


def _touch(a: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each box (south, north, west, east) of `others`, (n, 4), overlaps or touches `a`: bool (n,)."""
    apart = (others[:, 2:].mean(axis=1) - a[2:].mean() + 180.0) % 360.0 - 180.0
    tolerance = 1e-4  # degrees, about 10 m, since edges of neighbours in a projection do not match exactly
    wide = (a[3] - a[2] + others[:, 3] - others[:, 2]) / 2
    return (np.abs(apart) <= wide + tolerance) & (a[0] <= others[:, 1] + tolerance) & (others[:, 0] <= a[1] + tolerance)


def _grid(box: np.ndarray, tile_m: float, stride_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres of candidate tiles over a box (south, north, west, east), row by row from the north.

    The outer tiles of a row end at the edges of the box, and the others are evenly spaced between them, so the overlap
    is the requested one or slightly larger.
    """
    south, north, west, east = (float(side) for side in box)
    rows_lat = _spread(south, north, float(metres_per_degree((south + north) / 2)[0]), tile_m, stride_m)[::-1]
    lats, lons = [], []
    for value in rows_lat:
        row = _spread(west, east, max(float(metres_per_degree(value)[1]), 1e-3), tile_m, stride_m)
        lats.append(np.full(len(row), value))
        lons.append(wrap_longitude(row))
    return np.concatenate(lats), np.concatenate(lons)


def _spread(low: float, high: float, metres: float, tile_m: float, stride_m: float) -> np.ndarray:
    """Centres of tiles in degrees along one axis.

    Args:
        low, high: Range of the axis in degrees.
        metres: Metres in one degree.
        tile_m: Side of a tile in metres.
        stride_m: Maximum distance between centres in metres.
    """
    extent = (high - low) * metres
    count = 1 if extent <= tile_m else math.ceil(round((extent - tile_m) / stride_m, 6)) + 1
    if count == 1:
        return np.array([(low + high) / 2])
    return np.linspace(low + tile_m / 2 / metres, high - tile_m / 2 / metres, count)
