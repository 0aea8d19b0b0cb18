"""Tiles listed in a table: each row has an image or the name of its file, and a position.

One column holds the image, its path, or an id from which the file name is derived; two columns hold the centre of the
tile in degrees, or four its bounds; the ground size is taken from a column or an option. Column names are recognised in
any case and punctuation, and options override them.
"""

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, bounds_around
from gengeo_hf.common.images import IMAGE_SUFFIXES
from gengeo_hf.common.plausibility import check_bounds, distance_summary
from gengeo_hf.common.tables import TABLE_SUFFIXES, Table, read_table
from gengeo_hf.common.units import parse_metres
from gengeo_hf.data.column_names import NAMES as PAIR_NAMES
from gengeo_hf.data.sources import read_sources
from gengeo_hf.imagery.tiles import Rights, tile_table

__all__ = ["IMAGE_SUFFIXES", "TABLE_SUFFIXES", "TableTiles"]

# In order of preference. "aerial" is first, since a table of pairs also has a column of photos.
IMAGE_NAMES = (
    "aerial",
    "aerialimage",
    "satellite",
    "satimage",
    "tile",
    "tilepath",
    "tileimage",
    "image",
    "imagepath",
    "file",
    "filename",
    "filepath",
    "path",
)
ID_NAMES = ("tileid", "id", "grdid", "imageid", "uuid", "name", "key")
# Names of the tile's position come first, since lat and lon are the photo's position in a table of pairs.
LAT_NAMES = ("tilelat", "aeriallat", "satlat", "satellitelat", "centrelat", "centerlat", "lat", "latitude", "y")
LON_NAMES = (
    "tilelon",
    "aeriallon",
    "satlon",
    "satellitelon",
    "tilelng",
    "satlng",
    "centrelon",
    "centerlon",
    "lon",
    "lng",
    "long",
    "longitude",
    "x",
)
SIZE_NAMES = ("tilesizem", "sizem", "tilesize", "groundsizem", "widthm")
SIDE_NAMES = (
    ("west", "minlon", "xmin", "minx"),
    ("south", "minlat", "ymin", "miny"),
    ("east", "maxlon", "xmax", "maxx"),
    ("north", "maxlat", "ymax", "maxy"),
)
# Text between an id and the suffix of the tile's file, which distinguishes tiles from photos in the same directory.
TILE_MARKS = ("_sat", "_satellite", "_aerial", "_tile", "-sat", "-aerial", "")
NO_POSITION, NO_IMAGE, REPEATED = "row without a position", "row without an image", "row that repeats a tile"
SAMPLE = 200  # rows by which the rule for file names is found


class TableTiles:
    """Tiles listed in a table.

    Args:
        source: Path or name of the table, see `gengeo_hf.common.tables.read_table`.
        image_column, lat_column, lon_column: Names of columns; None recognises them.
        tile_size_m: Ground size of a square tile in metres; None takes a column of sizes or of bounds. Without these
            the bounds are unknown.

    Raises:
        GenGeoError: There is not exactly one table, a column is missing, no image file exists, or bounds are invalid.
    """

    def __init__(
        self,
        source: str | Path,
        image_column: str | None = None,
        lat_column: str | None = None,
        lon_column: str | None = None,
        tile_size_m: float | None = None,
    ) -> None:
        self._source = table = read_table(source)
        self.name = Path(str(source)).name if Path(str(source)).is_dir() else table.name
        column = _find(table, "image_column", image_column, (*IMAGE_NAMES, *ID_NAMES))
        if column is None:
            raise GenGeoError(_missing(table, "image_column", "the image file or an id"))
        lat, lon, sides = _positions(table, lat_column, lon_column)
        images = self._inside(column) if table.is_image(column) else self._files(column)
        ids = _tile_ids(table, images, column if image_column else None)
        keep, self.left_out = _usable(images, ids, lat, lon)
        if not keep:
            raise GenGeoError(f"{table.file}: no row has an image and a position")
        self.notes = [*table.notes, *_distance_warning(table, lat, lon)]
        self.notes += [f"{table.file}: {count:,} rows left out: {why}" for why, count in self.left_out.items()]
        self.rights = Rights() if table.folder is None else _rights_beside(table.folder)
        self._images = [images[row] for row in keep]
        bounds = _bounds(table, lat, lon, sides, tile_size_m)
        origin = [str(image) if isinstance(image, Path) else table.name for image in self._images]
        if self.rights != Rights():  # rights of the whole table, so all tiles have one source, which results name
            origin = [self.name] * len(origin)
        self.table = tile_table(
            [ids[row] for row in keep], lat[keep], lon[keep], [bounds[row] for row in keep], source=origin
        )

    def read(self, row: int) -> Image.Image:
        """Decode one tile.

        Raises:
            GenGeoError: The file is missing or cannot be decoded.
        """
        from gengeo_hf.common.images import open_image

        image = self._images[row]
        if isinstance(image, Path):
            return open_image(image)
        cell = self._undecoded[image][self._column]
        if cell.get("bytes") is not None:
            return open_image(io.BytesIO(cell["bytes"]))
        return open_image(cell["path"])

    def _inside(self, column: str) -> list[Any]:
        """Row of each image inside the table, None for rows without an image."""
        import datasets

        self._column = column
        rows = self._source.rows.select_columns([column])
        self._undecoded = rows.cast_column(column, datasets.Image(decode=False))
        cells = (self._undecoded[row][column] for row in range(len(rows)))
        return [None if cell is None else row for row, cell in enumerate(cells)]

    def _files(self, column: str) -> list[Any]:
        """File of each row, from the image column, or from the id column and text such as `_sat`; None where empty."""
        table, folder = self._source, self._source.folder or Path()
        names = table.text(column)
        known = [name for name in names if name is not None]
        for rule in _file_rules(folder):
            if any(os.path.isfile(rule(name)) for name in known[:SAMPLE]):  # noqa: PTH113  # many rows
                return [None if name is None else Path(rule(name)) for name in names]
        first = known[0] if known else ""
        raise GenGeoError(
            f"{table.file}: no image for {first!r} of column {column!r} in {folder}; tried the name itself and with "
            f"{', '.join(filter(None, TILE_MARKS))} before {', '.join(IMAGE_SUFFIXES)}; name the column of the files "
            "with --image-column"
        )


def _positions(table: Table, lat_column: str | None, lon_column: str | None) -> tuple[np.ndarray, np.ndarray, Any]:
    """Latitudes and longitudes of centres in degrees, (N,), and bounds (N, 4) or None.

    Without columns of centres, the centres of the bounds are used.
    """
    columns = [_find(table, "bounds", None, names) for names in SIDE_NAMES]
    sides = None if None in columns else np.stack([table.numbers(str(name)) for name in columns], axis=1)
    lat_name = _find(table, "lat_column", lat_column, LAT_NAMES)
    lon_name = _find(table, "lon_column", lon_column, LON_NAMES)
    if sides is not None and (lat_name is None or lon_name is None):
        check_bounds(table.file, sides)
        west, south, east, north = sides.T
        lon = np.where(west > east, (west + east) / 2 + 180.0, (west + east) / 2)
        return (south + north) / 2, np.where(lon > 180.0, lon - 360.0, lon), sides
    if lat_name is None or lon_name is None:
        which, what = ("lat_column", "latitude") if lat_name is None else ("lon_column", "longitude")
        raise GenGeoError(_missing(table, which, what))
    return table.numbers(lat_name, "lat"), table.numbers(lon_name, "lon"), sides


def _distance_warning(table: Table, lat: np.ndarray, lon: np.ndarray) -> list[str]:
    """Warning about implausible distances of tiles from the photos of the table and from one another."""
    names = [table.find(PAIR_NAMES[key]) for key in ("lat", "lon")]
    photo = [np.full(len(lat), np.nan) if name is None else table.numbers(name) for name in names]
    warning = distance_summary(photo[0], photo[1], lat, lon)[1]
    return [f"{table.file}: {warning}"] if warning else []


def _bounds(
    table: Table, lat: np.ndarray, lon: np.ndarray, sides: np.ndarray | None, tile_size_m: float | None
) -> Sequence[Bounds | None]:
    """Bounds of tiles, from the option, else from columns of bounds, else from a column of sizes."""
    if tile_size_m is None and sides is not None:
        check_bounds(table.file, sides, lat, lon)
        return [Bounds(*map(float, box)) if np.isfinite(box).all() else None for box in sides]
    size_column = _find(table, "size", None, SIZE_NAMES)
    if tile_size_m is not None:
        sizes = np.full(len(lat), tile_size_m)
    elif size_column is not None:
        sizes = np.array([np.nan if text is None else parse_metres(text) for text in table.text(size_column)])
    else:
        return [None] * len(lat)
    rows = zip(lat, lon, sizes, strict=True)
    return [bounds_around(a, b, s, s) if np.isfinite([a, b, s]).all() and abs(a) <= 90 else None for a, b, s in rows]


def _tile_ids(table: Table, images: list[Any], image_column: str | None) -> list[str]:
    """Id of each tile: from a column if none is missing and each belongs to one image, else the file name."""
    column = None if image_column else table.find(ID_NAMES)
    if column is not None:
        ids = table.text(column)
        image_of: dict[str, Any] = {}
        # Images inside a table are identified by their id: several rows with one id are one tile.
        same = all(
            image_of.setdefault(str(i), image) == image or isinstance(image, int)
            for i, image in zip(ids, images, strict=True)
        )
        if None not in ids and same:
            return [str(value) for value in ids]
    stems = [image.stem if isinstance(image, Path) else f"row-{row}" for row, image in enumerate(images)]
    files_of: dict[str, set[Any]] = {}
    for stem, image in zip(stems, images, strict=True):
        files_of.setdefault(stem, set()).add(image)
    # Files with equal names in several directories are distinguished by their paths.
    home = table.folder or Path()
    return [
        stem if len(files_of[stem]) == 1 else os.path.relpath(image, home)
        for stem, image in zip(stems, images, strict=True)
    ]


def _usable(images: list[Any], ids: list[str], lat: np.ndarray, lon: np.ndarray) -> tuple[list[int], dict[str, int]]:
    """Rows that become tiles, and the number of other rows by reason."""
    keep, left_out = [], Counter[str]()
    seen: set[str] = set()
    for row, (image, tile) in enumerate(zip(images, ids, strict=True)):
        if image is None:
            left_out[NO_IMAGE] += 1
        elif not (np.isfinite(lat[row]) and np.isfinite(lon[row])):
            left_out[NO_POSITION] += 1
        elif tile in seen:
            left_out[REPEATED] += 1  # a table of pairs lists a tile once for each of its photos
        else:
            seen.add(tile)
            keep.append(row)
    return keep, dict(left_out)


def _find(table: Table, option: str, stated: str | None, names: Sequence[str]) -> str | None:
    """The column that the user states, or a recognised one; None without any."""
    if stated is not None and stated not in table.columns:
        raise GenGeoError(_missing(table, option, f"{stated!r}"))
    return stated or table.find(names)


def _missing(table: Table, option: str, what: str) -> str:
    """Message for a missing column."""
    found = ", ".join(table.columns)
    return f"{table.file} has no column for {what}; it has: {found}. Name it with --{option.replace('_', '-')}"


def _file_rules(folder: Path) -> list[Callable[[str], str]]:
    """Functions from a cell to a path; the first that finds a file among the first rows is used for all rows."""

    def rule(ending: str) -> Callable[[str], str]:
        return lambda name: os.path.join(folder, f"{name}{ending}")  # noqa: PTH118  # many rows

    return [rule(""), *(rule(mark + suffix) for mark in TILE_MARKS for suffix in IMAGE_SUFFIXES)]


def _rights_beside(folder: Path) -> Rights:
    """Rights of aerial imagery that `gengeo data get` or `gengeo data make` wrote beside a table."""
    found = read_sources(folder)
    for source in found.sources if found is not None else ():
        if "aerial" in source.what:
            return Rights(source.attribution, source.licence, source.acquired, source.address)
    return Rights()
