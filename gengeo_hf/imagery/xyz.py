"""Web map tiles on disk: a folder `z/x/y.png`, or the same in one MBTiles file (SQLite).

Before: what a tile server or QGIS exported. After: a `TileSource` of the tiles of one zoom level.

A tile of the Web Mercator grid is square in the projection; on the ground its side shrinks with the cosine of the
latitude (at 60 degrees half of that at the equator), so the size in metres is computed and not asked for.
"""

import math
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.table import IMAGE_SUFFIXES
from gengeo_hf.imagery.tiles import tile_table

MOST_ZOOM = 30  # 4 cm a tile
# What SQLite raises of a damaged file, which may also make it speak no UTF-8, or ask for more memory than there is.
UNREADABLE = (sqlite3.Error, UnicodeError, MemoryError)


def xyz_bounds(zoom: int, column: int, row: int) -> Bounds:
    """The box of tile `zoom/column/row`, row 0 in the north (OGC 17-083r4, annex D.1; "slippy map").

    Args:
        zoom: 0 is one tile for the world; each level halves the side.
        column, row: counted from 180 degrees west and from 85.05 degrees north.

    Returns:
        Degrees: west, south, east, north.
    """

    def corner(x: int, y: int) -> tuple[float, float]:
        return x / 2**zoom * 360.0 - 180.0, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / 2**zoom))))

    west, north = corner(column, row)
    east, south = corner(column + 1, row + 1)
    return Bounds(west, south, east, north)


class XyzTiles:
    """Tiles of a folder `z/x/y.<image>`.

    Args:
        folder: the folder that holds the zoom levels.
        zoom: the level to use; None takes the deepest.
        tms: rows counted from the south, as in the TMS standard.

    Raises:
        GenGeoError: no zoom level, or no tile in it.
    """

    def __init__(self, folder: str | Path, zoom: int | None = None, tms: bool = False) -> None:
        folder = Path(folder)
        self.name = folder.name
        level = pick_zoom(xyz_zooms(folder), zoom, str(folder))
        found = []
        for path in (folder / str(level)).glob("*/*"):
            if path.suffix.lower() in IMAGE_SUFFIXES and _digits(path.stem) and _digits(path.parent.name):
                column, row = int(path.parent.name), int(path.stem)
                if _on_grid(level, column, row):
                    found.append((column, 2**level - 1 - row if tms else row, path))
        found.sort()
        self._paths = [path for _, _, path in found]
        self.table = _grid_table(level, [(x, y) for x, y, _ in found], str(folder))

    def read(self, row: int) -> Image.Image:
        """Open one tile's file.

        Raises:
            GenGeoError: it is missing, or no picture that can be read.
        """
        from gengeo_hf.common.images import open_image

        return open_image(self._paths[row])


class MbTiles:
    """Raster tiles of an MBTiles file (specification 1.3: rows counted from the south).

    Args:
        path: the file.
        zoom: the level to use; None takes the deepest.

    Raises:
        GenGeoError: not an MBTiles file, vector tiles, or no tile at that level.
    """

    def __init__(self, path: str | Path, zoom: int | None = None) -> None:
        self.name = Path(path).name
        self._path = Path(path)
        self._local = threading.local()  # an SQLite connection belongs to one thread
        try:
            kind = self._ask("SELECT value FROM metadata WHERE name = 'format'")
            found = self._ask("SELECT DISTINCT zoom_level FROM tiles")
            if kind and kind[0][0] == "pbf":
                raise GenGeoError(f"{path} holds vector tiles; aerial imagery is needed")
            # A column of SQLite may hold anything: a level or a place that is no number names no tile.
            levels = [level for (level,) in found if isinstance(level, int) and 0 <= level <= MOST_ZOOM]
            self._zoom = pick_zoom(levels, zoom, str(path))
            places = self._ask(
                "SELECT DISTINCT tile_column, tile_row FROM tiles WHERE zoom_level = ? ORDER BY 1, 2", (self._zoom,)
            )
        except UNREADABLE as error:
            raise GenGeoError(f"{path} cannot be read as MBTiles: {first_line(error)}") from error
        self._places = [place for place in places if _on_grid(self._zoom, *place)]
        rows = [(x, 2**self._zoom - 1 - y) for x, y in self._places]
        self.table = _grid_table(self._zoom, rows, self.name)

    def read(self, row: int) -> Image.Image:
        """Decode one tile.

        Raises:
            GenGeoError: the file cannot be read, or the picture in it is none.
        """
        from gengeo_hf.common.images import open_image

        where = (self._zoom, *self._places[row])
        name = f"tile {'/'.join(map(str, where))} of {self.name}"
        try:
            found = self._ask(
                "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?", where
            )
        except UNREADABLE as error:
            raise GenGeoError(f"{name} cannot be read: {first_line(error)}") from error
        content = found[0][0] if found else None
        if not isinstance(content, bytes):
            raise GenGeoError(f"{name} has no picture")
        return open_image(content)

    def _ask(self, question: str, values: tuple[int, ...] = ()) -> list[tuple]:
        if not hasattr(self._local, "connection"):
            address = f"{self._path.resolve().as_uri()}?mode=ro"  # a missing file must not be created
            self._local.connection = sqlite3.connect(address, uri=True)
        return self._local.connection.execute(question, values).fetchall()


def _on_grid(zoom: int, column: object, row: object) -> bool:
    """Whether a zoom level has such a tile."""
    return all(isinstance(place, int) and 0 <= place < 2**zoom for place in (column, row))


def xyz_zooms(folder: Path) -> list[int]:
    """Zoom levels of a folder of map tiles: its subfolders that are named by a number and hold such folders."""
    levels = [path for path in folder.iterdir() if path.is_dir() and _digits(path.name) and int(path.name) <= MOST_ZOOM]
    return sorted(int(path.name) for path in levels if any(x.is_dir() and _digits(x.name) for x in path.iterdir()))


def _digits(name: str) -> bool:
    """A number as tile servers write it: `str.isdigit` also knows superscripts, which are no numbers to `int`."""
    return name.isascii() and name.isdigit() and len(name) < 12


def pick_zoom(levels: list[int], zoom: int | None, where: str) -> int:
    """The level asked for, or the deepest one.

    Args:
        levels: zoom levels that are there.
        zoom: the one asked for, None for the deepest.
        where: name for messages.

    Raises:
        GenGeoError: there are no levels, or not this one.
    """
    if not levels:
        raise GenGeoError(f"{where} holds no map tiles (z/x/y)")
    if zoom is not None and zoom not in levels:
        raise GenGeoError(f"{where} has no zoom level {zoom}; it has {sorted(levels)}")
    return max(levels) if zoom is None else zoom


def _grid_table(zoom: int, places: list[tuple[int, int]], source: str) -> pa.Table:
    """The tile table of Web Mercator tiles (column, row from the north)."""
    if not places:
        raise GenGeoError(f"{source} holds no image at zoom level {zoom}")
    bounds = [xyz_bounds(zoom, x, y) for x, y in places]
    # The middle of the pixels, which in this projection is not quite the middle of the degrees.
    middles = [xyz_bounds(zoom + 1, 2 * x, 2 * y) for x, y in places]
    lat, lon = np.array([m.south for m in middles]), np.array([m.east for m in middles])
    return tile_table([f"{zoom}/{x}/{y}" for x, y in places], lat, lon, bounds, source=source)
