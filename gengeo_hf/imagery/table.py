"""Tiles that are image files, with a table that says where each of them is.

Before: a CSV or Parquet table, alone or in a folder with the images. After: a `TileSource`.

The rule: one column holds the image file, or an id from which the file name follows; two columns hold the centre of the
tile in degrees; the ground size comes from a column or an option. Names are recognised without regard to case and to
anything that is not a letter or a digit, and every guess can be overruled.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, bounds_around
from gengeo_hf.common.transfer import first_line
from gengeo_hf.common.units import parse_metres
from gengeo_hf.imagery.tiles import tile_table

TABLE_SUFFIXES = (".csv", ".parquet")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
# In order of preference. "aerial" first: a table of pairs also has a column of photos.
IMAGE_NAMES = ("aerial", "aerialimage", "satellite", "satimage", "tile", "tilepath", "tileimage", "image", "imagepath",
               "file", "filename", "filepath", "path")  # fmt: skip
PHOTO_NAMES = ("ground", "groundimage", "photo", "photopath", "image", "imagepath", "file", "filename", "filepath",
               "path")  # fmt: skip
ID_NAMES = ("tileid", "id", "grdid", "imageid", "uuid", "name", "key")
LAT_NAMES = ("lat", "latitude", "satlat", "tilelat", "centrelat", "centerlat", "y")
LON_NAMES = ("lon", "lng", "long", "longitude", "satlon", "satlng", "tilelon", "centrelon", "centerlon", "x")
SIZE_NAMES = ("tilesizem", "sizem", "tilesize", "groundsizem", "widthm")
SIDE_NAMES = (("west", "minlon", "xmin"), ("south", "minlat", "ymin"), ("east", "maxlon", "xmax"),
              ("north", "maxlat", "ymax"))  # fmt: skip
# What stands between an id and the ending of its tile; with photos beside the tiles, the marked name is the tile.
TILE_MARKS = ("_sat", "_satellite", "_aerial", "_tile", "-sat", "-aerial", "")


class TableTiles:
    """Tiles listed in a table.

    Args:
        source: a CSV or Parquet file, or a folder that holds exactly one.
        image_column, lat_column, lon_column: columns to use; None recognises them by their names.
        tile_size_m: ground size of a square tile in metres; None takes a column of sizes or of bounds, and where there
            is none either, the bounds stay unknown.
        photos: the table lists ground photos instead: their columns and unmarked file names come first.

    Raises:
        GenGeoError: no table, more than one, a missing column, no image file.
    """

    def __init__(
        self,
        source: str | Path,
        image_column: str | None = None,
        lat_column: str | None = None,
        lon_column: str | None = None,
        tile_size_m: float | None = None,
        photos: bool = False,
    ) -> None:
        path = find_table(Path(source))
        self._image_names = (*PHOTO_NAMES, *ID_NAMES) if photos else (*IMAGE_NAMES, *ID_NAMES)
        self._marks = ("",) if photos else TILE_MARKS
        self.name = path.parent.name if Path(source).is_dir() else path.stem
        table = read_table(path)
        self._columns = _Columns(path.name, table)
        lat = self._numbers(self._columns.need("lat_column", lat_column, LAT_NAMES, "latitude"))
        lon = self._numbers(self._columns.need("lon_column", lon_column, LON_NAMES, "longitude"))
        self.paths = self._find_images(path.parent, image_column)
        ids = self._tile_ids(image_column)
        self.table = tile_table(ids, lat, lon, self._bounds(lat, lon, tile_size_m), source=[str(p) for p in self.paths])

    def read(self, row: int) -> Image.Image:
        """Open one tile's file.

        Raises:
            GenGeoError: it is missing, or no picture that can be read.
        """
        from gengeo_hf.common.images import open_image

        return open_image(self.paths[row])

    def _numbers(self, column: str) -> np.ndarray:
        try:
            return np.array(self._columns.values(column), dtype=np.float64)  # null becomes NaN and is refused later
        except (TypeError, ValueError) as error:
            raise GenGeoError(f"{self._columns.file}: column {column!r} must hold numbers ({error})") from None

    def _find_images(self, folder: Path, image_column: str | None) -> list[Path]:
        """The file of each row, from the image column, or from the id column and a mark such as `_sat`."""
        column = self._columns.find("image_column", image_column, self._image_names)
        if column is None:
            raise GenGeoError(self._columns.missing("image_column", "the image file or an id"))
        names = [str(value) for value in self._columns.values(column)]
        for candidate in _file_rules(folder, self._marks):
            if candidate(names[0]).is_file():
                return [candidate(name) for name in names]
        raise GenGeoError(
            f"{self._columns.file}: no image for {names[0]!r} of column {column!r} in {folder}; tried the name itself "
            f"and with {', '.join(filter(None, self._marks)) or 'nothing'} before {', '.join(IMAGE_SUFFIXES)}; "
            "name the column of the files with --image-column"
        )

    def _tile_ids(self, image_column: str | None) -> list[str]:
        """Ids from an id column where it is unique, else the names of the files."""
        column = None if image_column else self._columns.find("id", None, ID_NAMES)
        if column is not None and len(set(self._columns.values(column))) == len(self.paths):
            return [str(value) for value in self._columns.values(column)]
        return [path.stem for path in self.paths]

    def _bounds(self, lat: np.ndarray, lon: np.ndarray, tile_size_m: float | None) -> Sequence[Bounds | None]:
        """Boxes from the option, else from columns of bounds, else from a column of sizes."""
        sides = [self._columns.find("bounds", None, names) for names in SIDE_NAMES]
        if tile_size_m is None and None not in sides:
            columns = [self._numbers(str(side)) for side in sides]
            return [Bounds(*map(float, box)) for box in zip(*columns, strict=True)]
        size_column = self._columns.find("size", None, SIZE_NAMES)
        if tile_size_m is not None:
            sizes = np.full(len(lat), tile_size_m)
        elif size_column is not None:
            sizes = np.array([parse_metres(str(value)) for value in self._columns.values(size_column)])
        else:
            return [None] * len(lat)
        rows = zip(lat, lon, sizes, strict=True)
        return [bounds_around(a, b, s, s) if np.isfinite(a) and abs(a) <= 90 else None for a, b, s in rows]


class _Columns:
    """Columns of one table, found by name; its errors list what the table has."""

    def __init__(self, file: str, table: pa.Table) -> None:
        self.file, self._table = file, table
        self._plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(table.column_names)}

    def values(self, column: str) -> list[Any]:
        if self._table.column_names.count(column) > 1:
            raise GenGeoError(f"{self.file} has two columns {column!r}: which one is meant? Give them different names")
        return self._table[column].to_pylist()

    def find(self, option: str, asked: str | None, names: Sequence[str]) -> str | None:
        if asked is not None:
            if asked not in self._table.column_names:
                raise GenGeoError(self.missing(option, f"{asked!r}"))
            return asked
        return next((self._plain[name] for name in names if name in self._plain), None)

    def need(self, option: str, asked: str | None, names: Sequence[str], what: str) -> str:
        column = self.find(option, asked, names)
        if column is None:
            raise GenGeoError(self.missing(option, what))
        return column

    def missing(self, option: str, what: str) -> str:
        found = ", ".join(self._table.column_names)
        return f"{self.file} has no column for {what}; it has: {found}. Name it with --{option.replace('_', '-')}"


def find_table(source: Path) -> Path:
    """The one table at `source`, which is the file itself or a folder that holds it.

    Raises:
        GenGeoError: no table, or several.
    """
    if not source.is_dir():
        return source
    tables = sorted(path for path in source.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise GenGeoError(f"{source}: one CSV or Parquet table with coordinates is expected, found {found}")
    return tables[0]


def read_table(path: Path) -> pa.Table:
    """Read CSV or Parquet. Ids stay text: 111050484379850 is a name, not a number.

    Raises:
        GenGeoError: the file is missing, broken or empty.
    """
    if not path.is_file():
        raise GenGeoError(f"there is no table at {path}")
    try:
        if path.suffix.lower() == ".parquet":
            table = pa.parquet.read_table(path)
        else:
            names = pa.csv.open_csv(path).schema.names
            as_text = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
            table = pa.csv.read_csv(path, convert_options=as_text)
    except (pa.ArrowException, OSError) as error:
        raise GenGeoError(f"{path} cannot be read as a table: {first_line(error)}") from error
    if not table.num_rows:
        raise GenGeoError(f"{path} lists no tile")
    return table


def _file_rules(folder: Path, marks: Sequence[str]) -> list[Callable[[str], Path]]:
    """Ways from a cell to a file, the first one that finds the first row's file is used for all rows."""

    def rule(ending: str) -> Callable[[str], Path]:
        return lambda name: folder / f"{name}{ending}"

    return [rule(""), *(rule(mark + suffix) for mark in marks for suffix in IMAGE_SUFFIXES)]
