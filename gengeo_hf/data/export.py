"""Pairs in files that travel: Parquet with the images inside, or webdataset shards; a stopped export goes on.

The folder is read by `load_pairs("parquet", ...)`, `datasets.load_dataset` or the webdataset library.
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
STATE = "gengeo_export_{}.json"  # what the files of a split were made from
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
    """Write both tables of a split. Images are copied as they are, not encoded again, unless a view is asked for.

    Parquet: `queries/<split>-00000-of-00009.parquet` and the same under `gallery`. Webdataset: the same names with
    `.tar`; members `<key>.ground.jpg` and `<key>.json`, or `<key>.aerial.png` and `<key>.json`, with all other columns
    in the JSON.

    Args:
        data: what to write.
        out: folder; other splits in it stay.
        split: the name in the files: letters, digits and underscores.
        form: "parquet" or "webdataset".
        rows_in_file: of each file.
        ground_view, aerial_view: transforms by name, see `view_transform`. A panorama that is laid flat is none any
            more: its heading and field of view become null, and training does not roll it.
        progress: show a bar.

    Returns:
        How many files were written, and how many were there already from a run that was stopped.

    Raises:
        GenGeoError: an unknown format, an unusable name, an image that is missing, or files of other data.
    """
    if form not in FORMATS:
        raise GenGeoError(f"the format must be one of {', '.join(FORMATS)}, found {form!r}")
    check_split_name(split)
    out = Path(out)
    views = {"queries": ground_view, "gallery": aerial_view}
    change = {table: _change(views[table], table) for table in TABLES}
    state = {"content": _content(data), "format": form, "rows_in_file": rows_in_file, "views": views}
    _claim(out, split, state)
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


def _claim(out: Path, split: str, state: dict[str, Any]) -> None:
    """Write down what the split is made from; refuse a folder that holds the split of other data."""
    path = out / STATE.format(split)
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != state:
            raise GenGeoError(
                f"{out} holds the split {split!r} of other data or another format: choose another folder, or remove "
                f"its files and {path.name}"
            )
        return
    if any(out.glob(f"*/{split}-*-of-*")):
        raise GenGeoError(f"{out} holds files of a split {split!r} that did not come from this command")
    write_json(path, state)


def _content(data: CrossViewDataset) -> str:
    """Hash of all columns but the pixels (of which only paths count)."""
    digest = hashlib.sha256(data.name.encode())
    for table, column in ((data.queries, "ground"), (data.gallery, "aerial")):
        for name in table.column_names:
            if name != column:
                digest.update(json.dumps(table[name][:]).encode())
        cells = table.cast_column(column, datasets.Image(decode=False)).with_format("arrow")
        for start in range(0, len(table), 1000):
            for cell in cells[start : start + 1000][column].to_pylist():
                inside = cell and cell["bytes"] is not None
                digest.update(hashlib.sha256(cell["bytes"]).digest() if inside else repr(cell).encode())
    return digest.hexdigest()


def _change(view: str | None, table: str) -> Callable[[bytes], bytes] | None:
    """What happens to each image on its way."""
    if view is None:
        return None
    from gengeo_hf.data.view_files import view_transform

    return view_transform(view, "ground" if table == "queries" else "aerial")


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """The columns of a panorama that has been laid flat."""
    return {**facts, **{name: None for name in ("heading", "fov", *CAMERA_FEATURES) if name in facts}}


def _write_tar(part: datasets.Dataset, table: str, path: Path, change: Callable[[bytes], bytes] | None = None) -> None:
    """One webdataset shard; times and owners are left out, so that equal data give equal bytes."""
    column, key = ("ground", "query_id") if table == "queries" else ("aerial", "tile_id")
    images = ImageColumn(part, column)
    facts = part.remove_columns([column])
    with tarfile.open(path, "w") as tar:
        for row in range(len(part)):
            content = image_bytes(images.sources([row])[0], change)
            fact = facts[row] if change is None else _flat(facts[row])
            # A dot would end the key, a slash would be a folder: all else of an id is kept.
            name = f"{row:06d}_" + re.sub(r"[^\w,+-]", "_", fact[key])
            _add(tar, f"{name}.{column}.{_suffix(content)}", content)
            _add(tar, f"{name}.json", json.dumps(fact).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _suffix(content: bytes) -> str:
    """What kind of image file the bytes are, by their first ones."""
    return next((suffix for head, suffix in SIGNATURES.items() if content.startswith(head)), "img")
