"""The posterior of a position inside a tile as a picture that maps can lay on the ground."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from gengeo_hf.common.geo import Bounds, offset

COLOUR = (255, 196, 0)
DARKEST = 215  # opacity of the most probable position, of 255
ENLARGED = 8  # pixels a side for each position


@dataclass(frozen=True)
class PositionMap:
    """Probability of each position of a regular grid.

    Args:
        lat, lon: Degrees of the tile's centre.
        positions: float (P, 2), metres east and north of the centre.
        mass: float (P,), sums to 1.
    """

    lat: float
    lon: float
    positions: np.ndarray
    mass: np.ndarray

    @cached_property
    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        """East and north of the columns and rows of the grid, metres, rising."""
        return np.unique(self.positions[:, 0]), np.unique(self.positions[:, 1])

    @property
    def bounds(self) -> Bounds:
        """The box of the picture in degrees: half a step beyond the outer positions."""
        east, north = self._axes
        half = (east[1] - east[0]) / 2, (north[1] - north[0]) / 2
        south, west = offset(self.lat, self.lon, east[0] - half[0], north[0] - half[1])
        top, right = offset(self.lat, self.lon, east[-1] + half[0], north[-1] + half[1])
        return Bounds(float(west), float(south), float(right), float(top))

    def picture(self) -> bytes:
        """PNG, north up: one colour, more opaque where the photo is more probably taken (square root of the mass)."""
        east, north = self._axes
        column, row = np.searchsorted(east, self.positions[:, 0]), np.searchsorted(north, self.positions[:, 1])
        grid = np.zeros((len(north), len(east)))
        grid[len(north) - 1 - row, column] = self.mass
        opacity = np.sqrt(grid / max(grid.max(), 1e-12)) * DARKEST
        alpha = Image.fromarray(opacity.round().astype(np.uint8))
        image = Image.new("RGBA", (ENLARGED * len(east), ENLARGED * len(north)), COLOUR)
        image.putalpha(alpha.resize(image.size, Image.Resampling.BICUBIC))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        return buffer.getvalue()
