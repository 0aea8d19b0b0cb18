"""Tables of photos with known positions, without tiles; used by `gengeo calibrate`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.camera import CameraView, table_cameras
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import IMAGE_SUFFIXES
from gengeo_hf.common.plausibility import angle_warning, check_degrees, zero_warning
from gengeo_hf.common.tables import Table, read_table
from gengeo_hf.data.column_names import ANGLES, NAMES
from gengeo_hf.data.own_files import spelling_hint

PHOTO_NAMES = (*NAMES["ground"], "imagepath", "file", "filename", "filepath", "path")
ID_NAMES = ("id", "imageid", "photoid", "uuid", "name", "key")
SAMPLE = 200  # rows by which the suffix of the files is found


@dataclass(frozen=True)
class PhotoTable:
    """Photos with their true positions.

    Args:
        sources: Path or bytes of each photo, length N.
        lat, lon: True positions in degrees, (N,).
        cameras: Camera of each photo, with the values that the table states.
        notes: What was left out or is implausible, one line each.
    """

    sources: list[Any]
    lat: np.ndarray
    lon: np.ndarray
    cameras: list[CameraView]
    notes: tuple[str, ...] = ()


def read_photos(source: str | Path, image_column: str | None = None) -> PhotoTable:
    """Read a table of photos and their positions.

    Args:
        source: Path or name of the table, see `gengeo_hf.common.tables.read_table`.
        image_column: Column with the photo's path, its path without the suffix, or the photo itself; None recognises
            the column.

    Raises:
        GenGeoError: The table or a column does not exist, or no row has a photo and a position.
    """
    table = read_table(source)
    column = image_column or table.find((*PHOTO_NAMES, *ID_NAMES))
    if column is None or column not in table.columns:
        wanted = repr(image_column) if image_column else "the photo's file"
        raise GenGeoError(f"{table.file} has no column for {wanted}; it has: {', '.join(table.columns)}")
    columns = {key: table.find(NAMES[key]) for key in ("lat", "lon", *ANGLES)}
    for key in ("lat", "lon"):
        if columns[key] is None:
            raise GenGeoError(f"{table.file} has no column for {key}; it has: {', '.join(table.columns)}")
    numbers = {key: table.numbers(name, key) for key, name in columns.items() if name is not None}
    check_degrees(str(table.file), numbers["lat"], numbers["lon"])
    images = _images_inside(table, column) if table.is_image(column) else _image_files(table, column)
    has_position = np.isfinite(numbers["lat"]) & np.isfinite(numbers["lon"])
    keep = [row for row, image in enumerate(images) if image is not None and has_position[row]]
    if not keep:
        raise GenGeoError(f"{table.file}: no row has a photo and a position")
    notes = list(table.notes)
    unknown = np.full(len(images), np.nan)
    angles_note = angle_warning(numbers.get("heading", unknown), numbers.get("fov", unknown))
    notes += [f"{table.file}: {note}" for note in (zero_warning(numbers["lat"], numbers["lon"]), angles_note) if note]
    if len(keep) < len(images):
        notes.append(f"{table.file}: {len(images) - len(keep):,} rows without a photo or a position are left out")
    angles = {key: values[keep].tolist() for key, values in numbers.items() if key in ANGLES}
    cameras = table_cameras(angles, len(keep))
    return PhotoTable([images[row] for row in keep], numbers["lat"][keep], numbers["lon"][keep], cameras, tuple(notes))


def _images_inside(table: Table, column: str) -> list[Any]:
    """Bytes or path of each photo inside the table, None where there is none."""
    import datasets

    rows = table.rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    cells = (rows[row][column] for row in range(len(rows)))
    return [None if cell is None else cell.get("bytes") or cell.get("path") for cell in cells]


def _image_files(table: Table, column: str) -> list[Any]:
    """Path of each photo: the column's text, with the first suffix for which some files exist; None where empty."""
    folder = str(table.folder or Path())
    names = table.text(column)
    known = [name for name in names if name is not None]
    for suffix in ("", *IMAGE_SUFFIXES):
        paths = (os.path.join(folder, f"{name}{suffix}") for name in known[:SAMPLE])  # noqa: PTH118  # many rows
        if any(os.path.isfile(path) for path in paths):  # noqa: PTH113  # many rows
            return [None if name is None else Path(folder, f"{name}{suffix}") for name in names]
    first = known[0] if known else ""
    hint = spelling_hint(os.path.join(folder, first))  # noqa: PTH118  # joined as above
    raise GenGeoError(
        f"{table.file}: the photo {first!r} of column {column!r} is not in {folder}" + f"; {hint}" * bool(hint)
    )
