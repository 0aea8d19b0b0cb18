"""Writes and opens segments of an index. A segment is written once and memory-mapped; it never changes."""

import contextlib
import functools
import io
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import match_modes, sha256_of, sync
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.tiles import TILE_SCHEMA
from gengeo_hf.index.contents import contents_of
from gengeo_hf.index.manifest import (
    BLOCKS,
    DESCRIPTORS,
    REMEDY,
    THUMBNAILS,
    TILES,
    FileRecord,
    Scan,
    Segment,
    Tombstones,
)
from gengeo_hf.index.scan import KIND, build_scan, measure_depth, read_scan
from gengeo_hf.index.search import Part
from gengeo_hf.index.spatial import BLOCK_ROWS, block_balls, runs_near, spatial_order, within

THUMBNAIL = "thumbnail"  # row of the picture in thumbnails.parquet, which has the order of the imagery
SEGMENT_SCHEMA = TILE_SCHEMA.append(pa.field(THUMBNAIL, pa.int64()))
LEFT_OUT_SCHEMA = pa.schema([field.with_nullable(True) for field in TILE_SCHEMA] + [("reason", pa.string())])
THUMBNAIL_SCHEMA = pa.schema([pa.field("tile_id", pa.string()), pa.field("jpeg", pa.binary())])
THUMBNAILS_IN_GROUP = 64  # rows of a row group: a map of five places must not decode a million thumbnails
TABLE_ROWS = 65_536  # rows of a record batch


@dataclass
class NewRows:
    """Rows of a new segment, in any order; the segment is written in spatial order.

    Args:
        tiles: Table of tiles, `TILE_SCHEMA`.
        descriptors: Blocks of unit vectors (rows, dim), with as many rows in total as `tiles`.
        thumbnails: Blocks of JPEGs of the same rows, b"" if there is none; None stores none.
    """

    tiles: pa.Table
    descriptors: Iterable[np.ndarray]
    thumbnails: Iterable[list[bytes]] | None = None


def write_segment(index: Path, rows: NewRows, dim: int) -> Segment:
    """Write a segment without a compressed structure to the directory of an index; the manifest is not changed.

    Args:
        index: Directory of the index.
        rows: Rows to write.
        dim: Number of values of a descriptor.

    Raises:
        GenGeoError: The number of descriptors is not that of the tiles.
        OSError: The disk is full or cannot be written.
    """
    folder = index / f"segment-{secrets.token_hex(6)}"
    folder.mkdir()
    tiles = rows.tiles.cast(TILE_SCHEMA).combine_chunks()
    order = spatial_order(tiles["lat"].to_numpy(), tiles["lon"].to_numpy())
    _write_descriptors(folder / DESCRIPTORS, rows.descriptors, order, dim)
    pictures = np.full(len(order), -1, np.int64)
    if rows.thumbnails is not None:
        pictures = _write_thumbnails(folder / THUMBNAILS, tiles["tile_id"], rows.thumbnails)
    column = pa.array(pictures, mask=pictures < 0)
    tiles = tiles.append_column(SEGMENT_SCHEMA.field(THUMBNAIL), column).take(pa.array(order))
    with pa.OSFile(str(folder / TILES), "wb") as file, pa.ipc.new_file(file, SEGMENT_SCHEMA) as writer:
        writer.write_table(tiles, max_chunksize=TABLE_ROWS)
    np.save(folder / BLOCKS, block_balls(tiles["lat"].to_numpy(), tiles["lon"].to_numpy()), allow_pickle=False)
    contents = contents_of(tiles)
    match_modes(folder, index)
    files = {}
    for file in sorted(folder.iterdir()):
        sync(file)
        files[file.name] = FileRecord(file.stat().st_size, sha256_of(file))
    sync(folder)
    return Segment(folder.name, len(order), files, contents)


def _write_descriptors(path: Path, blocks: Iterable[np.ndarray], order: np.ndarray, dim: int) -> None:
    """Write blocks of vectors in spatial order, without holding all of them in memory."""
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, header | {"shape": (len(order), dim)})
        file.flush()
        begin = file.tell()
        size = 2 * dim * len(order)
        # Disk space is allocated first: a full disk raises an error here, but crashes writes to mapped memory.
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), 0, begin + size)
        else:
            for start in range(0, size, 1 << 24):
                file.write(bytes(min(1 << 24, size - start)))
    written = 0
    if size:
        out = np.memmap(path, np.float16, "r+", begin, (len(order), dim))
        for block in blocks:
            if written + len(block) <= len(order):
                out[position[written : written + len(block)]] = block
            written += len(block)
        out.flush()
        del out
    if written != len(order):
        raise GenGeoError(f"found {written} descriptors for {len(order)} tiles; expected one for each tile")


def _write_thumbnails(path: Path, ids: pa.ChunkedArray, blocks: Iterable[list[bytes]]) -> np.ndarray:
    """Write JPEGs in row groups; returns the row of each tile's picture, -1 for none."""
    pictures = np.full(len(ids), -1, np.int64)
    pending: list[tuple[str, bytes]] = []
    read = kept = 0
    with pa.parquet.ParquetWriter(path, THUMBNAIL_SCHEMA, compression="none") as writer:  # JPEG is compressed already

        def flush(size: int) -> None:
            columns = [[row[side] for row in pending[:size]] for side in (0, 1)]
            writer.write_table(pa.table(columns, schema=THUMBNAIL_SCHEMA), row_group_size=THUMBNAILS_IN_GROUP)
            del pending[:size]

        for block in blocks:
            names = ids.slice(read, len(block)).to_pylist()
            for number, (name, jpeg) in enumerate(zip(names, block, strict=True)):
                if jpeg:
                    pictures[read + number] = kept
                    pending.append((name, jpeg))
                    kept += 1
            read += len(block)
            if complete := len(pending) // THUMBNAILS_IN_GROUP * THUMBNAILS_IN_GROUP:
                flush(complete)
        if pending:
            flush(len(pending))
    return pictures


def add_scan(index: Path, record: Segment, like: Path | None) -> Segment:
    """Build and measure the compressed structure of a segment.

    Args:
        index: Directory of the index.
        record: Record of the segment.
        like: File of a structure whose quantiser is used; None learns a new quantiser.

    Returns:
        Record of the segment with the structure.

    Raises:
        OSError: The disk is full or cannot be written.
    """
    import faiss

    folder = index / record.name
    descriptors = np.load(folder / DESCRIPTORS, mmap_mode="r", allow_pickle=False)
    made = build_scan(descriptors, read_scan(like, descriptors.shape[1]) if like else None)
    files = dict(record.files)
    names = [f"scan-{number}.faiss" for number in range(len(made))]
    for name, structure in zip(names, made, strict=True):
        file = folder / name
        file.write_bytes(faiss.serialize_index(structure).data)  # the writer of FAISS hides the reason of an error
        match_modes(file, index)
        sync(file)
        files[name] = FileRecord(file.stat().st_size, sha256_of(file))
    sync(folder)
    return replace(record, files=files, scan=Scan(KIND, names, **measure_depth(descriptors, made)))


def write_tombstones(index: Path, segment: Segment, dead: np.ndarray, version: int) -> Tombstones:
    """Write a file of removed rows; earlier files of the segment stay, because readers may use them.

    Args:
        index: Directory of the index.
        segment: Record of the segment.
        dead: bool (tiles,), True for removed rows.
        version: Version of the manifest that will list the file.
    """
    file = index / segment.name / f"deleted-{version:06d}.npy"
    np.save(file, np.packbits(dead), allow_pickle=False)
    match_modes(file, index)
    sync(file)
    sync(file.parent)
    return Tombstones(file.name, int(dead.sum()), file.stat().st_size, sha256_of(file))


class SegmentReader:
    """An open segment. It can still be read after a later version has removed its files.

    Args:
        index: Directory of the index.
        record: Record of the segment in the manifest.
        dim: Number of values of a descriptor.
        searchable: Also read the compressed structure; not needed for edits.

    Raises:
        GenGeoError: A file cannot be read or does not match the manifest.
    """

    def __init__(self, index: Path, record: Segment, dim: int, searchable: bool = True) -> None:
        self.record, self.dim = record, dim
        folder = index / record.name
        self.descriptors = _open_array(folder / DESCRIPTORS, (record.tiles, dim), np.float16)
        self.balls = _open_array(folder / BLOCKS, (-(-record.tiles // BLOCK_ROWS), 4), np.float64)
        self.tiles = _open_table(folder / TILES, record.tiles)
        self.dead: np.ndarray | None = None
        if record.tombstones:
            bits = _open_array(folder / record.tombstones.file, (-(-record.tiles // 8),), np.uint8)
            self.dead = np.unpackbits(bits, count=record.tiles).astype(bool)
            if int(self.dead.sum()) != record.deleted:
                raise GenGeoError(f"{folder / record.tombstones.file} does not fit the manifest; {REMEDY}")
        # Mapped here, so that pictures can be read after a later version has removed the file.
        self._pictures = pa.memory_map(str(folder / THUMBNAILS)) if THUMBNAILS in record.files else None
        self._scan = [read_scan(folder / name, dim) for name in record.scan.files] if record.scan and searchable else []
        if self._scan and sum(index.ntotal for index in self._scan) != record.tiles:
            raise GenGeoError(f"the scan in {folder} does not hold the {record.tiles} tiles of its segment; {REMEDY}")

    def part(self) -> Part:
        """Data of the segment for searches."""
        scan = self.record.scan
        return Part(self.descriptors, self.dead, self._scan, scan.depth) if scan else Part(self.descriptors, self.dead)

    def live_rows(self) -> np.ndarray:
        """Rows that are not removed, int64."""
        return np.arange(self.record.tiles) if self.dead is None else np.flatnonzero(~self.dead)

    def live_tiles(self) -> pa.Table:
        """Table of tiles that are not removed (`TILE_SCHEMA`)."""
        table = self.tiles.select(TILE_SCHEMA.names)
        return table if self.dead is None else table.filter(pa.array(~self.dead))

    def column(self, name: str) -> np.ndarray:
        """Values of a numeric column for all rows."""
        return self.tiles[name].to_numpy()

    def runs_in(self, area: Area) -> list[tuple[int, int, np.ndarray]]:
        """Runs of rows (first, end), each with a mask of the tiles whose centre lies in an area."""
        found, near = [], area.around()
        for first, last in runs_near(self.balls, self.record.tiles, near):
            lat, lon = (self.tiles[name].slice(first, last - first).to_numpy() for name in ("lat", "lon"))
            inside = within(lat, lon, near) if area.near is not None else area.touches(lat, lon, 0.0)
            found.append((first, last, inside))
        return found

    def thumbnails(self, rows: Iterable[int]) -> dict[int, bytes]:
        """JPEGs of some rows, by row; rows without a picture are left out."""
        if self._pictures is None:
            return {}
        with _readable(f"{THUMBNAILS} of {self.record.name}"):
            wanted = {row: self.tiles[THUMBNAIL][int(row)].as_py() for row in rows}
            groups: dict[int, list[int]] = {}
            for row, picture in wanted.items():
                if picture is not None:
                    groups.setdefault(picture // THUMBNAILS_IN_GROUP, []).append(row)
            found: dict[int, bytes] = {}
            file = self._picture_file
            for group, members in groups.items():
                column = file.read_row_group(group, columns=["jpeg"])["jpeg"]
                found |= {row: column[wanted[row] % THUMBNAILS_IN_GROUP].as_py() for row in members}
        return found

    @functools.cached_property
    def _picture_file(self) -> Any:
        return pa.parquet.ParquetFile(self._pictures)


def _open_array(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Map an array into memory, read-only.

    Raises:
        GenGeoError: The file cannot be read, or its type or shape does not match the manifest.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it is an archive")
    except Exception as error:  # a damaged header may raise any exception
        raise GenGeoError(f"{path} cannot be read: {first_line(error)}; {REMEDY}") from error
    if found.shape != shape or found.dtype != dtype:
        raise GenGeoError(f"{path} holds {found.dtype} {found.shape}, expected {np.dtype(dtype)} {shape}; {REMEDY}")
    return found


def _open_table(path: Path, tiles: int) -> pa.Table:
    """Map a table of tiles into memory and validate its contents, because damaged offsets would be unsafe.

    Raises:
        GenGeoError: The file cannot be read, or its columns or length do not match the manifest.
    """
    with _readable(path):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
        if table.schema != SEGMENT_SCHEMA or table.num_rows != tiles:
            raise GenGeoError(f"{path} does not fit its manifest; {REMEDY}")
        return table


@contextlib.contextmanager
def _readable(file: Path | str) -> Iterator[None]:
    """Convert any error of pyarrow for a damaged file to a one-line `GenGeoError`."""
    try:
        yield
    except GenGeoError:
        raise
    except Exception as error:  # a damaged file may raise any exception
        raise GenGeoError(f"{file} cannot be read: {first_line(error)}; {REMEDY}") from error


def check_files(index: Path, records: Mapping[str, FileRecord], checksums: bool = True) -> None:
    """Compare files with their records.

    Args:
        index: Directory of the index.
        records: Records by path, see `Manifest.checked_files`.
        checksums: Compare SHA-256 as well; False compares only sizes, which is fast.

    Raises:
        GenGeoError: A file is missing, or has another size or content.
    """
    for name, expected in records.items():
        file = index / name
        if not file.is_file():
            raise GenGeoError(f"the index {index} lacks {name}; {REMEDY}")
        if (size := file.stat().st_size) != expected.bytes:
            raise GenGeoError(f"{file} has {size} bytes instead of {expected.bytes}: truncated; {REMEDY}")
        if checksums and sha256_of(file) != expected.sha256:
            raise GenGeoError(f"{file} is damaged (its SHA-256 is not the manifest's); {REMEDY}")


def read_left_out(file: Path) -> pa.Table:
    """Read the table of tiles that could not be read, `LEFT_OUT_SCHEMA`."""
    with _readable(file):
        found = pa.parquet.read_table(file)
        if found.schema.names != LEFT_OUT_SCHEMA.names:
            raise GenGeoError(f"{file} has other columns than expected; {REMEDY}")
        return found.cast(LEFT_OUT_SCHEMA)


def thumbnail(image: Image.Image, side: int) -> bytes:
    """Encode an image as a JPEG of at most `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
