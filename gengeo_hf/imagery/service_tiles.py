"""Tiles of one or several ground sizes around each cell of an area, cropped from the source tiles of a service.

Cells are sorted by blocks of source tiles, so that a source tile is decoded once or twice and few are in memory.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import metres_per_degree, wrap_longitude
from gengeo_hf.imagery.grids import Level
from gengeo_hf.imagery.options import NetOptions
from gengeo_hf.imagery.plan import (
    ImageryPlan,
    area_cells,
    check_size,
    estimate_cells,
    estimate_source_tiles,
    source_tile_indices,
    unique_indices,
)
from gengeo_hf.imagery.registration import wrong_order
from gengeo_hf.imagery.services import check_extent
from gengeo_hf.imagery.tile_content import NO_ANSWER, REFUSED, NotAPictureError
from gengeo_hf.imagery.tile_reader import SourceTile, TileIndex, TileReader
from gengeo_hf.imagery.tiles import TILE_SCHEMA, ImageryStoppedError, check_tiles

BLOCK = 8  # source tiles along a side of a block of cells
PROBES = 16  # source tiles that are read before the work begins
MAPS_CHUNK = 512  # cells whose affine maps are computed together


@dataclass(frozen=True)
class _Size:
    """One ground size: side in metres, zoom level, and side in pixels."""

    tile_m: float
    level: Level
    pixels: int


class ServiceTiles:
    """Tiles of ground sizes over an area, from a tile service.

    Args:
        reader: Reader that fetches and crops source tiles.
        area: Area to cover.
        sizes: Sides of a tile in metres on the ground; each cell has one tile of each size.
        overlap: Share of the smallest tile that its neighbour repeats, in [0, 1).
        pixels: Maximum side of a tile in pixels; coarser imagery is not enlarged beyond its own resolution.
        zoom: Zoom level of all sizes; None takes, for each size, the coarsest that is fine enough.
        options: Rights, limits and shift; None takes the defaults.

    Raises:
        GenGeoError: The area is too large or outside the source, or the zoom level does not exist.
    """

    def __init__(
        self,
        reader: TileReader,
        area: Area,
        sizes: tuple[float, ...] = (100.0,),
        overlap: float = 0.5,
        pixels: int = 392,
        zoom: int | None = None,
        options: NetOptions | None = None,
    ) -> None:
        self.reader, self.area = reader, area
        self._options = options or NetOptions()
        service = reader.service
        self.name = service.name
        self.rights = self._options.rights.or_else(service.rights)
        check_extent(self.name, service.extent, area)
        bounds = area.bounds
        self._centre = (bounds.south + bounds.north) / 2, float(area.boxes[:, 2:].mean())
        self._sizes = [self._size(tile_m, pixels, zoom) for tile_m in sorted(sizes)]
        for size in self._sizes:
            estimate = estimate_source_tiles(service.grid, size.level.zoom, area, size.tile_m)
            check_size(area, estimate, self._options.max_tiles, size.level.zoom)
        smallest = self._sizes[0].tile_m
        if estimate_cells(area, smallest, overlap) > 50e6:
            raise GenGeoError(f"{area} holds more than 50 million tiles of {smallest:g} m: choose a smaller area")
        self.tile_sizes = tuple(size.tile_m for size in self._sizes)
        self._lat, self._lon = self._ordered(*area_cells(area, smallest, overlap))
        self.table = _table(self._lat, self._lon, [size.tile_m for size in self._sizes], self.name)
        limits = f"{self._options.shift_m} {reader.max_empty:g}"
        self.rendering = f"{service.identity} {limits} " + ", ".join(
            f"{size.tile_m:g} m: zoom {size.level.zoom}, {size.pixels} pixels" for size in self._sizes
        )
        self._needed: dict[int, np.ndarray] = {}  # source tiles by zoom level
        self._maps: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._maps_lock = threading.Lock()
        self._preparing = threading.Lock()
        self._note: str | None = None  # result of `prepare`, None before it was called

    def read(self, row: int) -> Image.Image | None:
        """Read one tile, north up.

        Raises:
            NotAPictureError: Too much of the tile has no imagery; the message is one of the reasons in
                `tile_content`.
            ImageryStoppedError: The server does not respond any more, no probed source tile can be used, or the cache
                cannot be written.
        """
        if self._note is None:
            self.prepare()
        cell, number = divmod(row, len(self._sizes))
        size = self._sizes[number]
        image, reason = self.reader.crop(self._map(cell, number), size.level, size.tile_m, size.pixels)
        if image is None:
            raise NotAPictureError(reason)
        return image

    def plan(self) -> ImageryPlan:
        """Estimate tiles, requests, megabytes and minutes, without any request."""
        service, client = self.reader.service, self.reader.client
        total = wanted = 0
        for zoom in {size.level.zoom for size in self._sizes}:
            for column, row in self._source_tiles(zoom).tolist():
                total += 1
                wanted += self.reader.cache is None or not self.reader.cache.has(zoom, column, row)
        if (overview := self._overview()) is not None:
            total += 1
            wanted += self.reader.cache is None or not self.reader.cache.has(*overview[1])
        rate = client.options.rate or 50.0  # typical rate of a user's own server
        most = max(size.pixels for size in self._sizes)
        coarse = [size for size in self._sizes if size.pixels < most / 2]
        notes = [f"{size.tile_m:g} m tiles have {size.pixels} pixels: the imagery is not finer" for size in coarse]
        return ImageryPlan(
            source=self.name,
            area=str(self.area),
            tiles=self.table.num_rows,
            source_tiles=total,
            requests=wanted,
            megabytes=wanted * service.tile_kb / 1000,
            minutes=wanted / rate / 60,
            hosts=tuple(client.hosts),
            zooms={f"{size.tile_m:g}": size.level.zoom for size in self._sizes},
            resolution_m={f"{size.tile_m:g}": size.tile_m / size.pixels for size in self._sizes},
            attribution=self.rights.attribution,
            licence=self.rights.licence,
            acquired=self.rights.acquired,
            asked_before=client.requests,
            notes=tuple(notes),
        )

    def prepare(self) -> str:
        """Read some source tiles from all over the area, so that an unusable source is refused before the work begins.

        Returns:
            A note for the user, "" if all source tiles can be used.

        Raises:
            ImageryStoppedError: No source tile can be used, or rows and columns are in another order. The message
                names the zoom level and extent and, if one was found, the option that helps.
        """
        with self._preparing:
            if self._note is None:
                self._note = self._probe()
            return self._note

    def summary(self) -> str:
        """Number of source tiles that were fetched, and of those not used by reason, as one line."""
        bad = "; ".join(f"{count:,}: {reason}" for reason, count in self.reader.bad.most_common())
        return f"{self.reader.fetched:,} source tiles fetched" + (f"; not used: {bad}" if bad else "")

    def _size(self, tile_m: float, pixels: int, zoom: int | None) -> _Size:
        """Zoom level and number of pixels for a ground size."""
        grid = self.reader.service.grid
        level = grid.level(grid.zoom_for(*self._centre, tile_m / pixels) if zoom is None else zoom)
        finest = tile_m / grid.ground_resolution(level, *self._centre)
        return _Size(tile_m, level, max(1, min(pixels, round(finest))))

    def _ordered(self, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Latitudes and longitudes of cells, sorted by blocks of source tiles."""
        level = self._sizes[0].level
        block = np.floor(self.reader.service.grid.pixels(level, lat, lon) / (BLOCK * level.tile))
        order = np.lexsort((lon, -lat, block[0], block[1]))
        return lat[order], lon[order]

    def _source_tiles(self, zoom: int) -> np.ndarray:
        """Column and row of the source tiles of a zoom level that the cells need, int64 (n, 2)."""
        if zoom in self._needed:
            return self._needed[zoom]
        grid = self.reader.service.grid
        sizes = [size for size in self._sizes if size.level.zoom == zoom]
        pieces = (
            piece
            for size in sizes
            for piece in source_tile_indices(grid, size.level, self._lat, self._lon, size.tile_m)
        )
        self._needed[zoom] = unique_indices(pieces, grid.level(zoom))
        return self._needed[zoom]

    def _map(self, cell: int, number: int) -> np.ndarray:
        """Affine map of one tile, (2, 3); the maps of `MAPS_CHUNK` cells are computed together."""
        key = cell // MAPS_CHUNK, number
        with self._maps_lock:
            if key not in self._maps:
                rows = slice(key[0] * MAPS_CHUNK, (key[0] + 1) * MAPS_CHUNK)
                grid = self.reader.service.grid
                self._maps[key] = grid.affine_maps(self._sizes[number].level, self._lat[rows], self._lon[rows])
                while len(self._maps) > 4 * len(self._sizes):
                    self._maps.popitem(last=False)
            return self._maps[key][cell % MAPS_CHUNK]

    def _probe(self) -> str:
        """Read some source tiles and return a note for the user; see `prepare`."""
        reader, level = self.reader, self._sizes[0].level
        if reader.cache is not None:
            about = {"address": self.name, "grid": reader.service.grid.name, "attribution": self.rights.attribution}
            reader.cache.describe(about | {"licence": self.rights.licence, "acquired": self.rights.acquired})
        indices = self._source_tiles(level.zoom)
        chosen = indices[np.unique(np.linspace(0, len(indices) - 1, PROBES).astype(int))]
        reasons = reader.probe([(level.zoom, column, row) for column, row in chosen.tolist()])
        if len(reasons) == len(chosen):
            raise ImageryStoppedError(self._no_imagery(level.zoom, chosen, max(set(reasons), key=reasons.count)))
        if wrong := self._wrong_order():
            raise ImageryStoppedError(f"{self.name} shows other ground than its numbers say: {wrong}")
        notes = [f"{len(reasons)} of {len(chosen)} probed source tiles are not used: {reasons[0]}"] if reasons else []
        if reader.side > level.tile:
            notes.append(
                f"source tiles have {reader.side} pixels: with --tile-pixels {reader.side} fewer of them are needed"
            )
        return "; ".join(notes)

    def _overview(self) -> tuple[TileIndex, TileIndex] | None:
        """A source tile and its parent, the tile of the next coarser level, to check how tiles are numbered.

        None for services whose documents state the numbering, and if no tile distinguishes all orders.
        """
        level, service = self._sizes[0].level, self.reader.service
        if service.kind != "XYZ" or level.zoom - 1 not in service.grid.levels:
            return None
        indices = self._source_tiles(level.zoom)
        distinct = indices[(indices.sum(axis=1) % 2) == 1]
        if not len(distinct):
            return None
        column, row = (int(value) for value in distinct[len(distinct) // 2])
        return (level.zoom, column, row), (level.zoom - 1, column // 2, row // 2)

    def _wrong_order(self) -> str:
        """Correction of rows or columns that are numbered in another order, "" if none is needed or known."""
        overview = self._overview()
        if overview is None:
            return ""
        tile, above = (self.reader.tile_uncounted(index) for index in overview)
        if not isinstance(tile, SourceTile) or not isinstance(above, SourceTile):
            return ""
        return wrong_order(tile.pixels, above.pixels, *overview[0][1:])

    def _no_imagery(self, zoom: int, indices: np.ndarray, reason: str) -> str:
        """Message for an area without any usable source tile, with an option that helps if one is found."""
        if reason in (REFUSED, NO_ANSWER):
            return f"{self.name}: {self.reader.refusal}"
        extent = "west {:g}, south {:g}, east {:g}, north {:g}".format(*self.area.bounds)
        start = f"{self.name} has no picture at zoom {zoom} in {extent}: {reason}"
        return f"{start}; {self._better(zoom, indices) or 'check the address, --zoom and the area'}"

    def _better(self, zoom: int, indices: np.ndarray) -> str:
        """Option with which the source has imagery, found by a few requests; "" for none."""
        column, row = indices[len(indices) // 2].tolist()
        level = self.reader.service.grid.level(zoom)
        if isinstance(self.reader.tile((zoom, column, level.rows - 1 - row)), SourceTile):
            return "there is one if rows are counted from the south: add --tms, or write {-y}"
        if isinstance(self.reader.tile((zoom, row, column)), SourceTile):
            return "there is one with column and row exchanged: exchange {x} and {y} in the address"
        for lower in range(zoom - 1, max(zoom - 6, -1), -1):
            step = 2 ** (zoom - lower)
            if lower in self.reader.service.grid.levels and isinstance(
                self.reader.tile((lower, column // step, row // step)), SourceTile
            ):
                return f"zoom {lower} has one: add --zoom {lower}"
        return ""


def _table(lat: np.ndarray, lon: np.ndarray, sizes: list[float], source: str) -> pa.Table:
    """Tile table with the sizes of each cell in order, made in chunks to save memory."""
    pieces = []
    for start in range(0, max(len(lat), 1), 50_000):
        rows = slice(start, start + 50_000)
        a, b = np.repeat(lat[rows], len(sizes)), np.repeat(lon[rows], len(sizes))
        side = np.tile(np.array(sizes), len(lat[rows]))
        per_lat, per_lon = metres_per_degree(a)
        high, wide = side / 2 / per_lat, side / 2 / np.maximum(per_lon, 1e-6)
        ids = [f"{x:.7f}_{y:.7f}_{m:g}m" for x, y, m in zip(a, b, side, strict=True)]
        columns = [ids, a, b, wrap_longitude(b - wide), a - high, wrap_longitude(b + wide), a + high]
        texts = [pa.array(np.full(len(a), text, dtype=object), pa.string()) for text in ("", source)]
        pieces.append(pa.table([*columns, *texts], schema=TILE_SCHEMA))
    return check_tiles(pa.concat_tables(pieces))
