"""Whether imagery lies where it says: the order of rows and columns, and a shift against other imagery.

Both are measured from pictures and reported with the option that corrects them; nothing is corrected unasked.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import metres_per_degree

if TYPE_CHECKING:
    from gengeo_hf.imagery.tiles import TileSource

ALIKE, MARGIN = 0.7, 0.3  # correlation of a tile with its place in the tile above it, and its lead over another place
SIDE = 128  # pixels at which tiles are compared with the tile above them
TILES = 12  # that are compared to measure a shift
LEAST_PEAK = 2.0  # times the next peak; below it two sources do not show the same ground clearly enough
SHIFT_ROOM = 0.35  # of a tile's side, the largest shift that is looked for


def wrong_order(tile: np.ndarray, above: np.ndarray, column: int, row: int) -> str:
    """What to do about rows or columns that are counted otherwise, by a tile and the one above it.

    A tile shows the same ground as one quarter of the tile of the next coarser zoom level. Which quarter follows from
    whether its column and row are odd; if it is another quarter, the numbers mean something else to the server.

    Args:
        tile: RGB of a source tile, (side, side, 3).
        above: RGB of the tile at half the column and row of the coarser level.
        column, row: Of the tile; one of them odd and the other even, so that all mistakes differ.

    Returns:
        The option that corrects it; empty where the order is right, or cannot be told.
    """
    small, coarse = _grey(tile, SIDE), _grey(above, 2 * SIDE)
    quarters = {(x, y): coarse[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] for x in (0, 1) for y in (0, 1)}
    alike = {place: _correlation(small, quarter) for place, quarter in quarters.items()}
    expected, best = (column % 2, row % 2), max(alike, key=lambda place: alike[place])
    if best == expected or alike[best] < ALIKE or alike[best] - alike[expected] < MARGIN:
        return ""
    if best == (column % 2, 1 - row % 2):
        return "rows are counted from the other side: add --tms, or write {-y} instead of {y} (or leave them out)"
    if best == (row % 2, column % 2):
        return "column and row are exchanged: exchange {x} and {y} in the address"
    return "columns are counted from the other side: check the address"


@dataclass(frozen=True)
class Shift:
    """How far imagery lies from other imagery of the same ground.

    Args:
        east_m, north_m: Metres from where the other imagery shows a thing to where this one does.
        peak: Height of the correlation's peak over the next one; below `LEAST_PEAK` the shift means nothing.
        tiles: How many were compared.
    """

    east_m: float
    north_m: float
    peak: float
    tiles: int

    @property
    def is_clear(self) -> bool:
        """Whether both show the same ground clearly enough."""
        return self.peak >= LEAST_PEAK

    def __str__(self) -> str:
        if not self.is_clear:
            return f"shift:       not clear from {self.tiles} tiles: the two do not look alike enough"
        found = (
            f"shift:       {self.east_m:+.1f} m east, {self.north_m:+.1f} m north of the reference ({self.tiles} tiles)"
        )
        if max(abs(self.east_m), abs(self.north_m)) < 0.5:
            return found
        return f"{found}; --shift {-self.east_m:.1f},{-self.north_m:.1f} moves it there"


def measure_shift(source: "TileSource", reference: "TileSource") -> Shift:
    """Shift of imagery against other imagery, by phase correlation (Kuglin and Hines 1975) of tiles with equal centres.

    Args:
        source, reference: With tiles of the same names, as two sources have that are cut by one area and tile size.

    Raises:
        GenGeoError: They have no tile in common that both can show.
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
    try:
        return source.read(row)
    except GenGeoError:
        return None


def _height_m(source: "TileSource", row: int) -> float:
    tiles = source.table
    degrees = tiles["north"][row].as_py() - tiles["south"][row].as_py()
    return float(degrees) * float(metres_per_degree(tiles["lat"][row].as_py())[0])


def _grey(pixels: np.ndarray, side: int) -> np.ndarray:
    """Brightness at (side, side), float."""
    image = Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float64)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / max(1e-9, np.sqrt((one**2).sum() * (other**2).sum())))


def _phase_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Surface whose peak says how far `one` is moved against `other`, with no shift in its middle."""
    window = np.hanning(len(one))[:, None] * np.hanning(len(one))[None]
    spectra = [np.fft.rfft2((image - image.mean()) * window) for image in (one, other)]
    product = spectra[0] * np.conj(spectra[1])
    return np.fft.fftshift(np.fft.irfft2(product / np.maximum(np.abs(product), 1e-9), s=one.shape))


def _peak(surface: np.ndarray) -> tuple[float, float, float]:
    """Pixels to the right and down of the highest point, to a part of a pixel, and its height over the next one."""
    middle, room = len(surface) // 2, int(SHIFT_ROOM * len(surface))
    near = surface[middle - room : middle + room + 1, middle - room : middle + room + 1]
    y, x = np.unravel_index(int(np.argmax(near)), near.shape)
    box = near[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
    weights = np.clip(box, 0, None)
    ys, xs = np.mgrid[max(0, y - 2) : max(0, y - 2) + box.shape[0], max(0, x - 2) : max(0, x - 2) + box.shape[1]]
    rest = near.copy()
    rest[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 0
    ratio = float(near[y, x] / max(float(rest.max()), 1e-9))
    return float((xs * weights).sum() / weights.sum()) - room, float((ys * weights).sum() / weights.sum()) - room, ratio
