"""Checks of the georeference of imagery: the order of rows and columns, and a shift against other imagery.

Both are measured from the images, and reported with the option that corrects them. Nothing is corrected automatically.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import metres_per_degree

if TYPE_CHECKING:
    from gengeo_hf.imagery.tiles import TileSource

# Minimum correlation of a tile with a quarter of its parent, and its minimum lead over that of the expected quarter.
MIN_CORRELATION, MARGIN = 0.7, 0.3
SIDE = 128  # side in pixels at which a tile is compared with its parent
TILES = 12  # number of tiles that are compared to measure a shift
MIN_PEAK_RATIO = 2.0  # minimum ratio of the correlation's peak to the next one of a meaningful shift
MAX_SHIFT = 0.35  # maximum shift that is measured, as a share of a tile's side


def wrong_order(tile: np.ndarray, parent: np.ndarray, column: int, row: int) -> str:
    """Detect rows or columns that the server numbers in another order, from a tile and its parent tile.

    A tile shows the same ground as one quarter of its parent, the tile of the next coarser zoom level. The parities of
    its column and row determine the quarter. If another quarter matches, the server numbers tiles in another order.

    Args:
        tile: RGB of a source tile, (side, side, 3).
        parent: RGB of the tile at half the column and row of the coarser level.
        column, row: Indices of the tile; one is odd and the other even, so that all wrong orders can be distinguished.

    Returns:
        Text with the correction; "" if the order is right or cannot be determined.
    """
    small, coarse = _grey(tile, SIDE), _grey(parent, 2 * SIDE)
    quarters = {(x, y): coarse[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] for x in (0, 1) for y in (0, 1)}
    found = {corner: _correlation(small, quarter) for corner, quarter in quarters.items()}
    expected, best = (column % 2, row % 2), max(found, key=lambda corner: found[corner])
    if best == expected or found[best] < MIN_CORRELATION or found[best] - found[expected] < MARGIN:
        return ""
    if best == (column % 2, 1 - row % 2):
        return "rows are counted from the other side: add --tms, or write {-y} instead of {y} (or leave them out)"
    if best == (row % 2, column % 2):
        return "column and row are exchanged: exchange {x} and {y} in the address"
    return "columns are counted from the other side: check the address"


@dataclass(frozen=True)
class Shift:
    """Displacement of imagery against other imagery of the same ground.

    Args:
        east_m, north_m: Metres from the position of a feature in the reference to its position in this imagery.
        peak: Ratio of the correlation's peak to the next one; below `MIN_PEAK_RATIO` the shift is not meaningful.
        tiles: Number of compared tiles.
    """

    east_m: float
    north_m: float
    peak: float
    tiles: int

    @property
    def is_clear(self) -> bool:
        """Whether the shift is meaningful."""
        return self.peak >= MIN_PEAK_RATIO

    def __str__(self) -> str:
        if not self.is_clear:
            return f"shift:       not clear from {self.tiles} tiles: the two sources are not similar enough"
        found = (
            f"shift:       {self.east_m:+.1f} m east, {self.north_m:+.1f} m north of the reference ({self.tiles} tiles)"
        )
        if max(abs(self.east_m), abs(self.north_m)) < 0.5:
            return found
        return f"{found}; --shift {-self.east_m:.1f},{-self.north_m:.1f} moves it there"


def measure_shift(source: "TileSource", reference: "TileSource") -> Shift:
    """Shift of imagery against other imagery, by phase correlation (Kuglin and Hines 1975) of tiles with equal centres.

    Args:
        source: Imagery whose shift is measured.
        reference: Imagery with the same tile ids, as it has with the same area and tile size.

    Raises:
        GenGeoError: No common tile can be read from both.
    """
    rows = {name: row for row, name in enumerate(reference.table["tile_id"].to_pylist())}
    common = [(row, rows[name]) for row, name in enumerate(source.table["tile_id"].to_pylist()) if name in rows]
    chosen = [common[i] for i in np.unique(np.linspace(0, len(common) - 1, 3 * TILES).astype(int))] if common else []
    surfaces, step = [], 0.0
    for mine, theirs in chosen:
        one, other = _readable(source, mine), _readable(reference, theirs)
        if one is None or other is None:
            continue
        side = min(max(one.width, other.width), 256)
        surfaces.append(_phase_correlation(_grey(np.asarray(one), side), _grey(np.asarray(other), side)))
        step = _height_m(source, mine) / side
        if len(surfaces) == TILES:
            break
    if not surfaces:
        raise GenGeoError(f"{source.name} and {reference.name} have no tile in common: choose an area that both cover")
    smallest = min(len(surface) for surface in surfaces)
    right, down, peak = _peak(np.mean([surface for surface in surfaces if len(surface) == smallest], axis=0))
    return Shift(right * step, -down * step, peak, len(surfaces))


def _readable(source: "TileSource", row: int) -> Image.Image | None:
    """A tile, None if it cannot be read."""
    try:
        return source.read(row)
    except GenGeoError:
        return None


def _height_m(source: "TileSource", row: int) -> float:
    """Height of a tile in metres on the ground."""
    tiles = source.table
    degrees = tiles["north"][row].as_py() - tiles["south"][row].as_py()
    return float(degrees) * float(metres_per_degree(tiles["lat"][row].as_py())[0])


def _grey(pixels: np.ndarray, side: int) -> np.ndarray:
    """Brightness resized to (side, side), float64."""
    image = Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float64)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation of two images of equal shape."""
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / max(1e-9, np.sqrt((one**2).sum() * (other**2).sum())))


def _phase_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Phase correlation (side, side). The offset of its peak from the centre is the shift of `one` against `other`."""
    window = np.hanning(len(one))[:, None] * np.hanning(len(one))[None]
    spectra = [np.fft.rfft2((image - image.mean()) * window) for image in (one, other)]
    product = spectra[0] * np.conj(spectra[1])
    return np.fft.fftshift(np.fft.irfft2(product / np.maximum(np.abs(product), 1e-9), s=one.shape))


def _peak(surface: np.ndarray) -> tuple[float, float, float]:
    """Offset of the peak in pixels to the right and down, with subpixel accuracy; ratio of the peak to the next one."""
    middle, room = len(surface) // 2, int(MAX_SHIFT * len(surface))
    near = surface[middle - room : middle + room + 1, middle - room : middle + room + 1]
    y, x = np.unravel_index(int(np.argmax(near)), near.shape)
    box = near[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
    weights = np.clip(box, 0, None)
    ys, xs = np.mgrid[max(0, y - 2) : max(0, y - 2) + box.shape[0], max(0, x - 2) : max(0, x - 2) + box.shape[1]]
    rest = near.copy()
    rest[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 0
    ratio = float(near[y, x] / max(float(rest.max()), 1e-9))
    return float((xs * weights).sum() / weights.sum()) - room, float((ys * weights).sum() / weights.sum()) - room, ratio
