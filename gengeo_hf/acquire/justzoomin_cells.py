"""Rendering of Just Zoom In's cells out of its tile pyramid, by the cutter of the imagery package."""

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

BLOCK = 8  # cells along a side of what one thread renders at a time: few source tiles are decoded twice
QUALITY = 92  # of JPEG
EXTENT_M = 500_000.0  # of the plane, from the origin of the tiles: Washington lies at 400 km
PARTIAL = ".partial"


@dataclass(frozen=True)
class Cells:
    """Rendered cells.

    Args:
        folder: Where they lie, relative to the data set.
        is_covered: Whether the tile of each cell is there, bool (256, 256).
        coarse: How many come from a coarser zoom.
        reasons: Source tiles that were not used, by reason.
    """

    folder: str
    is_covered: np.ndarray
    coarse: int
    reasons: dict[str, int]


class PyramidFolder:
    """The tile pyramid on disk, as a service of tiles; rows of files count to the north, ours to the south.

    Args:
        root: Folder of the zoom levels.
        zooms: Levels that exist.
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
        """The file of one tile, or 404."""
        path = self.root / str(zoom) / str(column) / f"{self.grid.level(zoom).rows - 1 - row}.jpg"
        try:
            return Answer(200, path.read_bytes(), {}, str(path))
        except FileNotFoundError:
            return Answer(404, b"", {}, str(path))


def _level(zoom: int) -> Level:
    side = grid.TILE_M * 2.0**-zoom
    count = int(np.ceil(EXTENT_M / side))
    left, bottom = grid.TILE_ORIGIN_M
    return Level(zoom, side / grid.TILE_PIXELS, left, bottom + count * side, count, count, grid.TILE_PIXELS, str(zoom))


def cells_folder(crop_m: float, zoom: int) -> str:
    """Directory of cells of a ground size from a zoom, relative to the data set."""
    return f"cells/{crop_m:g}m_z{zoom}"


def render_cells(
    root: Path,
    zoom: int,
    crop_m: float,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
    workers: int = 2,
    wanted: np.ndarray | None = None,
) -> Cells:
    """Render every cell that the tiles cover; those that are there are kept.

    A cell of which a source tile is missing is taken from the next coarser zoom on disk, and left out where none
    covers it: nothing is filled.

    Args:
        root: Folder of the data set.
        zoom: Level of the pyramid, 0 (8 cm a pixel) or below; each level below doubles that.
        crop_m: Side of a cell's crop in metres.
        progress: Shows how far it is.
        workers: Threads.
        wanted: Cells to render, bool (256, 256); None is all.

    Raises:
        GenGeoError: There are no tiles of that zoom, or no cell is covered.
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
        why = ", ".join(f"{count:,} {reason}" for reason, count in Counter(reader.bad).most_common(3))
        raise GenGeoError(f"no cell could be rendered from {home}/{zoom}: {why or 'its tiles lie elsewhere'}")
    return Cells(folder, is_covered, coarse, dict(reader.bad))


def _rendered(folder: Path) -> np.ndarray:
    """Cells that have a file, bool (256, 256)."""
    found = np.zeros((grid.CELLS, grid.CELLS), dtype=bool)
    for name in names_in(folder):
        if match := re.fullmatch(r"r(\d{3})c(\d{3})\.jpg", name):
            found[min(int(match[1]), grid.CELLS - 1), min(int(match[2]), grid.CELLS - 1)] = True
    return found


def _is_number(name: str) -> bool:
    return name.lstrip("-").isdigit()


def _blocks(missing: np.ndarray) -> Iterator[np.ndarray]:
    """Cells that are missing, (n, 2) rows and columns, block by block."""
    for top in range(0, grid.CELLS, BLOCK):
        for left in range(0, grid.CELLS, BLOCK):
            cells = np.argwhere(missing[top : top + BLOCK, left : left + BLOCK])
            if len(cells):
                yield cells + np.array([top, left])


def _cells_with_tiles(home: Path, level: Level, crop_m: float) -> np.ndarray:
    """Cells of which every source tile under the crop has a file, bool (256, 256)."""
    side = level.tile * level.resolution
    margin = level.resolution  # pixels are taken whole: half of one may lie outside of the crop
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
    """Renders blocks of cells from one zoom; safe for threads."""

    def __init__(self, reader: TileReader, level: Level, crop_m: float, target: Path) -> None:
        self._reader, self._level, self._crop_m, self._target = reader, level, crop_m, target
        self._pixels = max(1, round(crop_m / level.resolution))

    def render(self, cells: np.ndarray) -> np.ndarray:
        """Write the cells of a block; gives those that are there now, (n, 2)."""
        lat, lon = grid.cell_centres(cells[:, 0], cells[:, 1])
        maps = self._reader.service.grid.affine_maps(self._level, lat, lon)
        done = np.zeros(len(cells), dtype=bool)
        for index, to_pixel in enumerate(maps):
            image, reason = self._reader.crop(to_pixel, self._level, self._crop_m, self._pixels)
            if image is None or reason:  # a part of it is not a picture
                continue
            path = self._target / f"{grid.cell_name(*cells[index].tolist())}.jpg"
            partial = path.with_name(path.name + PARTIAL)
            image.save(partial, "JPEG", quality=QUALITY)
            partial.replace(path)
            done[index] = True
        return cells[done]
