"""Parsing of a user's table of pairs: the meaning of its columns, the paths of its images, and repeated photos.

`rows_from_table` converts a `Table` to `Rows`, from which `own.py` makes the splits. Whatever is dropped is counted in
`Rows.notes`, with an example.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from gengeo_hf.common.camera import PROJECTIONS
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import mean_positions
from gengeo_hf.common.plausibility import angle_warning, check_bounds, distance_summary, zero_warning
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.common.tables import Table
from gengeo_hf.data.column_names import NAMES, NUMBERS, SIDES
from gengeo_hf.data.own_files import ImageFiles, InsideImages
from gengeo_hf.data.own_ids import extra_positives, query_ids, tile_ids
from gengeo_hf.data.tables import gallery_table, query_table

_EQUIRECTANGULAR = ("spherical", "equirectangular", "equirect", "360", "panorama")  # of Mapillary and other sources


@dataclass
class Rows:
    """Parsed rows of a table, one for each photo or for each tile without a photo; N is their number.

    Args:
        name: Name of the file or its directory, for messages.
        table: Table with the images inside; None for images in files.
        source_rows: Row of the file that each row came from, int64 (N,).
        ground, aerial: Path of each image, "" where there is none; or the name of the image column of `table`.
        query_ids, tile_ids: Id of each row's photo and tile.
        extra: Ids of further positive tiles of each row.
        extra_paths: Path of each further tile that has no row of its own, by its id.
        numbers: Column values by the names in `NUMBERS`: degrees, float64 (N,) each, NaN where unknown.
        projection, area, split: Value of each row; `split` is None without such a column.
        present: Whether the images of each row exist, bool (N,).
        has_photo: Whether each row has a photo, bool (N,); without one, its tile is in the gallery only.
        photo_row: Row whose photo a row without one was merged into, or the row itself, int64 (N,).
        notes: What was left out, merged or is implausible, one line each.
        distances: One line about the distances between photos and tiles.
    """

    name: str
    table: datasets.Dataset | None
    source_rows: np.ndarray
    ground: list[str] | str
    aerial: list[str] | str
    query_ids: list[str]
    tile_ids: list[str]
    extra: list[list[str]]
    extra_paths: dict[str, str]
    numbers: dict[str, np.ndarray]
    projection: list[str | None]
    area: list[str | None]
    split: list[str | None] | None
    present: np.ndarray
    has_photo: np.ndarray
    photo_row: np.ndarray
    notes: tuple[str, ...] = ()
    distances: str = ""

    def label(self, row: int) -> str:
        """Name of a row in messages."""
        return f"{self.query_ids[row] or 'no photo'} with {self.tile_ids[row]}"

    def build_dataset(self, name: str, rows: Sequence[int]) -> CrossViewDataset:
        """A data set of some rows, whose gallery holds every tile that one of their photos names.

        A tile without a position of its own gets the mean position of its photos.
        """
        photos = [int(row) for row in rows if self.has_photo[row]]
        named = dict.fromkeys(tile for row in photos for tile in self.extra[row])
        others = named.keys() - {self.tile_ids[row] for row in rows}  # tiles of rows of other splits, or of no row
        rows = [*rows, *(row for row, tile in enumerate(self.tile_ids) if tile in others and self.present[row])]
        first_row: dict[str, int] = {}
        for row in rows:
            first_row.setdefault(self.tile_ids[row], int(row))
        further = {tile: self.extra_paths[tile] for tile in named if tile not in first_row and tile in self.extra_paths}
        known = first_row.keys() | further.keys()
        of = {key: values[photos] for key, values in self.numbers.items()}
        camera: dict[str, Any] = {key: of[key] for key in ("vertical_fov", "pitch", "roll") if self._has_values(key)}
        if any(value is not None for value in self.projection):
            camera["projection"] = [self.projection[row] for row in photos]
        queries = query_table(
            [self.query_ids[row] for row in photos],
            _select_paths(self.ground, photos),
            [self.tile_ids[row] for row in photos],
            semi_positives=[[tile for tile in self.extra[row] if tile in known] for row in photos],
            area=[self.area[row] for row in photos],
            lat=of["lat"],
            lon=of["lon"],
            heading=of["heading"],
            fov=of["fov"],
            **camera,
        )
        gallery = self._gallery(rows, first_row, further)
        if self.table is not None:
            tile_rows = self.source_rows[list(first_row.values())]
            queries = _replace_images(queries, "ground", self.table, str(self.ground), self.source_rows[photos])
            gallery = _replace_images(gallery, "aerial", self.table, str(self.aerial), tile_rows)
        return CrossViewDataset(name, queries, gallery)

    def _has_values(self, key: str) -> bool:
        return bool(np.isfinite(self.numbers[key]).any())

    def _gallery(self, rows: list[int], first_row: dict[str, int], further: dict[str, str]) -> datasets.Dataset:
        """Gallery table of the tiles of some rows, then of further tiles that have no row."""
        firsts = list(first_row.values())
        lat, lon = self._tile_positions(rows, list(first_row))
        sides = np.stack([self.numbers[side][firsts] for side in SIDES], axis=1)
        none = np.full(len(further), np.nan)
        return gallery_table(
            [*first_row, *further],
            [*_select_paths(self.aerial, firsts), *further.values()],
            lat=np.concatenate([lat, none]),
            lon=np.concatenate([lon, none]),
            bounds=np.concatenate([sides, np.full((len(further), 4), np.nan)]),
            area=[*(self.area[row] for row in firsts), *(None for _ in further)],
        )

    def _tile_positions(self, rows: Sequence[int], tiles: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Positions of tiles in degrees: stated, centre of their bounds, or mean position of their photos."""
        number = {tile: index for index, tile in enumerate(tiles)}
        group = np.array([number[self.tile_ids[row]] for row in rows])
        lat, lon = self.tile_centres()
        unknown = np.isnan(lat) | np.isnan(lon)
        lat, lon = (np.where(unknown, self.numbers[key], own)[rows] for key, own in (("lat", lat), ("lon", lon)))
        return mean_positions(group, lat, lon, len(tiles))

    def tile_centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Stated centre of each row's tile: latitudes and longitudes in degrees, (N,) each, NaN where unknown."""
        lat, lon = self.numbers["tile_lat"], self.numbers["tile_lon"]
        west, south, east, north = (self.numbers[side] for side in SIDES)
        middle = np.where(west > east, (west + east) / 2 + 180.0, (west + east) / 2)
        middle = np.where(middle > 180.0, middle - 360.0, middle)
        known = np.isfinite(lat) & np.isfinite(lon)
        return np.where(known, lat, (south + north) / 2), np.where(known, lon, middle)

    def split_positions(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions by which rows are split: the mean position of all photos of the row's tile.

        All photos of a tile get the same position, so that they belong to one split. A photo without a position counts
        with the centre of its tile.

        Args:
            rows: Indices of rows, int64 (k,).

        Returns:
            Latitudes and longitudes in degrees, (k,) each.
        """
        _, group = np.unique([self.tile_ids[row] for row in rows], return_inverse=True)
        unknown = np.isnan(self.numbers["lat"]) | np.isnan(self.numbers["lon"])
        tile_lat, tile_lon = self.tile_centres()
        lat = np.where(unknown, tile_lat, self.numbers["lat"])[rows]
        lon = np.where(unknown, tile_lon, self.numbers["lon"])[rows]
        lat, lon = mean_positions(group, lat, lon, int(group.max(initial=-1)) + 1)
        return lat[group], lon[group]


def rows_from_table(table: Table, columns: Mapping[str, str], camera: Mapping[str, float] | None = None) -> Rows:
    """Parse the columns of a table.

    Args:
        table: Table from `read_table` or `as_table`.
        columns: Names of its columns by those in `NAMES`, where they are not recognised; one with braces is a pattern.
        camera: Angles of all photos in degrees by the names in `ANGLES`, which replace the table's columns.

    Raises:
        GenGeoError: A required column is missing, or a value is not a number or out of range.
    """
    found = _find_columns(table, columns)
    count, notes = len(table), list(table.notes)
    inside = {key: "{" not in str(found[key]) and table.is_image(str(found[key])) for key in ("ground", "aerial")}
    if inside["ground"] != inside["aerial"]:
        raise GenGeoError(f"{table.file}: one of {found['ground']}, {found['aerial']} holds images and the other paths")
    numbers = {key: _read_numbers(table, key, found[key], count) for key in NUMBERS}
    _apply_camera(table, numbers, camera or {}, notes)
    texts = {
        key: _read_texts(table, found[key]) if found[key] and not inside.get(key) else None
        for key in ("ground", "aerial", "query_id", "tile_id", "area", "projection")
    }
    split = None if found["split"] is None else [_to_text(value) for value in table.values(str(found["split"]))]
    files: InsideImages | ImageFiles
    if inside["ground"]:
        files = InsideImages(table, str(found["ground"]), str(found["aerial"]))
    else:
        files = ImageFiles(table.folder or Path(), texts["ground"] or [], texts["aerial"] or [])
    stated = "tile_id" in columns
    tiles, own_id_of = tile_ids(table, texts["tile_id"], files.tile_texts, stated, inside["ground"], notes)
    photos = query_ids(texts["query_id"], files.photo_texts, "query_id" in columns, notes, table.file)
    raw_extra = table.values(str(found["extra_positives"])) if found["extra_positives"] else [None] * count
    extra, extra_paths = extra_positives(table, raw_extra, tiles, own_id_of, files.path_of, notes)
    rows = Rows(
        table.name,
        table.rows if inside["ground"] else None,
        np.arange(count),
        files.ground,
        files.aerial,
        photos,
        tiles,
        extra,
        extra_paths,
        numbers,
        _parse_projections(table, texts["projection"], count, notes),
        texts["area"] or [None] * count,
        split,
        files.present,
        files.has_photo,
        np.arange(count),
    )
    rows = _merge_photos(rows, texts["query_id"] if inside["ground"] else files.photo_texts, notes)
    _check_positions(table, rows, notes)
    if not inside["ground"] and not rows.present.all():
        notes.extend(files.hints())
    rows.notes = tuple(notes)
    return rows


def _find_columns(table: Table, columns: Mapping[str, str]) -> dict[str, str | None]:
    """The table's column, or a pattern over its columns, by the names in `NAMES`."""
    if unknown := sorted(set(columns) - set(NAMES)):
        raise GenGeoError(f"columns cannot map {unknown[0]!r}; expected one of {', '.join(NAMES)}")
    found = {key: columns.get(key) or table.find(names) for key, names in NAMES.items()}
    for key in ("ground", "aerial"):
        if found[key] is None:
            raise GenGeoError(
                f"{table.file}: no column for {key!r} among {', '.join(table.columns)}; name it: "
                f"columns.{key}=NAME{_header_hint(table.columns)}"
            )
    return found


def _header_hint(names: Sequence[str]) -> str:
    """Hint for a table whose first line looks like data."""
    data = [name for name in names if re.search(r"\.\w{3,4}$|^[-+]?\d+(\.\d+)?$", name)]
    return "; does the file lack a header line, such as ground,aerial,lat,lon?" if len(data) > 1 else ""


def _read_texts(table: Table, column: str | None) -> list[str | None]:
    """A column as text, or a pattern applied to each row."""
    if column is None:
        return [None] * len(table)
    if "{" not in column:
        return table.text(column)
    needed = re.findall(r"{(\w+)}", column)
    if not needed or set(needed) - set(table.columns):
        raise GenGeoError(f"{table.file}: the pattern {column!r} names no column of {', '.join(table.columns)}")
    parts = {key: table.text(key) for key in needed}
    rows = zip(*(parts[key] for key in needed), strict=True)
    return [None if None in row else column.format(**dict(zip(needed, row, strict=True))) for row in rows]


def _read_numbers(table: Table, key: str, column: str | None, count: int) -> np.ndarray:
    """A column in degrees, float64 (N,), NaN where unknown."""
    values = np.full(count, np.nan) if column is None else table.numbers(column, key)
    limit = {"lat": 90.0, "lon": 180.0}.get(key.removeprefix("tile_"))
    if limit is not None and (wrong := np.abs(np.nan_to_num(values)) > limit).any():
        row = int(np.argmax(wrong))
        raise GenGeoError(
            f"{table.file}, row {row + 1}: {key} is {values[row]:g}, expected -{limit:g}..{limit:g} degrees; are the "
            "columns swapped or in metres?"
        )
    return values


def _apply_camera(table: Table, numbers: dict[str, np.ndarray], camera: Mapping[str, float], notes: list[str]) -> None:
    """Replace columns of the table by angles that an option states for all photos."""
    for key, value in camera.items():
        filled = int(np.isfinite(numbers[key]).sum())
        if filled:
            count = len(numbers[key])
            notes.append(f"{table.file}: {key}={value:g} replaces its column, filled in {filled:,} of {count:,} rows")
        numbers[key] = np.full(len(numbers[key]), float(value))


def _parse_projections(table: Table, texts: list[str | None] | None, count: int, notes: list[str]) -> list[str | None]:
    """Names in `PROJECTIONS` for the texts of a column, None where unknown."""
    if texts is None:
        return [None] * count
    out: list[str | None] = []
    unknown: Counter[str] = Counter()
    for text in texts:
        name = (text or "").lower()
        known = "equirectangular" if name in _EQUIRECTANGULAR else name if name in PROJECTIONS else None
        if name and known is None:
            unknown[name] += 1
        out.append(known)
    for name, times in unknown.most_common(3):
        notes.append(f"{table.file}: projection {name!r} ({times:,} rows) is unknown and ignored")
    return out


def _merge_photos(rows: Rows, photos: Sequence[str | None] | None, notes: list[str]) -> Rows:
    """Merge the rows of each photo: the tile of its first row is the positive, the others are further positives."""
    first: dict[str, int] = {}
    keep: list[int] = []
    repeated, merged, example = 0, 0, ""
    for row in range(len(rows.tile_ids)):
        photo = photos[row] if photos is not None else None
        if photo is None or not rows.has_photo[row] or first.setdefault(photo, row) == row:
            keep.append(row)
            continue
        known = first[photo]
        if rows.tile_ids[row] == rows.tile_ids[known]:
            repeated += 1
            continue
        merged += 1
        example = example or f"{photo} with {rows.tile_ids[known]} and {rows.tile_ids[row]}"
        if rows.tile_ids[row] not in rows.extra[known]:
            rows.extra[known] = [*rows.extra[known], rows.tile_ids[row]]
        rows.has_photo[row], rows.photo_row[row] = False, known  # its tile stays in the gallery, in the photo's split
        keep.append(row)
    if merged:
        notes.append(
            f"{rows.name}: {merged:,} rows repeat a photo with another tile, which becomes a further positive "
            f"of it: {example}"
        )
    if repeated:
        notes.append(f"{rows.name}: {repeated:,} rows repeat a photo with the same tile; they are left out")
    return rows if not repeated else _select_rows(rows, keep)


def _select_rows(rows: Rows, keep: list[int]) -> Rows:
    """The rows with the indices `keep`, ascending."""
    index = np.array(keep, dtype=np.int64)

    def of(values: Any) -> Any:
        return [values[row] for row in keep] if isinstance(values, list) else values

    return Rows(
        rows.name,
        rows.table,
        rows.source_rows[index],
        of(rows.ground),
        of(rows.aerial),
        of(rows.query_ids),
        of(rows.tile_ids),
        of(rows.extra),
        rows.extra_paths,
        {key: v[index] for key, v in rows.numbers.items()},
        of(rows.projection),
        of(rows.area),
        of(rows.split),
        rows.present[index],
        rows.has_photo[index],
        np.searchsorted(index, rows.photo_row[index]),
    )


def _check_positions(table: Table, rows: Rows, notes: list[str]) -> None:
    """Refuse impossible bounds, and note implausible positions, distances and headings."""
    numbers, photo = rows.numbers, rows.has_photo
    own = np.isfinite(numbers["lat"]) & np.isfinite(numbers["lon"])
    half = int((np.isfinite(numbers["lat"]) ^ np.isfinite(numbers["lon"])).sum())
    if half:
        row = int(np.argmax(np.isfinite(numbers["lat"]) ^ np.isfinite(numbers["lon"]))) + 1
        notes.append(f"{table.file}: {half:,} rows have only one of lat and lon, first row {row}: position unknown")
    for key in ("lat", "lon"):
        numbers[key] = np.where(own, numbers[key], np.nan)
    sides = np.stack([numbers[side] for side in SIDES], axis=1)
    if np.isfinite(sides).any():
        check_bounds(table.file, sides, numbers["lat"], numbers["lon"])
    lat, lon = (np.where(photo, numbers[key], np.nan) for key in ("lat", "lon"))
    tile_lat, tile_lon = rows.tile_centres()
    if not np.isfinite(tile_lat).any():
        tile_lat, tile_lon, lat = numbers["lat"], numbers["lon"], np.full(len(lat), np.nan)
    rows.distances, warning = distance_summary(lat, lon, tile_lat, tile_lon)
    found = (warning, zero_warning(numbers["lat"], numbers["lon"]), angle_warning(numbers["heading"], numbers["fov"]))
    notes += [f"{table.file}: {text}" for text in found if text]


def _to_text(value: Any) -> str | None:
    return None if value is None else str(value)


def _select_paths(images: list[str] | str, rows: Sequence[int]) -> list[str]:
    """Paths of some rows; "" for each where the images are inside the table."""
    return [""] * len(rows) if isinstance(images, str) else [images[row] for row in rows]


def _replace_images(
    target: datasets.Dataset, column: str, table: datasets.Dataset, source: str, rows: Sequence[int] | np.ndarray
) -> datasets.Dataset:
    """The table `target` with one column replaced by images of a user's table, copied on disk and not in memory."""
    features = target.features
    images = table.select_columns([source]).cast_column(source, datasets.Image(decode=False)).select(rows)
    images = images.rename_column(source, column) if source != column else images
    joined = datasets.concatenate_datasets([target.remove_columns([column]), images.flatten_indices()], axis=1)
    return joined.select_columns(list(features)).cast_column(column, datasets.Image())
