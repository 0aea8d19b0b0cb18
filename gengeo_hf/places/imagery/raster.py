"""Tiles cut from georeferenced rasters: GeoTIFF, COG, VRT and whatever else GDAL opens, one file or many.

Before: files of any size, CRS, band order and bit depth. After: a `TileSource` of north-up tiles, square on the ground.

Tile centres lie on rows of equal latitude, spaced in metres, so a tile is as large in Helsinki as in Nairobi, in UTM as
in Web Mercator. Within one tile the way from local metres to raster pixels is affine to well below a pixel: three
points of each tile are projected, all tiles at once. Only the window under a tile is read, at the resolution that the
tile needs (GDAL takes an overview where there is one), and turned so that true north is up.
"""

import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from gengeo_hf.errors import GenGeoError, MissingExtraError
from gengeo_hf.places.geodesy import bounds_around, metres_per_degree, offset, wrap_longitude
from gengeo_hf.places.imagery.pixels import Rendering, no_data_mask, rendering_of
from gengeo_hf.places.tiles import tile_table

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

MIN_VALID = 0.5  # share of a tile's pixels that must hold data


@dataclass(frozen=True)
class _Sheet:
    """One raster file: where it is and how its numbers become colours."""

    path: str
    crs: Any
    to_pixel: Any  # affine: x, y in the CRS -> column, row
    width: int
    height: int
    rendering: Rendering


class RasterTiles:
    """Square tiles of a ground size and overlap, from one raster or a mosaic of many.

    Args:
        paths: raster files. Where files overlap, the first one that holds data wins.
        tile_m: side of a tile in metres on the ground.
        overlap: share of a tile that its neighbour repeats, in [0, 1).
        pixels: side of a tile in pixels, at most; imagery that is coarser is not blown up beyond its own resolution.

    Raises:
        GenGeoError: a file is missing, broken or has no CRS, or nothing of it is as large as half a tile.
        MissingExtraError: rasterio is not installed.
    """

    def __init__(
        self, paths: Sequence[str | Path], tile_m: float = 100.0, overlap: float = 0.5, pixels: int = 392
    ) -> None:
        self.name = Path(paths[0]).name if len(paths) == 1 else f"{len(paths)} rasters"
        self._tile_m = tile_m
        self._open = threading.local()  # a GDAL handle must not be used by two threads at a time
        self._sheets = [_open_sheet(Path(path)) for path in paths]
        lat, lon = _grids(self._sheets, tile_m, tile_m * (1 - overlap))
        self._maps = [_affine_maps(sheet, lat, lon) for sheet in self._sheets]
        covered = np.stack([_coverage(s, m, tile_m) for s, m in zip(self._sheets, self._maps, strict=True)])
        keep = np.minimum(covered.sum(axis=0), 1.0) >= MIN_VALID
        if not keep.any():
            raise GenGeoError(
                f"{self.name} is smaller than half a tile of {tile_m:g} m; ask for smaller tiles (--tile)"
            )
        lat, lon, covered = lat[keep], lon[keep], covered[:, keep]
        self._maps = [maps[keep] for maps in self._maps]
        self._candidates = [np.flatnonzero(column > 0) for column in covered.T]
        self._pixels = min(pixels, max(1, round(tile_m / self._resolution(covered > 0))))
        self.table: pa.Table = tile_table(
            [f"{a:.7f}_{b:.7f}_{tile_m:g}m" for a, b in zip(lat, lon, strict=True)],
            lat,
            lon,
            [bounds_around(a, b, tile_m, tile_m) for a, b in zip(lat, lon, strict=True)],
            source=[Path(self._sheets[found[0]].path).name for found in self._candidates],
        )

    def read(self, row: int) -> Image.Image | None:
        """Pixels of one tile; None where less than half of it holds data."""
        size = self._pixels
        canvas = np.zeros((size, size, 3), dtype=np.uint8)
        empty = np.ones((size, size), dtype=bool)
        for number in self._candidates[row]:
            pixels, valid = self._read_sheet(int(number), row)
            if valid is None:  # the usual case, a tile well inside a file
                if empty.all():
                    return Image.fromarray(pixels)
                valid = np.ones_like(empty)
            np.copyto(canvas, pixels, where=(empty & valid)[..., None])
            empty &= ~valid
            if not empty.any():
                break
        return None if 1 - empty.mean() < MIN_VALID else Image.fromarray(canvas)

    def _resolution(self, covered: np.ndarray) -> float:
        """Finest ground size of a pixel among the sheets, in metres; far from its sheet a projection means nothing."""
        pairs = zip(self._maps, covered, strict=True)
        densities = [np.abs(np.linalg.det(maps[own][:, :, :2])) for maps, own in pairs if own.any()]
        return float(1 / np.sqrt(max(density.max() for density in densities)))  # raster pixels in a square metre

    def _dataset(self, number: int) -> "DatasetReader":
        """This thread's own handle of one file; a few stay open, so that 10,000 files do not."""
        import rasterio

        handles: dict[int, Any] = self._open.__dict__.setdefault("handles", {})
        if number not in handles:
            if len(handles) >= 16:
                handles.pop(next(iter(handles))).close()
            handles[number] = rasterio.open(self._sheets[number].path)
        return handles[number]

    def _read_sheet(self, number: int, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        """RGB (size, size, 3) and validity (size, size) of a tile, from one file; None where every pixel is valid."""
        from rasterio.errors import RasterioError

        sheet, size = self._sheets[number], self._pixels
        linear, centre = self._maps[number][row][:, :2], self._maps[number][row][:, 2]
        step = self._tile_m / size
        # Tile pixel (column, row) -> local metres (east, north) -> raster pixel.
        to_raster = linear @ np.array([[step, 0.0], [0.0, -step]])
        origin = centre + linear @ np.array([-self._tile_m / 2, self._tile_m / 2])
        corners = origin[:, None] + to_raster @ np.array([[0, size, 0, size], [0, 0, size, size]])
        low = np.maximum(np.floor(corners.min(axis=1)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(corners.max(axis=1)).astype(int) + 1, [sheet.width, sheet.height])
        nothing = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool)
        if (high <= low).any():
            return nothing
        shrink = max(1.0, float(np.sqrt(np.abs(np.linalg.det(to_raster)))))  # source pixels in one pixel of the tile
        shape = tuple(max(1, math.ceil(extent / shrink)) for extent in (high - low)[::-1])
        try:
            bands, mask = _read_window(self._dataset(number), sheet.rendering, low, high, shape)
        except RasterioError as error:
            self._open.__dict__.get("handles", {}).pop(number, None)
            raise GenGeoError(f"{sheet.path} cannot be read at {low.tolist()}: {error}") from error
        scale = np.array([shape[1], shape[0]]) / (high - low)
        matrix, shift = scale[:, None] * to_raster, scale * (origin - low)
        coefficients = (matrix[0, 0], matrix[0, 1], shift[0], matrix[1, 0], matrix[1, 1], shift[1])
        affine, smooth, sharp = Image.Transform.AFFINE, Image.Resampling.BILINEAR, Image.Resampling.NEAREST
        pixels = Image.fromarray(bands).transform((size, size), affine, coefficients, resample=smooth)
        if (
            mask.all()
            and (corners.min(axis=1) >= 0).all()
            and (corners.max(axis=1) <= [sheet.width, sheet.height]).all()
        ):
            return np.asarray(pixels), None
        valid = Image.fromarray(mask).transform((size, size), affine, coefficients, resample=sharp)
        return np.asarray(pixels), np.asarray(valid) > 0


def _read_window(
    dataset: "DatasetReader", rendering: Rendering, low: np.ndarray, high: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Colours (height, width, 3) uint8 and mask (height, width) uint8 of a window given by two raster corners."""
    from rasterio.enums import Resampling
    from rasterio.windows import Window

    window = Window(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
    resampling = Resampling.nearest if rendering.palette is not None else Resampling.bilinear
    bands = dataset.read(
        rendering.bands, window=window, out_shape=(len(rendering.bands), *shape), resampling=resampling
    )
    mask = no_data_mask(dataset, rendering, bands, window)
    return rendering.to_rgb(bands), mask


def _open_sheet(path: Path) -> _Sheet:
    """Read what is needed of one file's header."""
    os.environ.setdefault("GDAL_CACHEMAX", "256")  # MB; by default GDAL keeps blocks up to 5 % of the machine's memory
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError as error:
        raise MissingExtraError("rasterio", "geo", "read georeferenced rasters") from error
    if not path.exists() and "://" not in str(path):
        raise GenGeoError(f"there is no raster at {path}")
    try:
        with rasterio.open(path) as dataset:
            if dataset.crs is None:
                raise GenGeoError(
                    f"{path} has no CRS, so its place on Earth is unknown; "
                    "if you know it, write it with: rio edit-info --crs EPSG:xxxx FILE"
                )
            to_pixel = ~dataset.transform
            return _Sheet(str(path), dataset.crs, to_pixel, dataset.width, dataset.height, rendering_of(dataset))
    except RasterioError as error:
        raise GenGeoError(f"{path} cannot be read as a raster: {error}") from error


def _project(sheet: _Sheet, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Raster (column, row) of positions, shape (2, n); infinite where the CRS does not reach."""
    from rasterio.warp import transform

    x, y = transform("EPSG:4326", sheet.crs, lon.tolist(), lat.tolist())
    xs, ys = np.asarray(x), np.asarray(y)
    if sheet.crs.is_geographic:  # a raster may run from 170 to 190 degrees
        middle = (~sheet.to_pixel @ (sheet.width / 2, sheet.height / 2))[0]
        xs = xs + 360.0 * np.round((middle - xs) / 360.0)
    columns, rows = sheet.to_pixel @ (xs, ys)
    return np.stack([columns, rows])


def _affine_maps(sheet: _Sheet, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """For each centre the affine map from (east, north) metres to raster (column, row): shape (n, 2, 3)."""
    reach = 10.0  # metres; central differences over 20 m
    centre = _project(sheet, lat, lon)
    ahead = [_project(sheet, *offset(lat, lon, east, north)) for east, north in ((reach, 0.0), (0.0, reach))]
    behind = [_project(sheet, *offset(lat, lon, -east, -north)) for east, north in ((reach, 0.0), (0.0, reach))]
    with np.errstate(invalid="ignore"):
        columns = [(a - b) / (2 * reach) for a, b in zip(ahead, behind, strict=True)]
    return np.stack([*columns, centre], axis=-1).transpose(1, 0, 2)


def _coverage(sheet: _Sheet, maps: np.ndarray, tile_m: float) -> np.ndarray:
    """Share of each tile that lies on the sheet, from 5 x 5 points of it: shape (n,)."""
    steps = (np.arange(5) + 0.5) / 5 - 0.5
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2).T * tile_m
    points = maps[:, :, :2] @ grid + maps[:, :, 2:]
    with np.errstate(invalid="ignore"):
        inside = (points >= 0).all(axis=1) & (points[:, 0] <= sheet.width) & (points[:, 1] <= sheet.height)
    return inside.mean(axis=1)


def _grids(sheets: Sequence[_Sheet], tile_m: float, stride_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres of candidate tiles: one grid over each group of sheets whose boxes touch."""
    boxes = []
    for sheet in sheets:
        lat, lon = _outline(sheet)
        lon = lon[0] + (lon - lon[0] + 180.0) % 360.0 - 180.0  # one piece, also across the date line
        boxes.append(np.array([lat.min(), lat.max(), lon.min(), lon.max()]))
    grids = []
    while boxes:
        box = boxes.pop()
        while touching := [number for number, other in enumerate(boxes) if _touch(box, other)]:
            for number in reversed(touching):
                other = boxes.pop(number)
                other[2:] += 360.0 * round((box[2:].mean() - other[2:].mean()) / 360.0)
                box = np.where([True, False, True, False], np.minimum(box, other), np.maximum(box, other))
        grids.append(_grid(box, tile_m, stride_m))
    return np.concatenate([g[0] for g in grids]), np.concatenate([g[1] for g in grids])


def _touch(a: np.ndarray, b: np.ndarray) -> bool:
    """True where two boxes (south, north, west, east) share ground or an edge, also across the date line."""
    apart = (b[2:].mean() - a[2:].mean() + 180.0) % 360.0 - 180.0
    slack = 1e-4  # degrees, some 10 m: edges of neighbours in a projection do not meet exactly
    wide = (a[3] - a[2] + b[3] - b[2]) / 2
    return bool(abs(apart) <= wide + slack and a[0] <= b[1] + slack and b[0] <= a[1] + slack)


def _grid(box: np.ndarray, tile_m: float, stride_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres of candidate tiles over a box (south, north, west, east), row by row from the north.

    The first and the last tile of a row lie flush with the box, the others are spread evenly between them, so the
    overlap is the one asked for or a little more.
    """
    south, north, west, east = (float(side) for side in box)
    rows_lat = _spread(south, north, float(metres_per_degree((south + north) / 2)[0]), tile_m, stride_m)[::-1]
    if len(rows_lat) * max(1.0, (east - west) * float(metres_per_degree(south)[1]) / stride_m) > 50e6:
        raise GenGeoError(f"more than 50 million tiles of {tile_m:g} m; ask for larger tiles or less imagery at a time")
    lats, lons = [], []
    for value in rows_lat:
        row = _spread(west, east, max(float(metres_per_degree(value)[1]), 1e-3), tile_m, stride_m)
        lats.append(np.full(len(row), value))
        lons.append(wrap_longitude(row))
    return np.concatenate(lats), np.concatenate(lons)


def _outline(sheet: _Sheet) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes of points along a sheet's edge, and of a pole that lies on it."""
    from rasterio.warp import transform

    share = np.linspace(0, 1, 21)
    flat = np.zeros_like(share)
    columns = np.concatenate([share, share, flat, flat + 1]) * sheet.width
    rows = np.concatenate([flat, flat + 1, share, share]) * sheet.height
    x, y = ~sheet.to_pixel @ (columns, rows)
    lon, lat = (
        np.asarray(v) for v in transform(sheet.crs, "EPSG:4326", np.asarray(x).tolist(), np.asarray(y).tolist())
    )
    for pole in (90.0, -90.0):
        spot = _project(sheet, np.array([pole]), np.array([0.0]))[:, 0]
        if 0 < spot[0] < sheet.width and 0 < spot[1] < sheet.height and not sheet.crs.is_geographic:
            return np.append(lat, [pole] * 2), np.append(lon, [-180.0, 179.999])
    return lat, lon


def _spread(low: float, high: float, metres: float, tile_m: float, stride_m: float) -> np.ndarray:
    """Centres in degrees along one side that runs from `low` to `high` degrees of `metres` each."""
    extent = (high - low) * metres
    count = 1 if extent <= tile_m else math.ceil(round((extent - tile_m) / stride_m, 6)) + 1
    if count == 1:
        return np.array([(low + high) / 2])
    return np.linspace(low + tile_m / 2 / metres, high - tile_m / 2 / metres, count)
