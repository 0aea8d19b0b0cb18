"""Spatial order of tiles, and search of the rows near a position.

Rows are sorted by a Morton code of Web Mercator, so each block of 256 rows covers a small area. A block has a bounding
sphere around the mean of its positions on the unit sphere, so poles and the date line need no special cases. A circle
on the ground intersects few blocks, which form few runs of rows.
"""

import math

import numpy as np

from gengeo_hf.common.geo import chord, to_unit_vectors
from gengeo_hf.common.units import Near

BLOCK_ROWS = 256
_BITS = 24  # bits of each axis: cells of 2.4 m at the equator
_MOST_NORTHERN = 89.9  # degrees; Mercator does not include the poles


def spatial_order(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Rows in spatial order, int64 (tiles,). Equal positions keep their order.

    Args:
        lat, lon: (tiles,) positions in degrees.
    """
    size = 1 << _BITS
    phi = np.radians(np.clip(lat, -_MOST_NORTHERN, _MOST_NORTHERN))
    top = math.asinh(math.tan(math.radians(_MOST_NORTHERN)))
    x = np.clip((np.asarray(lon) + 180.0) / 360.0 * size, 0, size - 1).astype(np.uint64)
    y = np.clip((np.arcsinh(np.tan(phi)) / top + 1.0) / 2.0 * size, 0, size - 1).astype(np.uint64)
    return np.argsort(_spread(x) | (_spread(y) << np.uint64(1)), kind="stable")


def _spread(values: np.ndarray) -> np.ndarray:
    """Insert a zero between all bits."""
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values


def block_balls(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Bounding sphere of each block of rows: float64 (blocks, 4), centre and radius on the unit sphere.

    Args:
        lat, lon: (tiles,) positions in degrees, in the order of the rows.
    """
    balls = np.empty((-(-len(lat) // BLOCK_ROWS), 4))
    for first in range(0, len(balls), 1024):  # about 260,000 tiles at a time
        rows = slice(first * BLOCK_ROWS, (first + 1024) * BLOCK_ROWS)
        points = to_unit_vectors(lat[rows], lon[rows])
        for block in range(first, min(first + 1024, len(balls))):
            members = points[(block - first) * BLOCK_ROWS : (block - first + 1) * BLOCK_ROWS]
            centre = members.mean(axis=0)
            balls[block] = *centre, np.sqrt(((members - centre) ** 2).sum(axis=1).max()) + 1e-12
    return balls


def runs_near(balls: np.ndarray, tiles: int, near: Near) -> list[tuple[int, int]]:
    """Runs of rows (first, end) that contain all tiles in a circle.

    Args:
        balls: Result of `block_balls`.
        tiles: Number of rows.
        near: The circle.
    """
    if not len(balls):
        return []
    gaps = balls[:, :3] - to_unit_vectors(near.lat, near.lon)
    touched = np.sqrt((gaps**2).sum(axis=1)) <= chord(near.radius_m) + balls[:, 3]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], touched, [False]]).astype(np.int8)))
    return [
        (int(first) * BLOCK_ROWS, min(int(last) * BLOCK_ROWS, tiles))
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]


def within(lat: np.ndarray, lon: np.ndarray, near: Near) -> np.ndarray:
    """Whether each position lies in a circle: bool, with the shape of `lat`.

    Args:
        lat, lon: Positions in degrees.
        near: The circle.
    """
    gaps = to_unit_vectors(lat, lon) - to_unit_vectors(near.lat, near.lon)
    return np.einsum("...d,...d->...", gaps, gaps) <= chord(near.radius_m) ** 2
