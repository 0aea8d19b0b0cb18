"""Tiles cropped from georeferenced rasters: GeoTIFF, COG, VRT and other formats of GDAL, one file or many.

Files of any size, CRS, band order and bit depth become a `TileSource` of north-up tiles, square on the ground.

Tile centres are on rows of equal latitude, spaced in metres, so that the ground size of a tile depends neither on
latitude nor on projection. Within one tile the map from local metres to raster pixels is affine to well below a pixel:
five points of each tile are projected, for all tiles together. Only the window under a tile is read, at the resolution
that the tile needs (GDAL uses an overview if there is one), and rotated so that true north is up.
"""

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.geo import bounds_around, metres_per_degree
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.cells import cell_grids
from gengeo_hf.imagery.georeference import (
    acquisition_date,
    area_of_use_note,
    from_degrees,
    georeference,
    outline,
    readable_date,
    stated_date,
)
from gengeo_hf.imagery.grids import affine_maps
from gengeo_hf.imagery.raster_files import open_raster
from gengeo_hf.imagery.raster_pixels import Rendering, no_data_mask, rendering_of
from gengeo_hf.imagery.tile_window import TileWindow
from gengeo_hf.imagery.tiles import Rights, tile_image, tile_table

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

MIN_VALID = 0.5  # share of a tile's pixels that must hold data
OpenDataset = Callable[[str], "DatasetReader"]


@dataclass(frozen=True)
class _Sheet:
    """One raster file: its georeference and its rendering as colours."""

    path: str
    crs: Any
    to_pixel: Any  # affine: x, y in the CRS -> column, row
    width: int
    height: int
    rendering: Rendering
    date: str = ""  # date of acquisition, as digits that sort by time


class _Pieces(NamedTuple):
    """Pairs of a tile and a file that covers a part of it, sorted by tile and then by file.

    A tile is paired only with files that cover it, so memory grows with the tiles and not with tiles x files.

    Args:
        tile: Row of the tile, (pieces,).
        sheet: Index of the file, (pieces,).
        maps: Affine maps from (east, north) metres around the tile's centre to the file's pixels, (pieces, 2, 3).
    """

    tile: np.ndarray
    sheet: np.ndarray
    maps: np.ndarray


class RasterTiles:
    """Square tiles of a ground size and overlap, from one raster or a mosaic of many.

    Args:
        paths: Raster files. Where files overlap, the newest one with data is used, by the date in its tags or in
            `dates`; of files with equal or no dates, the one named last.
        tile_m: Side of a tile in metres on the ground.
        overlap: Share of a tile that its neighbour repeats, in [0, 1).
        pixels: Maximum side of a tile in pixels; coarser imagery is not enlarged beyond its own resolution.
        value_range: Values that become black and white; None takes 0..255 for 8 bits, and for deeper files the 1st and
            99th percentile of all files together, so that a mosaic has no seams.
        area: Area that tiles must touch; None takes the extent of the files.
        nodata: Value of pixels without data, in addition to the one that a file declares.
        max_empty: Maximum share of a tile without data, in [0, 1).
        dates: Pairs of a pattern of a file's name and a date; the first match overrides the date in a file's tags.
        centres: Latitudes and longitudes of the tiles' centres in degrees, (tiles,) each; None makes a grid.
        open_dataset: Function that opens one of `paths`, for files that GDAL must not open itself; None takes
            `raster_files.open_raster`.

    Raises:
        GenGeoError: A file is missing, damaged or has no CRS, or the imagery is smaller than half a tile.
        MissingExtraError: rasterio is not installed.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        tile_m: float = 100.0,
        overlap: float = 0.5,
        pixels: int = 392,
        value_range: tuple[float, float] | None = None,
        *,
        area: Area | None = None,
        open_dataset: OpenDataset | None = None,
        nodata: float | None = None,
        max_empty: float = 1 - MIN_VALID,
        dates: Sequence[tuple[str, str]] = (),
        centres: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.name = Path(paths[0]).name if len(paths) == 1 else f"{len(paths)} rasters"
        self.rights, self.tile_sizes = Rights(), (tile_m,)
        self._tile_m, self._open_dataset, self._min_valid = tile_m, open_dataset, 1 - max_empty
        self._open = threading.local()  # GDAL handles are not safe for threads
        sheets, self.notes = _newest_first([_open_sheet(path, open_dataset, nodata) for path in paths], dates)
        self.acquired = {Path(s.path).name: readable_date(s.date) for s in sheets if s.date}  # of each source
        self._sheets = _same_range(sheets, value_range)
        boxes = []
        for sheet in self._sheets:
            with _errors_naming(sheet.path):
                boxes.append(_box(sheet))
                self.notes += filter(None, [area_of_use_note(sheet.crs, boxes[-1], sheet.path)])
        lat, lon = centres or cell_grids(boxes if area is None else area.boxes, tile_m, tile_m * (1 - overlap))
        if area is not None and centres is None:
            wanted = area.touches(lat, lon, tile_m * (1 - overlap))
            lat, lon = lat[wanted], lon[wanted]
        least = max(min(MIN_VALID, self._min_valid), 1e-6)
        keep, pieces = _find_pieces(self._sheets, boxes, lat, lon, tile_m, least)
        if not keep.any():
            if area is not None:
                raise GenGeoError(f"{self.name} does not cover {area}; choose an area inside it")
            raise GenGeoError(f"{self.name} is smaller than half a tile of {tile_m:g} m; choose smaller tiles (--tile)")
        lat, lon = lat[keep], lon[keep]
        self._pieces = pieces
        self.notes += _unused(self._sheets, pieces)
        # Pieces of tile t are first[t] to first[t + 1], in the order of the files.
        self._first = np.searchsorted(pieces.tile, np.arange(len(lat) + 1))
        finest = float(np.abs(np.linalg.det(pieces.maps[:, :, :2])).max())  # raster pixels in a square metre
        self._pixels = min(pixels, max(1, round(tile_m * math.sqrt(finest))))
        ranges = sorted({(sheet.rendering.low, sheet.rendering.high) for sheet in self._sheets})
        empty = {"nodata": nodata, "max_empty": max_empty}
        self.rendering = f"{self._pixels} pixels, values {ranges}, {empty}"
        sources = [Path(self._sheets[number].path).name for number in pieces.sheet[self._first[:-1]]]
        self.table: pa.Table = _table(lat, lon, tile_m, sources)

    def read(self, row: int) -> Image.Image | None:
        """Read one tile, None if the share of it without data exceeds `max_empty`.

        Raises:
            GenGeoError: A file cannot be read at the tile.
        """
        size = self._pixels
        canvas = np.zeros((size, size, 3), dtype=np.uint8)
        empty = np.ones((size, size), dtype=bool)
        for piece in range(int(self._first[row]), int(self._first[row + 1])):
            pixels, valid = self._read_sheet(int(self._pieces.sheet[piece]), self._pieces.maps[piece])
            if valid is None:  # all pixels are valid: the usual case of a tile inside a file
                if empty.all():
                    return Image.fromarray(pixels)
                valid = np.ones_like(empty)
            np.copyto(canvas, pixels, where=(empty & valid)[..., None])
            empty &= ~valid
            if not empty.any():
                break
        return tile_image(canvas, float(empty.mean()), 1 - self._min_valid)

    def _dataset(self, number: int) -> "DatasetReader":
        """This thread's handle of one file. Only the last 16 handles stay open, since there may be 10,000 files."""
        handles: dict[int, Any] = self._open.__dict__.setdefault("handles", {})
        if number not in handles:
            if len(handles) >= 16:
                handles.pop(next(iter(handles))).close()
            handles[number] = _open(self._sheets[number].path, self._open_dataset)
        return handles[number]

    def _read_sheet(self, number: int, to_pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """RGB (size, size, 3) of a tile from one file, and validity, bool (size, size) or None if all are valid."""
        sheet, size = self._sheets[number], self._pixels
        window = TileWindow.under(to_pixel, self._tile_m, size, sheet.width, sheet.height)
        nothing = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool)
        if window.is_empty:
            return nothing
        low, high, shape = window.low, window.high, window.shape
        try:
            bands, mask = _read_window(self._dataset(number), sheet.rendering, low, high, shape)
        except Exception as error:  # GDAL and its drivers raise many types for damaged files
            self._open.__dict__.get("handles", {}).pop(number, None)
            raise GenGeoError(f"{sheet.path} cannot be read at {low.tolist()}: {first_line(error)}") from error
        return window.resample(bands, mask)


def _read_window(
    dataset: "DatasetReader", rendering: Rendering, low: np.ndarray, high: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """RGB (height, width, 3) uint8 and mask (height, width) uint8 of the window between two corners of a raster."""
    from rasterio.enums import Resampling
    from rasterio.windows import Window

    window = Window(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
    resampling = Resampling.nearest if rendering.palette is not None else Resampling.bilinear
    bands = dataset.read(
        rendering.bands, window=window, out_shape=(len(rendering.bands), *shape), resampling=resampling
    )
    mask = no_data_mask(dataset, rendering, bands, window)
    return rendering.to_rgb(bands), mask


def _table(lat: np.ndarray, lon: np.ndarray, tile_m: float, sources: list[str]) -> pa.Table:
    """Tile table of square tiles with centres at latitudes and longitudes in degrees, (tiles,) each."""
    centres = list(zip(lat, lon, strict=True))
    ids = [f"{a:.7f}_{b:.7f}_{tile_m:g}m" for a, b in centres]
    return tile_table(ids, lat, lon, [bounds_around(a, b, tile_m, tile_m) for a, b in centres], source=sources)


def _newest_first(sheets: list[_Sheet], dates: Sequence[tuple[str, str]]) -> tuple[list[_Sheet], list[str]]:
    """Files with the dates that the user states, newest first, then last named first; and notes for the user."""
    stated = [stated_date(sheet.path, dates) for sheet in sheets]
    pairs = list(zip(stated, sheets, strict=True))
    overridden = sum(bool(date and sheet.date) and date != sheet.date for date, sheet in pairs)
    dated = [replace(sheet, date=date or sheet.date) for date, sheet in pairs][::-1]
    notes = [f"a stated date overrides the date in the tags of {overridden:,} files"] if overridden else []
    return sorted(dated, key=lambda sheet: sheet.date, reverse=True), notes


def _open(path: str, open_dataset: OpenDataset | None) -> "DatasetReader":
    return open_raster(path) if open_dataset is None else open_dataset(path)


def _open_sheet(path: str | Path, open_dataset: OpenDataset | None = None, nodata: float | None = None) -> _Sheet:
    """Read the header of one file."""
    os.environ.setdefault("GDAL_CACHEMAX", "256")  # MB; by default GDAL keeps blocks up to 5 % of the machine's memory
    try:
        import rasterio  # noqa: F401  # checks that it is installed
    except ImportError as error:
        raise MissingExtraError("rasterio", "geo", "read georeferenced rasters") from error
    if open_dataset is None and not Path(path).exists():
        raise GenGeoError(f"there is no raster at {path}")
    with _errors_naming(str(path)), _open(str(path), open_dataset) as dataset:
        crs, to_pixel = georeference(dataset, path)
        if crs.is_geographic:  # checked first, since coordinates that are not degrees would give a huge grid
            outline(crs, to_pixel, dataset.width, dataset.height, path)
        date = acquisition_date(dataset.tags() | dataset.tags(ns="IMAGERY"))
        rendering = rendering_of(dataset, nodata)
        return _Sheet(str(path), crs, to_pixel, dataset.width, dataset.height, rendering, date)


@contextlib.contextmanager
def _errors_naming(path: str) -> Iterator[None]:
    """Convert every error of GDAL, PROJ and their wrappers to a `GenGeoError` that names the file."""
    try:
        yield
    except GenGeoError:
        raise
    except Exception as error:
        raise GenGeoError(f"{path} cannot be read as a georeferenced raster: {first_line(error)}") from error


def _project(sheet: _Sheet, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Raster (column, row) of positions in degrees, (2, n); infinite outside the domain of the CRS."""
    xs, ys = from_degrees(sheet.crs, lat, lon)
    if sheet.crs.is_geographic:  # a raster may run from 170 to 190 degrees
        middle = (~sheet.to_pixel @ (sheet.width / 2, sheet.height / 2))[0]
        xs = xs + 360.0 * np.round((middle - xs) / 360.0)
    columns, rows = sheet.to_pixel @ (xs, ys)
    return np.stack([columns, rows])


def _affine_maps(sheet: _Sheet, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Affine map from (east, north) metres around each centre to raster (column, row), (n, 2, 3)."""
    return affine_maps(lambda a, b: _project(sheet, a, b), lat, lon)


def _coverage(sheet: _Sheet, maps: np.ndarray, tile_m: float) -> np.ndarray:
    """Share of each tile that a file covers, (n,): from 5 x 5 points, for partly covered tiles from 25 x 25 points."""
    share = _share_inside(sheet, maps, tile_m, 5)
    edge = np.flatnonzero((share > 0) & (share < 1))
    for rows in np.array_split(edge, -(-len(edge) // 10_000) or 1):
        share[rows] = _share_inside(sheet, maps[rows], tile_m, 25)
    return share


def _share_inside(sheet: _Sheet, maps: np.ndarray, tile_m: float, side: int) -> np.ndarray:
    """Share of side x side points of each tile that are inside a file, (n,)."""
    steps = (np.arange(side) + 0.5) / side - 0.5
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2).T * tile_m
    points = maps[:, :, :2] @ grid + maps[:, :, 2:]
    with np.errstate(invalid="ignore"):
        inside = (points >= 0).all(axis=1) & (points[:, 0] <= sheet.width) & (points[:, 1] <= sheet.height)
    share: np.ndarray = inside.mean(axis=1)
    return share


def _same_range(sheets: list[_Sheet], value_range: tuple[float, float] | None) -> list[_Sheet]:
    """Files with a common range of values for all that are deeper than 8 bits or, if a range is given, for all."""
    if value_range is not None:
        low, high = value_range
        if not low < high:
            raise GenGeoError(f"the range of values must rise, found {low:g} to {high:g}")
        return [replace(s, rendering=replace(s.rendering, low=low, high=high)) for s in sheets]
    levels = np.concatenate([s.rendering.levels for s in sheets])
    if not levels.size:
        return sheets
    low, high = (float(value) for value in np.percentile(levels, [1, 99]))  # all files have the same weight
    return [replace(s, rendering=replace(s.rendering, low=low, high=high)) if s.rendering.levels else s for s in sheets]


def _find_pieces(
    sheets: Sequence[_Sheet],
    boxes: Sequence[np.ndarray],
    lat: np.ndarray,
    lon: np.ndarray,
    tile_m: float,
    least: float,
) -> tuple[np.ndarray, _Pieces]:
    """Whether the files cover each candidate tile to a share of at least `least`, bool (n,), and all pieces."""
    covered, found = np.zeros(len(lat)), []
    for number, (sheet, box) in enumerate(zip(sheets, boxes, strict=True)):
        rows = _rows_in(box, lat, lon, tile_m)
        with _errors_naming(sheet.path):
            maps = _affine_maps(sheet, lat[rows], lon[rows])
        share = _coverage(sheet, maps, tile_m)
        covered[rows] += share
        found.append((rows[share > 0], np.full(int((share > 0).sum()), number, np.int32), maps[share > 0]))
    keep = covered >= least
    tile, sheet_of, maps = (np.concatenate([piece[part] for piece in found]) for part in range(3))
    wanted = keep[tile]
    tile, sheet_of, maps = (np.cumsum(keep) - 1)[tile[wanted]], sheet_of[wanted], maps[wanted]
    order = np.argsort(tile, kind="stable")
    return keep, _Pieces(tile[order], sheet_of[order], maps[order])


def _unused(sheets: Sequence[_Sheet], pieces: _Pieces) -> list[str]:
    """Note about files that are not the preferred one of any tile; empty without such files."""
    _, first = np.unique(pieces.tile, return_index=True)
    idle = sorted(set(range(len(sheets))) - set(pieces.sheet[first].tolist()))
    if not idle:
        return []
    names = ", ".join(Path(sheets[number].path).name for number in idle[:3])
    return [
        f"{len(idle):,} of {len(sheets):,} files are not the first choice of any tile, first {names}: others cover "
        "the same ground and have a newer date or are named later"
    ]


def _rows_in(box: np.ndarray, lat: np.ndarray, lon: np.ndarray, margin_m: float) -> np.ndarray:
    """Rows whose centre is in a box (south, north, west, east) in degrees, or within a margin in metres around it."""
    south, north, west, east = (float(side) for side in box)
    per_lat, per_lon = (float(v) for v in metres_per_degree(max(abs(south), abs(north))))
    high, wide = margin_m / per_lat, min(margin_m / max(per_lon, 1e-3), 180.0)
    near = (lat >= south - high) & (lat <= north + high)
    apart = np.abs((lon - (west + east) / 2 + 180.0) % 360.0 - 180.0)
    return np.flatnonzero(near & (apart <= (east - west) / 2 + wide))


def _box(sheet: _Sheet) -> np.ndarray:
    """South, north, west, east of a file in degrees. The east of a file across the date line exceeds 180."""
    lat, lon = outline(sheet.crs, sheet.to_pixel, sheet.width, sheet.height, sheet.path)
    lon = lon[0] + (lon - lon[0] + 180.0) % 360.0 - 180.0
    return np.array([lat.min(), lat.max(), lon.min(), lon.max()])
