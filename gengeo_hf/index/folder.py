"""The index as files: descriptors, tile table, thumbnails, and a manifest with the SHA-256 of each.

Before: build.py and index.py, which have rows to store. After: a folder that is whole or not there.

    descriptors.npy      float16 (tiles, dim), memory-mapped
    tiles.parquet        one row for each descriptor, in the same order (`TILE_SCHEMA`)
    thumbnails.parquet   small JPEGs for maps, same order; may be absent
    left_out.parquet     tiles that could not be read, and why; may be absent
    search.faiss         a compressed search structure of large indexes; can be made again from descriptors.npy
    manifest.json        format, model, counts, checksums

numpy is told not to unpickle, and the FAISS file is only read after its checksum: loading runs no foreign code.
"""

import contextlib
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import OUTPUT_RECORD, atomic_folder, put_back, sha256_of, write_json
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.tiles import TILE_SCHEMA

FORMAT = "gengeo-index"
FORMAT_VERSION = 1
DESCRIPTORS, TILES, THUMBNAILS, LEFT_OUT, SEARCH, MANIFEST = (
    "descriptors.npy", "tiles.parquet", "thumbnails.parquet", "left_out.parquet", "search.faiss", "manifest.json"
)  # fmt: skip
CARD = "README.md"  # what the Hub adds when an index is published
LEFT_OUT_SCHEMA = pa.schema([field.with_nullable(True) for field in TILE_SCHEMA] + [("reason", pa.string())])
THUMBNAIL_SCHEMA = pa.schema([pa.field("tile_id", pa.string()), pa.field("jpeg", pa.binary())])
_NUMBER = (float, int)
_FIELDS: dict[str, tuple[type, ...]] = {  # of a manifest, that some reader relies on
    "model": (dict,), "dim": (int,), "count": (int,), "files": (dict,), "model.fingerprint": (str,),
    "model.name": (str,), "model.truncate_dim": (int,), "created": (str,), "preprocessing": (dict,),
    "search": (dict,), "search.kind": (str,), "search.samples": (int,), "search.recall_at_1": _NUMBER,
    "search.recall_at_10": _NUMBER, "history": (list,), "build": (dict,), "build.seconds": _NUMBER,
    "build.tiles_per_second": _NUMBER, "build.no_data": (int,), "build.broken_count": (int,),
}  # fmt: skip
_MEASURED = {"samples", "recall_at_1", "recall_at_10"}  # of a search that is not exact: all of them or none
_OPTIONAL = {
    "model.name",
    "model.truncate_dim",
    "created",
    "preprocessing",
    "search",
    "history",
    "build",
    *(f"search.{name}" for name in _MEASURED),
}
MOST_DIMENSIONS = 1_000_000  # of a descriptor; DINOv2-SALAD has 8,448
THUMBNAILS_IN_GROUP = 64  # a map of five places must not decode a million thumbnails


def write_index(
    path: Path,
    tiles: pa.Table,
    descriptors: Iterable[np.ndarray],
    about: dict[str, Any],
    thumbnails: Iterable[list[bytes]] | None = None,
    left_out: pa.Table | None = None,
) -> None:
    """Write a whole index aside and put it in the place of `path`.

    Args:
        path: folder of the index; an old one is replaced.
        tiles: `TILE_SCHEMA`, one row for each descriptor.
        descriptors: blocks of unit vectors (rows, dim), any float type, together as many rows as `tiles`.
        about: what else the manifest tells; `dim` and `model` are needed.
        thumbnails: blocks of JPEGs, in the same order; None stores none.
        left_out: `LEFT_OUT_SCHEMA`, tiles that could not be read; None or an empty one stores none.

    Raises:
        GenGeoError: the number of rows differs, or the disk is full.
    """
    try:
        with atomic_folder(path) as folder:
            _write_descriptors(folder / DESCRIPTORS, descriptors, tiles.num_rows, int(about["dim"]))
            pa.parquet.write_table(tiles.cast(TILE_SCHEMA), folder / TILES, compression="zstd")
            if thumbnails is not None:
                _write_thumbnails(folder / THUMBNAILS, tiles["tile_id"].to_pylist(), thumbnails)
            if left_out is not None and left_out.num_rows:
                pa.parquet.write_table(left_out.cast(LEFT_OUT_SCHEMA), folder / LEFT_OUT, compression="zstd")
            search = _write_search(folder, tiles.num_rows)
            write_json(folder / MANIFEST, _manifest(folder, tiles.num_rows, about | {"search": search}))
    except OSError as error:
        raise GenGeoError(f"the index could not be written to {path}: {error.strerror or error}") from error


def check_place(path: Path) -> None:
    """Refuse a place that an index must not take, because a new index takes a folder whole.

    Raises:
        GenGeoError: a file, or a folder that holds anything but an index.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).exists()):
        raise GenGeoError(f"{path} exists and holds something else: give the name of a new folder")
    ours = {DESCRIPTORS, TILES, THUMBNAILS, LEFT_OUT, SEARCH, MANIFEST, CARD, OUTPUT_RECORD, ".gitattributes"}
    if path.is_dir() and (foreign := sorted({child.name for child in path.iterdir()} - ours)):
        raise GenGeoError(
            f"{path} is not an index alone: it also holds {foreign[0]}; nothing of it was touched, move that away or "
            "choose another folder"
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest alone.

    Raises:
        GenGeoError: no index there, a broken manifest, another format or a newer version.
    """
    for _ in range(20):  # where a file system cannot exchange folders there are some milliseconds without one
        if (path / MANIFEST).is_file():
            break
        time.sleep(0.005)
        put_back(path)
    else:
        raise GenGeoError(
            f"there is no index at {path} (no {MANIFEST}); make one with: gengeo index IMAGERY --out {path}"
        )
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found = manifest["format"], manifest["format_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GenGeoError(f"{path / MANIFEST} is broken ({error!r}); make the index again") from error
    if found[0] != FORMAT:
        raise GenGeoError(f"{path} is no {FORMAT} but {found[0]!r}")
    if found[1] != FORMAT_VERSION:
        raise GenGeoError(
            f"the index {path} has format version {found[1]}, this package reads {FORMAT_VERSION}; "
            f"it was written by {manifest.get('created_by', 'unknown')}: index the imagery again or use that version"
        )
    if (wrong := _wrong_field(manifest)) is not None:
        raise GenGeoError(f"{path / MANIFEST} is broken ({wrong}); make the index again")
    return manifest


def _wrong_field(manifest: dict[str, Any]) -> str | None:
    """What of a manifest is missing or of another type than readers rely on; None where all is well."""
    for name, kinds in _FIELDS.items():
        group, _, key = name.partition(".")
        found = manifest.get(group)
        if group not in manifest and group in _OPTIONAL:
            continue
        if key:
            found = found.get(key) if isinstance(found, dict) else None
        if type(found) not in kinds and not (key and found is None and name in _OPTIONAL):  # True is no number
            return f"{name} is {found!r:.60}, expected {kinds[0].__name__}"
    if 0 < len(_MEASURED & manifest.get("search", {}).keys()) < len(_MEASURED):
        return f"search must tell {', '.join(sorted(_MEASURED))} together"
    if not (0 < manifest["dim"] <= MOST_DIMENSIONS and manifest["count"] >= 0):
        return f"{manifest['count']} tiles of {manifest['dim']} dimensions"
    for name, file in manifest["files"].items():
        if not (isinstance(file, dict) and type(file.get("bytes")) is int and isinstance(file.get("sha256"), str)):
            return f"files.{name:.60} needs bytes and sha256"
    if missing := {DESCRIPTORS, TILES} - manifest["files"].keys():
        return f"files lacks {min(missing)}"
    history = manifest.get("history", [])
    if not all(isinstance(entry, dict) and {"what", "when"} <= entry.keys() for entry in history):
        return "history must tell what happened and when"
    return None


def check_files(path: Path, manifest: dict[str, Any], checksums: bool = True) -> None:
    """Compare every file with the manifest.

    Args:
        checksums: False compares sizes only, in no time at any size.

    Raises:
        GenGeoError: a file is missing, has another size, or other bytes.
    """
    for name, expected in manifest["files"].items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise GenGeoError(f"the index {path} lacks {name}; copy it again or make it again")
        if (size := file.stat().st_size) != expected["bytes"]:
            raise GenGeoError(
                f"{file} has {size} bytes instead of {expected['bytes']}: truncated; copy or make it again"
            )
        if checksums and sha256_of(file) != expected["sha256"]:
            raise GenGeoError(f"{file} is damaged (its SHA-256 is not the manifest's); copy it again or make it again")


def open_descriptors(path: Path, manifest: dict[str, Any]) -> np.ndarray:
    """Map the descriptors into memory, read-only: float16 (tiles, dim).

    Raises:
        GenGeoError: the file cannot be read, or its type or shape is not the manifest's.
    """
    shape = (int(manifest["count"]), int(manifest["dim"]))
    if shape[0] == 0:
        return np.empty(shape, np.float16)
    try:
        found = np.load(path / DESCRIPTORS, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it is an archive")
    except (ValueError, OSError, EOFError) as error:
        raise GenGeoError(f"{path / DESCRIPTORS} cannot be read: {error}") from error
    if found.shape != shape or found.dtype != np.float16:
        raise GenGeoError(f"{path / DESCRIPTORS} holds {found.dtype} {found.shape}, the manifest says float16 {shape}")
    return found


def open_tiles(path: Path, manifest: dict[str, Any]) -> pa.Table:
    """Read the tile table and check its columns and length.

    Raises:
        GenGeoError: columns or length are not as the manifest says.
    """
    with _readable(path / TILES):
        table = pa.parquet.read_table(path / TILES)
        if table.schema.names != TILE_SCHEMA.names or table.num_rows != manifest["count"]:
            raise GenGeoError(f"{path / TILES} does not fit its manifest; make the index again")
        return table.cast(TILE_SCHEMA)


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Whatever pyarrow says of a damaged file, in one line."""
    try:
        yield
    except GenGeoError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise GenGeoError(
            f"{file} cannot be read: {first_line(error)}; copy the index again or make it again"
        ) from error


def read_left_out(path: Path) -> pa.Table:
    """Tiles that could not be read, and why: `LEFT_OUT_SCHEMA`."""
    if not (path / LEFT_OUT).is_file():
        return LEFT_OUT_SCHEMA.empty_table()
    with _readable(path / LEFT_OUT):
        found = pa.parquet.read_table(path / LEFT_OUT)
        known = found.column_names
        columns = [found[name] if name in known else pa.nulls(len(found)) for name in LEFT_OUT_SCHEMA.names]
        return pa.table(columns, names=LEFT_OUT_SCHEMA.names).cast(LEFT_OUT_SCHEMA)  # older indexes tell no position


def read_thumbnails(path: Path, rows: Iterable[int], names: Mapping[int, str] | None = None) -> dict[int, bytes]:
    """JPEGs of some rows; rows without one are left out.

    Args:
        path: the index's folder.
        rows: of the tile table.
        names: tile ids of these rows: a row that holds another tile now, because the folder was replaced since its
            table was read, is left out; None does not look.
    """
    if not (path / THUMBNAILS).is_file():
        return {}
    found: dict[int, bytes] = {}
    with _readable(path / THUMBNAILS), pa.parquet.ParquetFile(path / THUMBNAILS) as file:
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(row // THUMBNAILS_IN_GROUP, []).append(row)
        for group, members in groups.items():
            if group >= file.num_row_groups:
                continue
            table = file.read_row_group(group, columns=["tile_id", "jpeg"])
            for row in members:
                place = row % THUMBNAILS_IN_GROUP
                if place >= table.num_rows or (names and table["tile_id"][place].as_py() != names[row]):
                    continue
                if content := table["jpeg"][place].as_py():
                    found[row] = content
    return found


def thumbnail(image: Image.Image, side: int) -> bytes:
    """A JPEG of at most `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _write_descriptors(path: Path, blocks: Iterable[np.ndarray], rows: int, dim: int) -> None:
    """Write blocks of vectors as one .npy file of float16, without holding them all."""
    written = 0
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, header | {"shape": (rows, dim)})
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=np.float16).tobytes())
            written += len(block)
    if written != rows:
        raise GenGeoError(f"{written} descriptors for {rows} tiles: one for each tile is expected")


def _write_thumbnails(path: Path, ids: list[str], blocks: Iterable[list[bytes]]) -> None:
    """Write JPEGs in groups that can be read one by one."""
    pending: list[bytes] = []
    start = 0
    with pa.parquet.ParquetWriter(path, THUMBNAIL_SCHEMA, compression="none") as writer:  # JPEG is compressed already

        def flush(size: int) -> None:
            nonlocal start, pending
            part = [ids[start : start + size], pending[:size]]
            writer.write_table(pa.table(part, schema=THUMBNAIL_SCHEMA), row_group_size=THUMBNAILS_IN_GROUP)
            start, pending = start + size, pending[size:]

        for block in blocks:
            pending.extend(block)
            if full := len(pending) // THUMBNAILS_IN_GROUP * THUMBNAILS_IN_GROUP:
                flush(full)
        if pending:
            flush(len(pending))


def _write_search(folder: Path, rows: int) -> dict[str, Any]:
    """Choose the kind of search, and write its structure where it needs one."""
    from gengeo_hf.index.search import choose_kind, measure_and_write

    kind, reason = choose_kind(rows)
    if kind != "rabitq":
        return {"kind": kind, "reason": reason}
    descriptors = np.load(folder / DESCRIPTORS, mmap_mode="r", allow_pickle=False)
    return {"kind": kind, "reason": reason} | measure_and_write(descriptors, folder / SEARCH)


def _manifest(folder: Path, rows: int, about: dict[str, Any]) -> dict[str, Any]:
    """Everything that a reader checks before it trusts the files."""
    from gengeo_hf import __version__

    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST
    }
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "created_by": f"gengeo_hf {__version__}"}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return head | {"created": now, "count": rows, "dtype": "float16"} | about | {"files": files}
