"""Rendering of Just Zoom In's cells from its tile pyramid, with the tile reader of `gengeo_hf.imagery`."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.data.benchmarks import justzoomin_grid as grid
from gengeo_hf.data.benchmarks.layout import names_in
from gengeo_hf.imagery.client import Answer, ImageryClient
from gengeo_hf.imagery.grids import Level, TileGrid
from gengeo_hf.imagery.tile_reader import TileReader
from gengeo_hf.imagery.tiles import Rights

BLOCK = 8  # cells along a side of the block that a thread renders at a time, so that few tiles are decoded twice
QUALITY = 92  # JPEG quality
EXTENT_M = 500_000.0  # extent of the grid from the origin of the tiles; Washington is at about 400 km
PARTIAL = ".partial"


@dataclass(frozen=True)
class Cells:
    """Rendered cells.

    Args:
        folder: Directory of the cells, relative to the data set.
        is_covered: Whether each cell has an image, bool (256, 256).
        coarse: Number of cells that were rendered from a coarser zoom level.
        reasons: Number of source tiles that were not used, by reason.
    """

    folder: str
    is_covered: np.ndarray
    coarse: int
    reasons: dict[str, int]


class PyramidFolder:
    """The tile pyramid on disk as a tile service. Rows of files count northwards, rows of the grid southwards.

    Args:
        root: Directory of the zoom levels.
        zooms: Existing zoom levels.
    """

    kind, host, tile_kb = "folder", "", 20.0
    extent: Bounds | None = None

    def __init__(self, root: Path, zooms: Iterable[int]) -> None:
        self.root, self.name = root, str(root)
        self.identity = f"folder {root}"
        self.rights = Rights("Open Data DC", "CC-BY-4.0")
        levels = [_level(zoom) for zoom in zooms]
        self.grid = TileGrid(grid.CRS, levels, "Just Zoom In", lambda lat, lon: tuple(grid.project(lat, lon)))

    def fetch(self, client: ImageryClient, zoom: int, column: int, row: int) -> Answer:
        """The file of one tile as a response, with status 404 for a missing file."""
        path = self.root / str(zoom) / str(column) / f"{self.grid.level(zoom).rows - 1 - row}.jpg"
        try:
            return Answer(200, path.read_bytes(), {}, str(path))
        except FileNotFoundError:
            return Answer(404, b"", {}, str(path))


def _level(zoom: int) -> Level:
    """The grid of one zoom level."""
    side = grid.TILE_M * 2.0**-zoom
    count = int(np.ceil(EXTENT_M / side))
    left, bottom = grid.TILE_ORIGIN_M
    return Level(zoom, side / grid.TILE_PIXELS, left, bottom + count * side, count, count, grid.TILE_PIXELS, str(zoom))


def cells_folder(crop_m: float, zoom: int) -> str:
    """Directory of cells with a crop size and a zoom level, relative to the data set."""
    return f"cells/{crop_m:g}m_z{zoom}"


def render_cells(
    root: Path,
    zoom: int,
    crop_m: float,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
    workers: int = 2,
    wanted: np.ndarray | None = None,
) -> Cells:
    """Render every cell that the tiles cover. Existing images are kept.

    A cell with a missing source tile is rendered from the next coarser zoom level on disk, and left out if
    no level covers it; missing parts are never filled.

    Args:
        root: Directory of the data set.
        zoom: Zoom level of the pyramid, 0 (0.08 m per pixel) or below; each lower level doubles the pixel size.
        crop_m: Side of a cell's crop in metres.
        progress: Wraps the iteration over blocks to show progress.
        workers: Number of threads.
        wanted: Cells to render, bool (256, 256); None renders all.

    Raises:
        GenGeoError: There are no tiles of this zoom level, or no cell is covered.
    """
    home = root / "satellite"
    zooms = sorted((int(name) for name in names_in(home) if _is_number(name) and int(name) <= zoom), reverse=True)
    if zoom not in zooms:
        raise GenGeoError(f"{home} has no tiles of zoom {zoom}: run `gengeo data get justzoomin` with --zoom {zoom}")
    folder = cells_folder(crop_m, zoom)
    target = root / folder
    target.mkdir(parents=True, exist_ok=True)
    missing = ~_rendered(target)
    missing = missing if wanted is None else missing & wanted
    coarse = 0
    with ImageryClient() as client, ThreadPoolExecutor(workers) as pool:
        reader = TileReader(PyramidFolder(home, zooms), client, None)
        for level in (reader.service.grid.level(number) for number in zooms):
            blocks = list(_blocks(missing & _cells_with_tiles(home, level, crop_m)))
            renderer = _Renderer(reader, level, crop_m, target)
            for cells in progress(pool.map(renderer.render, blocks), len(blocks)):
                missing[cells[:, 0], cells[:, 1]] = False
                coarse += len(cells) if level.zoom != zoom else 0
    is_covered = _rendered(target)
    if not is_covered.any():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(reader.bad).most_common(3))
        raise GenGeoError(f"no cell could be rendered from {home}/{zoom}: {reasons or 'its tiles cover another area'}")
    return Cells(folder, is_covered, coarse, dict(reader.bad))


def _rendered(folder: Path) -> np.ndarray:
    """Whether each cell has a file, bool (256, 256)."""
    found = np.zeros((grid.CELLS, grid.CELLS), dtype=bool)
    for name in names_in(folder):
        if match := re.fullmatch(r"r(\d{3})c(\d{3})\.jpg", name):
            found[min(int(match[1]), grid.CELLS - 1), min(int(match[2]), grid.CELLS - 1)] = True
    return found


def _is_number(name: str) -> bool:
    return name.lstrip("-").isdigit()


def _blocks(missing: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows and columns of missing cells, (n, 2), for each block that has any."""
    for top in range(0, grid.CELLS, BLOCK):
        for left in range(0, grid.CELLS, BLOCK):
            cells = np.argwhere(missing[top : top + BLOCK, left : left + BLOCK])
            if len(cells):
                yield cells + np.array([top, left])


def _cells_with_tiles(home: Path, level: Level, crop_m: float) -> np.ndarray:
    """Whether all source tiles under the crop of each cell have files, bool (256, 256)."""
    side = level.tile * level.resolution
    margin = level.resolution  # whole pixels are read, which may extend beyond the crop
    middle = (np.arange(grid.CELLS) + 0.5) * grid.CELL_M
    left, bottom = grid.TILE_ORIGIN_M
    reach = crop_m / 2 + margin
    x = [np.floor((grid.WEST_M + middle + by - left) / side).astype(int) for by in (-reach, reach)]
    y = [np.floor((grid.NORTH_M - middle + by - bottom) / side).astype(int) for by in (-reach, reach)]
    x0, y0 = int(x[0].min()), int(y[0].min())
    there = np.zeros((int(y[1].max()) - y0 + 1, int(x[1].max()) - x0 + 1), dtype=np.int64)
    for column in range(there.shape[1]):
        for name in names_in(home / str(level.zoom) / str(column + x0)):
            stem, _, suffix = name.partition(".")
            if suffix == "jpg" and _is_number(stem) and 0 <= int(stem) - y0 < there.shape[0]:
                there[int(stem) - y0, column] = 1
    sums = np.pad(there.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    top, low, right, west = y[1] - y0 + 1, y[0] - y0, x[1] - x0 + 1, x[0] - x0
    count = sums[np.ix_(top, right)] - sums[np.ix_(low, right)] - sums[np.ix_(top, west)] + sums[np.ix_(low, west)]
    return np.asarray(count == (top - low)[:, None] * (right - west)[None])


class _Renderer:
    """Renders blocks of cells from one zoom level. Safe for threads."""

    def __init__(self, reader: TileReader, level: Level, crop_m: float, target: Path) -> None:
        self._reader, self._level, self._crop_m, self._target = reader, level, crop_m, target
        self._pixels = max(1, round(crop_m / level.resolution))

    def render(self, cells: np.ndarray) -> np.ndarray:
        """Render and write some cells.

        Args:
            cells: Rows and columns of the cells, (n, 2).

        Returns:
            Rows and columns of the cells that were written, (m, 2).
        """
        lat, lon = grid.cell_centres(cells[:, 0], cells[:, 1])
        maps = self._reader.service.grid.affine_maps(self._level, lat, lon)
        done = np.zeros(len(cells), dtype=bool)
        for index, to_pixel in enumerate(maps):
            image, reason = self._reader.crop(to_pixel, self._level, self._crop_m, self._pixels)
            if image is None or reason:  # a source tile is missing or not an image
                continue
            path = self._target / f"{grid.cell_name(*cells[index].tolist())}.jpg"
            partial = path.with_name(path.name + PARTIAL)
            image.save(partial, "JPEG", quality=QUALITY)
            partial.replace(path)
            done[index] = True
        return cells[done]
