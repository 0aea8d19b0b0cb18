"""Picture of the posterior of a position inside a tile, for maps."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from gengeo_hf.common.geo import Bounds, offset

COLOUR = (255, 196, 0)
DARKEST = 215  # opacity of the most probable position, 0 to 255
ENLARGED = 8  # side in pixels of each position


@dataclass(frozen=True)
class PositionMap:
    """Probability of each position of a regular grid.

    Args:
        lat, lon: Centre of the tile, degrees.
        positions: float (P, 2) positions in metres east and north of the centre, on a regular grid.
        mass: float (P,) probability of each position; sums to 1.
    """

    lat: float
    lon: float
    positions: np.ndarray
    mass: np.ndarray

    @cached_property
    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        """East of the columns and north of the rows of the grid, metres, ascending."""
        return np.unique(self.positions[:, 0]), np.unique(self.positions[:, 1])

    @property
    def bounds(self) -> Bounds:
        """Bounds of the picture in degrees, half a step beyond the outer positions."""
        east, north = self._axes
        half = (east[1] - east[0]) / 2, (north[1] - north[0]) / 2
        south, west = offset(self.lat, self.lon, east[0] - half[0], north[0] - half[1])
        top, right = offset(self.lat, self.lon, east[-1] + half[0], north[-1] + half[1])
        return Bounds(float(west), float(south), float(right), float(top))

    def picture(self) -> bytes:
        """Render a north-up PNG in one colour whose opacity is proportional to the square root of the mass."""
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
