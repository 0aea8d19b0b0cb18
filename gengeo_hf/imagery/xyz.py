"""Map tiles on disk: a directory `z/x/y.png`, or an MBTiles file (SQLite).

A tile of the Web Mercator grid is square in the projection. Its side on the ground is proportional to the cosine of the
latitude (at 60 degrees it is half of that at the equator), so the size in metres is computed and not an option.
"""

import hashlib
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.common.images import IMAGE_SUFFIXES, is_hidden
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.sqlite_files import UNREADABLE, BoundedDatabase
from gengeo_hf.imagery.tile_content import ONE_COLOUR, REPEATED, TRANSPARENT, NotAPictureError, decode_tile
from gengeo_hf.imagery.tiles import NO_DATA_SHARE, tile_table

MAX_ZOOM = 30  # tiles of 4 cm
ORDERS = ("zxy", "zyx")
MIN_REPEATED = 3  # minimum number of positions of a repeated image


def xyz_bounds(zoom: int, column: int, row: int) -> Bounds:
    """Bounds of a Web Mercator tile (OGC 17-083r4, annex D.1).

    Args:
        zoom: Zoom level. Level 0 is one tile for the world; each further level halves the side.
        column, row: Indices of the tile, counted from 180 degrees west and from 85.05 degrees north.

    Returns:
        West, south, east, north in degrees.
    """

    def corner(x: int, y: int) -> tuple[float, float]:
        return x / 2**zoom * 360.0 - 180.0, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / 2**zoom))))

    west, north = corner(column, row)
    east, south = corner(column + 1, row + 1)
    return Bounds(west, south, east, north)


class XyzTiles:
    """Tiles of a directory: `z/x/y.png`, `z/y/x.png`, with `@2x` or letters (`z18/x1/y1.png`), or flat `z_x_y.png`.

    Args:
        folder: Directory that holds the zoom levels or the files.
        zoom: Zoom level to use; None takes the one with the most tiles.
        tms: Whether rows are counted from the south, as in the TMS standard.
        order: Order of the numbers in a path: "zxy", or "zyx" as in addresses of Esri.
        leave_out_repeated: Whether images that occur at several positions are left out instead of only counted.
        max_empty: Maximum share of transparent pixels of a tile.
        keep_one_colour: Whether tiles of one colour are kept.

    Raises:
        GenGeoError: The directory has no map tiles, or none of this zoom level.
    """

    def __init__(
        self,
        folder: str | Path,
        zoom: int | None = None,
        tms: bool = False,
        order: str = "zxy",
        leave_out_repeated: bool = False,
        max_empty: float = 0.5,
        keep_one_colour: bool = False,
    ) -> None:
        if order not in ORDERS:
            raise GenGeoError(f"the order of map tiles must be one of {', '.join(ORDERS)}, found {order!r}")
        folder = Path(folder)
        self.name = folder.name
        levels = find_tiles(folder, order)
        counts = {level: len(tiles) for level, tiles in levels.items()}
        level = pick_zoom(counts, zoom, str(folder))
        self.notes = _level_note(counts, level, str(folder))
        found: dict[tuple[int, int], Path] = {}
        twice = 0
        for column, row, path in sorted(levels[level]):
            if _on_grid(level, column, row):
                cell = (column, 2**level - 1 - row if tms else row)
                twice += cell in found
                found.setdefault(cell, path)
        if twice:
            self.notes.append(f"{folder}: {twice:,} tiles have two files (such as .png and .jpg); the first is taken")
        cells = sorted(found)
        self._paths = [found[cell] for cell in cells]
        self.table = _grid_table(level, cells, str(folder))
        sizes = [path.stat().st_size for path in self._paths]
        self._content = _Content(sizes, self._bytes, leave_out_repeated, max_empty, keep_one_colour)
        self.rendering = self._content.rendering
        self.notes += self._content.notes(str(folder), [f"{level}/{x}/{y}" for x, y in cells])

    def read(self, row: int) -> Image.Image | None:
        """Decode one tile, None if too much of it is transparent.

        Raises:
            GenGeoError: The file is missing, or is not imagery of the ground.
        """
        return self._content.image(self._bytes(row), row, str(self._paths[row]))

    def _bytes(self, row: int) -> bytes:
        try:
            return self._paths[row].read_bytes()
        except OSError as error:
            raise GenGeoError(f"{self._paths[row]} cannot be read: {error.strerror or error}") from error


class MbTiles:
    """Raster tiles of an MBTiles file (specification 1.3: rows counted from the south).

    Args:
        path: Path of the file.
        zoom: Zoom level to use; None takes the one with the most tiles.
        north_rows: Whether rows are counted from the north, as some programs write them against the specification.
        leave_out_repeated, max_empty, keep_one_colour: See `XyzTiles`.

    Raises:
        GenGeoError: The file is not an MBTiles file, holds vector tiles, or has no tile of this zoom level.
    """

    def __init__(
        self,
        path: str | Path,
        zoom: int | None = None,
        north_rows: bool = False,
        leave_out_repeated: bool = False,
        max_empty: float = 0.5,
        keep_one_colour: bool = False,
    ) -> None:
        self.name = Path(path).name
        self._path = Path(path)
        self._local = threading.local()  # SQLite connections are not safe for threads
        try:
            kind = self._query("SELECT value FROM metadata WHERE name = 'format'")
            found = self._query("SELECT zoom_level, COUNT(*) FROM tiles GROUP BY zoom_level")
            if kind and kind[0][0] == "pbf":
                raise GenGeoError(f"{path} holds vector tiles; aerial imagery is needed")
            # An SQLite column may hold values of any type, so rows whose level is not an integer are ignored.
            counts = {level: count for level, count in found if isinstance(level, int) and 0 <= level <= MAX_ZOOM}
            self._zoom = pick_zoom(counts, zoom, str(path))
            rows_of = self._query(
                "SELECT tile_column, tile_row, MIN(LENGTH(tile_data)) FROM tiles WHERE zoom_level = ? "
                "GROUP BY 1, 2 ORDER BY 1, 2",
                (self._zoom,),
            )
        except UNREADABLE as error:
            raise GenGeoError(f"{path} cannot be read as MBTiles: {first_line(error)}") from error
        known = [(x, y, size or 0) for x, y, size in rows_of if _on_grid(self._zoom, x, y)]
        self._cells = [(x, y) for x, y, _ in known]
        rows = [(x, y if north_rows else 2**self._zoom - 1 - y) for x, y in self._cells]
        self.table = _grid_table(self._zoom, rows, self.name)
        self.notes = _level_note(counts, self._zoom, str(path))
        sizes = [size for _, _, size in known]
        self._content = _Content(sizes, self._bytes, leave_out_repeated, max_empty, keep_one_colour)
        self.rendering = self._content.rendering
        self.notes += self._content.notes(str(path), [f"{self._zoom}/{x}/{y}" for x, y in rows])

    def read(self, row: int) -> Image.Image | None:
        """Decode one tile, None if too much of it is transparent.

        Raises:
            GenGeoError: The file cannot be read, or the tile is not imagery of the ground.
        """
        return self._content.image(self._bytes(row), row, f"tile {self.table['tile_id'][row]} of {self.name}")

    def _bytes(self, row: int) -> bytes:
        where = (self._zoom, *self._cells[row])
        name = f"tile {'/'.join(map(str, where))} of {self.name}"
        try:
            found = self._query(
                "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?", where
            )
        except UNREADABLE as error:
            raise GenGeoError(f"{name} cannot be read: {first_line(error)}") from error
        content = found[0][0] if found else None
        if not isinstance(content, bytes):
            raise GenGeoError(f"{name} has no image")
        return content

    def _query(self, statement: str, values: tuple[int, ...] = ()) -> list[tuple]:
        if not hasattr(self._local, "database"):
            self._local.database = BoundedDatabase(self._path)
        return self._local.database.query(statement, values)


def _on_grid(zoom: int, column: object, row: object) -> bool:
    """Whether column and row are indices of a tile of a zoom level."""
    return all(isinstance(number, int) and 0 <= number < 2**zoom for number in (column, row))


class _Content:
    """Decodes tiles, finds images that occur at several positions, and refuses content that is not imagery.

    Args:
        sizes: Size of each tile's file in bytes; only files of equal size are compared.
        read: Function from the row of a tile to its bytes.
        leave_out: See `XyzTiles`, `leave_out_repeated`.
        max_empty, keep_one_colour: See `XyzTiles`.
    """

    def __init__(
        self, sizes: list[int], read: Callable[[int], bytes], leave_out: bool, max_empty: float, keep_one_colour: bool
    ) -> None:
        self._leave_out, self._max_empty, self._keep_one_colour = leave_out, max_empty, keep_one_colour
        self.rendering = f"repeated {'left out' if leave_out else 'kept'}, at most {max_empty:g} empty"
        by_size: dict[int, list[int]] = {}
        for row, size in enumerate(sizes):
            by_size.setdefault(size, []).append(row)
        self.repeated: dict[int, int] = {}  # row -> first row with the same image
        groups: dict[bytes, list[int]] = {}
        for rows in by_size.values():
            for row in rows if len(rows) >= MIN_REPEATED else ():
                try:
                    groups.setdefault(hashlib.blake2b(read(row), digest_size=16).digest(), []).append(row)
                except GenGeoError:  # reported when the tile is encoded
                    continue
        for rows in groups.values():
            if len(rows) >= MIN_REPEATED:
                self.repeated |= dict.fromkeys(rows, rows[0])

    def notes(self, name: str, ids: list[str]) -> list[str]:
        """Note about repeated images; empty without any.

        Args:
            name: Name of the source.
            ids: Id of each tile.
        """
        if not self.repeated:
            return []
        first = Counter(self.repeated.values()).most_common(1)[0][0]
        others = [ids[row] for row, other in self.repeated.items() if other == first][:3]
        effect = "they are left out" if self._leave_out else "--leave-out-repeated leaves them out"
        return [
            f"{name}: {len(self.repeated):,} of {len(ids):,} tiles show a picture that occurs at other positions too, "
            f"for example {', '.join(others)} (open water, or 'access blocked'?); {effect}"
        ]

    def image(self, content: bytes, row: int, name: str) -> Image.Image | None:
        """Decode a tile; transparent pixels are filled with the ImageNet mean.

        Args:
            content: Bytes of the file.
            row: Row of the tile.
            name: Name of the tile in messages.

        Returns:
            The image, None if too much of it is transparent.

        Raises:
            NotAPictureError: The tile has one colour, is transparent, or is repeated and left out.
            GenGeoError: The tile cannot be decoded.
        """
        from gengeo_hf.common.images import open_image

        if self._leave_out and row in self.repeated:
            raise NotAPictureError(REPEATED)
        try:
            _, mask, _ = decode_tile(content, self._keep_one_colour)
        except NotAPictureError as error:
            if error.reason in (ONE_COLOUR, TRANSPARENT):
                raise
            raise GenGeoError(f"{name}: {error.reason}") from error
        empty = 0.0 if mask is None else float((mask == 0).mean())
        if empty > self._max_empty:
            return None
        image = open_image(content)
        if empty:
            image.info[NO_DATA_SHARE] = empty
        return image


def find_tiles(folder: Path, order: str = "zxy") -> dict[int, list[tuple[int, int, Path]]]:
    """Map tiles of a directory by zoom level: column, row and file of each.

    Args:
        folder: Directory with `z/x/y` files, or with files that have three numbers in their name.
        order: Order of the numbers, "zxy" or "zyx".
    """
    levels: dict[int, list[tuple[int, int, Path]]] = {}
    for path in _tile_files(folder):
        numbers = _numbers_of(path.relative_to(folder))
        if numbers is None:
            continue
        level, one, two = numbers
        column, row = (one, two) if order == "zxy" else (two, one)
        levels.setdefault(level, []).append((column, row, path))
    return levels


def holds_tiles(folder: Path) -> bool:
    """Whether a directory holds map tiles by the names of its files."""
    return any(_numbers_of(path.relative_to(folder)) is not None for path in _tile_files(folder))


def _tile_files(folder: Path) -> Iterator[Path]:
    """Image files whose paths may be those of tiles: directly in the directory, or two levels below it."""
    for pattern in ("*/*/*", "*"):
        for path in folder.glob(pattern):
            if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.relative_to(folder)):
                yield path


def _numbers_of(path: Path) -> tuple[int, int, int] | None:
    """Zoom and the two other numbers of a relative path, None if it is not that of a tile."""
    stem = re.sub(r"@\d+x$", "", path.stem)
    is_raster = path.suffix.lower() in (".tif", ".tiff", ".jp2")  # the numbers in 12_05_2020.tif are a date
    flat = [] if is_raster else re.split(r"[_\-,.]", stem)
    parts = [*path.parts[:-1], stem] if len(path.parts) == 3 else flat
    if len(parts) != 3:
        return None
    found = [re.fullmatch(r"[A-Za-z]?(\d{1,11})", part, re.ASCII) for part in parts]
    if any(match is None for match in found):
        return None
    z, one, two = (int(match[1]) for match in found if match is not None)
    return (z, one, two) if z <= MAX_ZOOM and max(one, two) < 2**z else None


def pick_zoom(counts: dict[int, int], zoom: int | None, where: str) -> int:
    """Choose the zoom level to use.

    Args:
        counts: Number of tiles by zoom level.
        zoom: Requested level; None takes the one with the most tiles, of equal ones the highest.
        where: Name of the source for messages.

    Raises:
        GenGeoError: There are no levels, or not the requested one.
    """
    if not counts:
        raise GenGeoError(f"{where} holds no map tiles (z/x/y)")
    if zoom is not None and zoom not in counts:
        raise GenGeoError(f"{where} has no zoom level {zoom}; it has {sorted(counts)}")
    return max(counts, key=lambda level: (counts[level], level)) if zoom is None else zoom


def _level_note(counts: dict[int, int], level: int, where: str) -> list[str]:
    """Note about the levels if there are several; else empty."""
    if len(counts) == 1:
        return []
    there = ", ".join(f"{counts[z]:,} tiles at zoom {z}" for z in sorted(counts))
    return [f"{where} holds {there}: zoom {level} is taken; --zoom takes another"]


def _grid_table(zoom: int, cells: list[tuple[int, int]], source: str) -> pa.Table:
    """Tile table of Web Mercator tiles (column, row from the north)."""
    if not cells:
        raise GenGeoError(f"{source} holds no image at zoom level {zoom}")
    bounds = [xyz_bounds(zoom, x, y) for x, y in cells]
    # The centre of the pixels, which differs slightly from the centre in degrees in this projection.
    middles = [xyz_bounds(zoom + 1, 2 * x, 2 * y) for x, y in cells]
    lat, lon = np.array([m.south for m in middles]), np.array([m.east for m in middles])
    return tile_table([f"{zoom}/{x}/{y}" for x, y in cells], lat, lon, bounds, source=source)
