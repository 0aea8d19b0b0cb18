"""A user's table, read and understood: which column is what, where the images lie.

Before: a file of a user. After: `Rows`, from which `own.py` makes the parts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import mean_positions
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.tables import gallery_table, query_table

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
# What people call the columns, in order of preference; compared without regard to case and punctuation.
NAMES = {
    "ground": ("ground", "groundimage", "groundpath", "groundfilename", "photo", "photopath", "query", "panorama",
               "pano", "streetview", "image"),
    "aerial": ("aerial", "aerialimage", "aerialpath", "aerialfilename", "satellite", "sat", "tile", "overhead",
               "reference"),
    "lat": ("lat", "latitude", "groundlat", "querylat"),
    "lon": ("lon", "lng", "long", "longitude", "groundlon", "querylon"),
    "tile_lat": ("tilelat", "aeriallat", "satlat", "satellitelat"),
    "tile_lon": ("tilelon", "aeriallon", "satlon", "satellitelon"),
    "heading": ("heading", "compassangle", "compass", "bearing", "azimuth", "yaw"),
    "fov": ("fov", "hfov", "horizontalfov", "fieldofview"),
    "area": ("area", "city", "region", "place"),
    "query_id": ("queryid", "groundid", "photoid"),
    "tile_id": ("tileid", "aerialid", "satid"),
    "extra_positives": ("extrapositives", "semipositives", "otherpositives"),
    "split": ("split", "subset", "fold"),
}  # fmt: skip


@dataclass
class Rows:
    """A table whose columns are understood; one row for each pair.

    Args:
        name: of the file or its folder.
        table: the images, where they are inside the table; else None.
        ground, aerial: paths, None where there is none; or the name of the column of `table`.
        query_ids, tile_ids: of each row.
        extra: ids of further tiles of each row.
        extra_paths: path of each further tile that is no row's own.
        numbers: `lat`, `lon` (of the photo), `tile_lat`, `tile_lon`, `heading`, `fov`: degrees, float64 (N,) each, NaN
            where unknown.
        area, split: of each row; split is None without such a column.
        present: whether the images of each row are there.
        has_photo: whether the row has a photo; one without is a tile of the gallery only.
    """

    name: str
    table: datasets.Dataset | None
    ground: list[Any] | str
    aerial: list[Any] | str
    query_ids: list[str]
    tile_ids: list[str]
    extra: list[list[str]]
    extra_paths: dict[str, Path]
    numbers: dict[str, np.ndarray]
    area: list[str | None]
    split: list[Any] | None
    present: np.ndarray
    has_photo: np.ndarray

    @property
    def calls(self) -> list[str]:
        """How messages call each row."""
        return [f"{query} with {tile}" for query, tile in zip(self.query_ids, self.tile_ids, strict=True)]

    def dataset(self, name: str, rows: list[int]) -> CrossViewDataset:
        """Some rows as a data set, its gallery with every tile that one of their photos names.

        Several photos may share a tile; it lies where they lie in the mean.
        """
        photos = [int(row) for row in rows if self.has_photo[row]]
        named = dict.fromkeys(tile for row in photos for tile in self.extra[row])
        others = named.keys() - {self.tile_ids[row] for row in rows}  # tiles of rows of another part, or of no row
        rows = [*rows, *(row for row, tile in enumerate(self.tile_ids) if tile in others and self.present[row])]
        first_row: dict[str, int] = {}
        for row in rows:
            first_row.setdefault(self.tile_ids[row], int(row))
        further = {tile: self.extra_paths[tile] for tile in named if tile not in first_row and tile in self.extra_paths}
        known = first_row.keys() | further.keys()
        queries = query_table(
            [self.query_ids[row] for row in photos],
            _paths(self.ground, photos),
            [self.tile_ids[row] for row in photos],
            semi_positives=[[tile for tile in self.extra[row] if tile in known] for row in photos],
            area=[self.area[row] for row in photos],
            lat=self.numbers["lat"][photos],
            lon=self.numbers["lon"][photos],
            heading=self.numbers["heading"][photos],
            fov=self.numbers["fov"][photos],
        )
        lat, lon = self._tile_positions(rows, list(first_row))
        none = np.full(len(further), np.nan)
        gallery = gallery_table(
            [*first_row, *further],
            [*_paths(self.aerial, list(first_row.values())), *further.values()],
            lat=np.concatenate([lat, none]),
            lon=np.concatenate([lon, none]),
            area=[*(self.area[row] for row in first_row.values()), *(None for _ in further)],
        )
        if self.table is not None:
            queries = _with_images(queries, "ground", self.table, str(self.ground), photos)
            gallery = _with_images(gallery, "aerial", self.table, str(self.aerial), list(first_row.values()))
        return CrossViewDataset(name, queries, gallery)

    def _tile_positions(self, rows: list[int], tiles: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Positions of tiles: their own, or the mean of their photos'."""
        number = {tile: place for place, tile in enumerate(tiles)}
        place = np.array([number[self.tile_ids[row]] for row in rows])
        own = np.isfinite(self.numbers["tile_lat"]) & np.isfinite(self.numbers["tile_lon"])
        lat, lon = (np.where(own, self.numbers[f"tile_{key}"], self.numbers[key])[rows] for key in ("lat", "lon"))
        return mean_positions(place, lat, lon, len(tiles))

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where parts are cut, for some rows: latitude and longitude of the middle of all photos of the row's tile.

        Photos of one tile stand at one place, so that they fall into one part. One whose own position is unknown stands
        where its tile lies.

        Args:
            rows: (k,) of the table.

        Returns:
            Degrees, (k,) each.
        """
        _, place = np.unique([self.tile_ids[row] for row in rows], return_inverse=True)
        unknown = np.isnan(self.numbers["lat"]) | np.isnan(self.numbers["lon"])
        at = {key: np.where(unknown, self.numbers[f"tile_{key}"], self.numbers[key])[rows] for key in ("lat", "lon")}
        lat, lon = mean_positions(place, at["lat"], at["lon"], int(place.max(initial=-1)) + 1)
        return lat[place], lon[place]


def read_rows(root: Path, columns: Mapping[str, str]) -> Rows:
    """Read a table from a file or a folder.

    Raises:
        GenGeoError: no table, several, an unreadable one, or columns that are not understood.
    """
    if (root / "dataset_info.json").is_file():
        try:
            return rows_of(root.name, datasets.load_from_disk(root), root, columns)
        except (OSError, ValueError) as error:
            raise GenGeoError(f"{root} is no saved dataset that can be read: {error}") from error
    path = _table_file(root)
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return rows_of(path.stem, datasets.Dataset.from_parquet(str(path)), path.parent, columns)
        import pandas as pd

        if suffix == ".jsonl":
            frame = pd.read_json(path, lines=True, dtype=False)
        else:
            with path.open(encoding="utf-8-sig") as file:
                header = file.readline()
            # As text: ids such as 007 keep their zeros. European spreadsheets write semicolons.
            separator = max(",;\t", key=header.count)
            frame = pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig", keep_default_na=False)
        table = datasets.Dataset.from_pandas(frame, preserve_index=False)
    except GenGeoError:
        raise
    except Exception as error:  # what pandas, pyarrow and datasets say of a damaged file
        raise GenGeoError(f"{path} cannot be read as a table: {' '.join(str(error).split())[:200]}") from error
    return rows_of(path.stem, table, path.parent, columns)


def rows_of(name: str, table: datasets.Dataset, folder: Path | None, columns: Mapping[str, str]) -> Rows:
    """Understand the columns of a table.

    Args:
        name: for messages.
        table: rows; image columns hold paths, or images.
        folder: that relative paths start from; None is the working directory.
        columns: names or patterns by our names.

    Raises:
        GenGeoError: a column that is needed is missing, or a number is none.
    """
    if unknown := sorted(set(columns) - set(NAMES)):
        raise GenGeoError(f"columns has no {unknown[0]!r}; it may name {', '.join(NAMES)}")
    found = {key: columns.get(key) or _recognised(table.column_names, names) for key, names in NAMES.items()}
    for key in ("ground", "aerial"):
        if found[key] is None:
            raise GenGeoError(
                f"{name}: no column for {key!r} among {', '.join(table.column_names)}; name it: columns={{{key}: ...}}"
            )
    inside = {key: isinstance(table.features.get(found[key]), datasets.Image) for key in ("ground", "aerial")}
    if inside["ground"] != inside["aerial"]:
        raise GenGeoError(f"{name}: one of {found['ground']}, {found['aerial']} holds images and the other paths")
    values: dict[str, Any] = {key: None if column is None or inside.get(key) else _values(name, table, column)
              for key, column in found.items()}  # fmt: skip
    count, base = len(table), folder or Path()
    numbers = {key: _as_numbers(name, key, values[key], count)
               for key in ("lat", "lon", "tile_lat", "tile_lon", "heading", "fov")}  # fmt: skip
    area = [str(value) if value not in (None, "") else None for value in values["area"] or [None] * count]
    tile_texts = [f"tile-{row}" for row in range(count)] if inside["aerial"] else [str(v) for v in values["aerial"]]
    tile_ids = _tile_ids(name, values["tile_id"], tile_texts, "tile_id" in columns)
    own_of = dict(zip(tile_texts, tile_ids, strict=True))
    extra = [[own_of.get(text, text) for text in _listed(value)] for value in values["extra_positives"] or [""] * count]
    shared: dict[str, Any] = {
        "tile_ids": tile_ids, "extra": extra, "numbers": numbers, "area": area, "split": values["split"],
    }  # fmt: skip
    if inside["ground"]:
        ids = _query_ids(values["query_id"], [f"row-{row}" for row in range(count)], "query_id" in columns)
        whole = np.ones(count, dtype=bool)
        return Rows(name, table, str(found["ground"]), str(found["aerial"]), ids, extra_paths={}, present=whole,
                    has_photo=whole, **shared)  # fmt: skip
    photo_texts = [str(value) if value not in (None, "") else "" for value in values["ground"]]
    ground = [base / text if text else None for text in photo_texts]
    aerial = [base / text for text in tile_texts]
    extra_paths = {tile: base / tile for row in extra for tile in row if (base / tile).is_file()}
    present = np.array([(g is None or g.is_file()) and a.is_file() for g, a in zip(ground, aerial, strict=True)])
    has_photo = np.array([path is not None for path in ground])
    ids = _query_ids(values["query_id"], photo_texts, "query_id" in columns)
    return Rows(name, None, ground, aerial, ids, extra_paths=extra_paths, present=present, has_photo=has_photo,
                **shared)  # fmt: skip


def _tile_ids(name: str, given: list[Any] | None, texts: list[str], stated: bool) -> list[str]:
    """The ids of a column where each stands for one image, else the paths.

    Raises:
        GenGeoError: the user named the column, and an id stands for two images.
    """
    if given is None:
        return texts
    ids = [str(value) for value in given]
    image_of: dict[str, str] = {}
    for tile, text in zip(ids, texts, strict=True):
        if image_of.setdefault(tile, text) != text:
            if stated:
                raise GenGeoError(f"{name}: the tile_id {tile!r} stands for {image_of[tile]} and for {text}")
            return texts  # a column that is called so, and means something else: a map sheet, for example
    return ids


def _query_ids(given: list[Any] | None, texts: list[str], stated: bool) -> list[str]:
    """The user's ids, or the paths; a photo that stands in two rows gets a number behind its path.

    Ids of a column that was only recognised must be unique to be taken; `validate` refuses repeated ones of the user.
    Rows without a photo, whose text is empty, need none.
    """
    of_photos = [value for value, text in zip(given or (), texts, strict=given is not None) if text]
    if given is not None and (stated or len(set(of_photos)) == len(of_photos)):
        return [str(value) for value in given]
    seen: dict[str, int] = {}
    out = []
    for text in texts:
        seen[text] = seen.get(text, 0) + 1
        out.append(text if seen[text] == 1 else f"{text}#{seen[text]}")
    return out


def _table_file(root: Path) -> Path:
    """The table that was meant."""
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise GenGeoError(f"{root} is no table; expected {', '.join(SUFFIXES)} or a saved HF dataset")
        return root
    found = sorted(path for path in root.glob("*") if path.suffix.lower() in SUFFIXES) if root.is_dir() else []
    if len(found) != 1:
        there = ", ".join(path.name for path in found[:5]) or "none"
        raise GenGeoError(
            f"{root}: expected a table ({', '.join(SUFFIXES)}) or a folder with exactly one, found {there}"
        )
    return found[0]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _recognised(present: list[str], names: tuple[str, ...]) -> str | None:
    """The first known name that the table has."""
    by_plain = {_plain(column): column for column in reversed(present)}
    return next((by_plain[name] for name in names if name in by_plain), None)


def _values(name: str, table: datasets.Dataset, column: str) -> list[Any]:
    """A column, or a pattern filled in for each row."""
    if "{" not in column:
        if column not in table.column_names:
            raise GenGeoError(f"{name} has no column {column!r}; it has {', '.join(table.column_names)}")
        return list(table[column][:])
    needed = re.findall(r"{(\w+)}", column)
    if not needed or set(needed) - set(table.column_names):
        raise GenGeoError(f"{name}: the pattern {column!r} names no column of {', '.join(table.column_names)}")
    parts = {key: table[key][:] for key in needed}
    return [column.format(**{key: parts[key][row] for key in needed}) for row in range(len(table))]


def _as_numbers(name: str, key: str, values: list[Any] | None, count: int) -> np.ndarray:
    """float64 (N,), NaN for what is empty.

    Raises:
        GenGeoError: a value is no number.
    """
    out = np.full(count, np.nan)
    for row, value in enumerate(values or ()):
        if value in (None, ""):
            continue
        try:
            out[row] = float(value)
        except (TypeError, ValueError):
            raise GenGeoError(f"{name}, row {row + 1}: {key} is {value!r}, expected a number") from None
    return out


def _listed(value: Any) -> list[str]:
    """Several ids in one cell: a list, or text with `;` or `|` between them."""
    if value in (None, ""):
        return []
    parts = value if isinstance(value, list | tuple | np.ndarray) else re.split(r"[;|]", str(value))
    return [str(part).strip() for part in parts if str(part).strip()]


def _paths(images: list[Any] | str, rows: list[int]) -> list[Any]:
    """Paths of some rows; placeholders where the images are inside the table."""
    return [""] * len(rows) if isinstance(images, str) else [images[row] for row in rows]


def _with_images(
    made: datasets.Dataset, column: str, table: datasets.Dataset, source: str, rows: list[int]
) -> datasets.Dataset:
    """The same table with the images of a user's table in one column, which is copied on disk and not in memory."""
    features = made.features
    images = table.select_columns([source]).cast_column(source, datasets.Image(decode=False)).select(rows)
    images = images.rename_column(source, column) if source != column else images
    joined = datasets.concatenate_datasets([made.remove_columns([column]), images.flatten_indices()], axis=1)
    return joined.select_columns(list(features)).cast_column(column, datasets.Image())
