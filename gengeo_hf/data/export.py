"""Export of pairs to Parquet files with the images inside, or to webdataset shards; an export can be resumed.

The directory is read by `load_pairs("parquet", ...)`, `datasets.load_dataset` or the webdataset library.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from rich.progress import track

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file, write_json
from gengeo_hf.common.schema import CAMERA_FEATURES, CrossViewDataset
from gengeo_hf.data.loading import ImageColumn
from gengeo_hf.data.parquet import ROWS_IN_FILE, TABLES, check_split_name, file_parts, image_bytes, write_rows

FORMATS = ("parquet", "webdataset")
SUFFIX = {"parquet": ".parquet", "webdataset": ".tar"}
STATE = "gengeo_export_{}.json"  # source and options of the files of a split
SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"II*\x00": "tif", b"MM\x00*": "tif", b"RIFF": "webp"}


def export_pairs(
    data: CrossViewDataset,
    out: str | Path,
    split: str,
    form: str = "parquet",
    *,
    rows_in_file: int = ROWS_IN_FILE,
    ground_view: str | None = None,
    aerial_view: str | None = None,
    progress: bool = False,
) -> tuple[int, int]:
    """Write both tables of a split. Image files are copied without encoding them again, unless a view is given.

    Parquet files are named `queries/<split>-00000-of-00009.parquet` and `gallery/<split>-...`. Webdataset shards have
    the same names with `.tar`. Their members are `<key>.ground.jpg` and `<key>.json`, or `<key>.aerial.png` and
    `<key>.json`; the JSON holds all other columns.

    Args:
        data: Data set to write.
        out: Output directory; other splits in it are kept.
        split: Name of the split in the file names: letters, digits and underscores.
        form: "parquet" or "webdataset".
        rows_in_file: Maximum number of rows of one file.
        ground_view, aerial_view: Names of view transforms, see `view_transform`; None keeps the images. The result of
            a ground view is not a panorama: its heading and field of view become null, and training does not roll it.
        progress: Whether to show a progress bar.

    Returns:
        Number of files that were written, and number of files that an earlier, interrupted export had written.

    Raises:
        GenGeoError: The format is unknown, the name of the split is invalid, an image is missing, or the directory
            holds files of other data.
    """
    if form not in FORMATS:
        raise GenGeoError(f"the format must be one of {', '.join(FORMATS)}, found {form!r}")
    check_split_name(split)
    out = Path(out)
    views = {"queries": ground_view, "gallery": aerial_view}
    change = {table: _change(views[table], table) for table in TABLES}
    state = {"content": _content(data), "format": form, "rows_in_file": rows_in_file, "views": views}
    _check_state(out, split, state)
    jobs = [
        (table, path, rows)
        for table in TABLES
        for path, rows in file_parts(out / table, f"{split}-", SUFFIX[form], len(getattr(data, table)), rows_in_file)
    ]
    missing = [job for job in jobs if not job[1].is_file()]
    for table, path, rows in track(missing, f"export {data.name}", disable=not progress):
        part = getattr(data, table).select(rows)
        with atomic_file(path) as temporary:
            (write_rows if form == "parquet" else _write_tar)(part, table, temporary, change[table])
    return len(missing), len(jobs) - len(missing)


def _check_state(out: Path, split: str, state: dict[str, Any]) -> None:
    """Record the source and options of the split; refuse a directory that holds this split of other data."""
    path = out / STATE.format(split)
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != state:
            raise GenGeoError(
                f"{out} holds the split {split!r} of other data or another format: choose another directory, or remove "
                f"its files and {path.name}"
            )
        return
    if any(out.glob(f"*/{split}-*-of-*")):
        raise GenGeoError(
            f"{out} holds files of a split {split!r} without {path.name}, so `gengeo data export` did not write them; "
            "choose another directory"
        )
    write_json(path, state)


def _content(data: CrossViewDataset) -> str:
    """Checksum of all columns; of images in files, only the paths are included."""
    digest = hashlib.sha256(data.name.encode())
    for table, column in ((data.queries, "ground"), (data.gallery, "aerial")):
        for name in table.column_names:
            if name != column:
                digest.update(json.dumps(table[name][:]).encode())
        cells = table.cast_column(column, datasets.Image(decode=False)).with_format("arrow")
        for start in range(0, len(table), 1000):
            for cell in cells[start : start + 1000][column].to_pylist():
                has_bytes = cell and cell["bytes"] is not None
                digest.update(hashlib.sha256(cell["bytes"]).digest() if has_bytes else repr(cell).encode())
    return digest.hexdigest()


def _change(view: str | None, table: str) -> Callable[[bytes], bytes] | None:
    """Function that transforms each image file to the view; None keeps the files."""
    if view is None:
        return None
    from gengeo_hf.data.view_files import view_transform

    return view_transform(view, "ground" if table == "queries" else "aerial")


def _without_camera(columns: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row whose image was transformed: its camera no longer applies and becomes null."""
    return {**columns, **{name: None for name in ("heading", "fov", *CAMERA_FEATURES) if name in columns}}


def _write_tar(part: datasets.Dataset, table: str, path: Path, change: Callable[[bytes], bytes] | None = None) -> None:
    """Write one webdataset shard without times and owners, so that equal data give equal bytes."""
    column, key = ("ground", "query_id") if table == "queries" else ("aerial", "tile_id")
    images = ImageColumn(part, column)
    others = part.remove_columns([column])
    with tarfile.open(path, "w") as tar:
        for row in range(len(part)):
            content = image_bytes(images.sources([row])[0], change)
            columns = others[row] if change is None else _without_camera(others[row])
            # A dot ends the key of a member and a slash starts a directory, so both are replaced in ids.
            name = f"{row:06d}_" + re.sub(r"[^\w,+-]", "_", columns[key])
            _add(tar, f"{name}.{column}.{_suffix(content)}", content)
            _add(tar, f"{name}.json", json.dumps(columns).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _suffix(content: bytes) -> str:
    """Suffix for the format of an image file, recognised by its first bytes."""
    return next((suffix for head, suffix in SIGNATURES.items() if content.startswith(head)), "img")
