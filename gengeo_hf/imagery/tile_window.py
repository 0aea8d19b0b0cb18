"""Cropping of a tile with a ground size and a ground sampling distance from a grid of pixels, resampled once.

The grid may be a raster file or the pixels of one zoom level of map tiles. Within one tile the map from metres around
its centre to pixels of the grid is affine to well below a pixel, in every projection that is used for orthophotos.
True north is up in the tile, even if the grid is rotated.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

NATIVE = 1.3  # maximum ratio of the pixel sizes of grid and tile, or its inverse, without resampling
STRAIGHT = 0.25  # maximum displacement in pixels of a tile's corner by rotation that is ignored


@dataclass(frozen=True)
class TileWindow:
    """Window of a grid that a tile needs, and the map by which the tile is resampled from it.

    Args:
        low: First column and row of the window, (2,).
        high: Column and row after the last ones of the window, (2,).
        shape: Rows and columns at which the window should be read; fewer than those of the window if the grid is finer
            than the tile and the reader can reduce it (overviews).
        size: Side of the tile in pixels.
        to_grid: Linear map from tile (column, row) to grid (column, row), (2, 2).
        origin: Grid (column, row) of the tile's upper left corner, (2,).
        is_inside: Whether the grid contains the whole tile.
    """

    low: np.ndarray
    high: np.ndarray
    shape: tuple[int, int]
    size: int
    to_grid: np.ndarray
    origin: np.ndarray
    is_inside: bool

    @classmethod
    def under(cls, to_pixel: np.ndarray, tile_m: float, size: int, width: int, height: int) -> "TileWindow":
        """The window under one tile.

        Args:
            to_pixel: Affine map from (east, north) metres around the tile's centre to grid (column, row), (2, 3).
            tile_m: Side of the tile in metres on the ground.
            size: Side of the tile in pixels.
            width, height: Size of the grid in pixels.
        """
        linear, centre = to_pixel[:, :2], to_pixel[:, 2]
        step = tile_m / size
        to_grid = linear @ np.array([[step, 0.0], [0.0, -step]])
        origin = centre + linear @ np.array([-tile_m / 2, tile_m / 2])
        corners = origin[:, None] + to_grid @ np.array([[0, size, 0, size], [0, 0, size, size]])
        low = np.maximum(np.floor(corners.min(axis=1)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(corners.max(axis=1)).astype(int) + 1, [width, height])
        shrink = max(1.0, float(np.sqrt(np.abs(np.linalg.det(to_grid)))))  # grid pixels in one pixel of the tile
        rows, columns = (max(1, math.ceil(extent / shrink)) for extent in (high - low)[::-1])
        inside = bool((corners.min(axis=1) >= 0).all() and (corners.max(axis=1) <= [width, height]).all())
        return cls(low, high, (rows, columns), size, to_grid, origin, inside)

    @property
    def is_empty(self) -> bool:
        """Whether the tile is outside the grid."""
        return bool((self.high <= self.low).any())

    def whole_box(self) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom of the whole grid pixels that form the tile; None if it must be resampled.

        No resampling is needed if the grid is not rotated and about as fine as the tile. The tile then consists of
        unchanged pixels of the grid, displaced by at most half a pixel, which only the model's resizing resamples.
        """
        turned = max(abs(self.to_grid[0, 1]), abs(self.to_grid[1, 0])) * self.size
        scale = np.diag(self.to_grid)
        if turned >= STRAIGHT or scale.min() < 1 / NATIVE or scale.max() > NATIVE or not self.is_inside:
            return None
        left, top = np.rint(self.origin).astype(int).tolist()
        wide, high = np.maximum(1, np.rint(self.size * scale)).astype(int).tolist()
        right, bottom = left + wide, top + high
        if left < self.low[0] or top < self.low[1] or right > self.high[0] or bottom > self.high[1]:
            return None
        return left, top, right, bottom

    def resample(self, pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Resample the pixels of the window to the tile.

        Args:
            pixels: RGB of the window, uint8 (rows, columns, 3), read at any scale.
            mask: 0 for pixels without data, uint8 (rows, columns).

        Returns:
            RGB, uint8 (size, size, 3); and validity, bool (size, size), or None if all pixels are valid.
        """
        scale = np.array([pixels.shape[1], pixels.shape[0]]) / (self.high - self.low)
        matrix, shift = scale[:, None] * self.to_grid, scale * (self.origin - self.low)
        smooth = self._transform(Image.fromarray(pixels), matrix, shift, Image.Resampling.BILINEAR)
        if self.is_inside and mask.all():
            return smooth, None
        return smooth, self._transform(Image.fromarray(mask), matrix, shift, Image.Resampling.NEAREST) > 0

    def _transform(
        self, image: Image.Image, matrix: np.ndarray, shift: np.ndarray, resampling: Image.Resampling
    ) -> np.ndarray:
        """Resample an image to the tile by an affine map from tile pixels to image pixels."""
        size = (self.size, self.size)
        side = self.size * np.diag(matrix)
        left, top, right, bottom = (float(value) for value in (*shift, *(shift + side)))
        is_straight = abs(matrix[0, 1]) * self.size < STRAIGHT and abs(matrix[1, 0]) * self.size < STRAIGHT
        fits = shift.min() >= 0 and right <= image.width and bottom <= image.height and side.min() > 0
        if is_straight and fits:  # the filter of `resize` averages where the grid is finer than the tile
            return np.asarray(image.resize(size, resampling, box=(left, top, right, bottom)))
        coefficients = (matrix[0, 0], matrix[0, 1], shift[0], matrix[1, 0], matrix[1, 1], shift[1])
        return np.asarray(image.transform(size, Image.Transform.AFFINE, coefficients, resample=resampling))
