"""Unfinished work of a build: one Parquet file (shard) for each 256 tiles.

    city.gengeo.partial/<key>/plan.json               key of the build
    city.gengeo.partial/<key>/shard-000000256.parquet tiles 256 to 511, written atomically

The key depends on the model, the tiles and their size. A second run of the same command finds its shards; another
command with the same output has another key, and does not change them. Processes that run the same command divide the
work: each encodes shards that no other process has locked.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from gengeo_hf.common.files import atomic_file, write_json
from gengeo_hf.common.locks import exclusive
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.imagery.tiles import TileSource

SHARD = 256
PARTLY_EMPTY = "partly empty"  # state of an encoded tile with some pixels without data
PLAN, PLAN_LOCK, ASSEMBLY_LOCK = "plan.json", "plan.lock", ".assembly.lock"
SHARD_SCHEMA = pa.schema(
    [("row", pa.int64()), ("state", pa.string()), ("descriptor", pa.binary()), ("jpeg", pa.binary())]
)


@dataclass(frozen=True)
class Work:
    """Work directory of a build.

    Args:
        folder: Directory of plan, shards and locks.
        key: Key of the build, see `work_key`.
        tiles: Number of rows of the source.
    """

    folder: Path
    key: str
    tiles: int

    @classmethod
    def of(cls, out: Path, encoder: EncoderProtocol, source: TileSource, thumbnail_pixels: int) -> "Work":
        """Create the work of a build; nothing is written.

        Args:
            out: Directory of the index.
            encoder: Encoder of the tiles.
            source: Imagery with the tiles.
            thumbnail_pixels: Side of thumbnails in pixels.
        """
        key = work_key(encoder.fingerprint, source, thumbnail_pixels)
        return cls(out.with_name(f"{out.name}.partial") / key[:16], key, source.table.num_rows)

    def begin(self) -> None:
        """Create the directory and its plan."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / PLAN_LOCK):
            if not self.is_active():
                write_json(self.folder / PLAN, {"key": self.key})

    def is_active(self) -> bool:
        """Whether the shards are not assembled yet; another process of the same build may assemble them."""
        return (self.folder / PLAN).is_file()

    def others(self) -> list[Path]:
        """Directories with finished shards of other commands with the same output."""
        kept = (path for path in self.folder.parent.glob("*/") if path != self.folder)
        return sorted(path for path in kept if any(path.glob("shard-*.parquet")))

    def units(self, part: tuple[int, int] = (0, 1)) -> list[range]:
        """Rows of each shard of a part.

        Args:
            part: Zero-based index of the part, and number of parts; shards are divided evenly.
        """
        starts = range(0, self.tiles, SHARD)
        number, count = part
        mine = starts[len(starts) * number // count : len(starts) * (number + 1) // count]
        return [range(start, min(start + SHARD, self.tiles)) for start in mine]

    def file(self, unit: range) -> Path:
        """Path of a shard."""
        return self.folder / f"shard-{unit.start:09d}.parquet"

    def write(self, unit: range, table: pa.Table) -> None:
        """Write a shard, unless another process has assembled the work during encoding."""
        with exclusive(self.folder / PLAN_LOCK):
            if self.is_active():
                with atomic_file(self.file(unit)) as temporary:
                    stated = table.replace_schema_metadata({"checksum": _checksum(table), "key": self.key})
                    pa.parquet.write_table(stated, temporary)

    def is_complete(self, unit: range) -> bool:
        """Whether a shard exists and is not damaged; a damaged shard is encoded again."""
        try:
            table = pa.parquet.read_table(self.file(unit))
            stated = table.schema.metadata or {}
            return (stated.get(b"checksum"), stated.get(b"key")) == (_checksum(table).encode(), self.key.encode())
        except Exception:  # a damaged file may raise any exception
            return False

    @contextlib.contextmanager
    def assembling(self) -> Iterator[bool]:
        """Lock the assembly of the shards; yields False if another process has assembled them."""
        try:
            with exclusive(self.folder.parent / ASSEMBLY_LOCK):
                try:
                    yield self.is_active()
                finally:
                    if not self.is_active():
                        shutil.rmtree(self.folder, ignore_errors=True)  # lock files of other processes
        finally:
            with contextlib.suppress(OSError):  # keep work of other commands
                self.folder.parent.rmdir()

    def end(self) -> None:
        """Remove the directory, the plan first: without it, other processes know that the work is assembled."""
        (self.folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)  # another process may be creating lock files


def work_key(fingerprint: str, source: TileSource, thumbnail_pixels: int) -> str:
    """SHA-256 of everything on which the shards of a build depend.

    Args:
        fingerprint: Fingerprint of the model.
        source: Imagery with the tiles.
        thumbnail_pixels: Side of thumbnails in pixels.
    """
    rendering = getattr(source, "rendering", "")
    digest = hashlib.sha256(f"{fingerprint} {thumbnail_pixels} {SHARD} {rendering}".encode())
    for batch in source.table.to_batches(max_chunksize=65_536):
        digest.update(repr(batch.to_pydict()).encode())
    return digest.hexdigest()


def _checksum(table: pa.Table) -> str:
    """SHA-256 of the values of a shard."""
    digest = hashlib.sha256()
    for column in table.columns:
        for value in column.to_pylist():
            content = value if isinstance(value, bytes) else repr(value).encode()
            digest.update(f"{len(content)} ".encode() + content)
    return digest.hexdigest()


def read_states(files: list[Path]) -> tuple[np.ndarray, dict[int, str], int, int]:
    """Read the states of tiles.

    Args:
        files: Shards in the order of their rows.

    Returns:
        Encoded rows; reasons of rows that could not be used, by row; number of rows without any data; number of encoded
        rows with some pixels without data.
    """
    rows, no_data, partly_empty = [np.empty(0, np.int64)], 0, 0
    broken: dict[int, str] = {}
    for file in files:
        part = pa.parquet.read_table(file, columns=["row", "state"])
        numbers, states = part["row"].to_numpy(), np.array(part["state"].to_pylist(), dtype=object)
        encoded = (states == "") | (states == PARTLY_EMPTY)
        rows.append(numbers[encoded])
        no_data += int((states == "no data").sum())
        partly_empty += int((states == PARTLY_EMPTY).sum())
        wrong = ~encoded & (states != "no data")
        broken |= dict(zip(numbers[wrong].tolist(), states[wrong].tolist(), strict=True))
    return np.concatenate(rows), broken, no_data, partly_empty


def read_descriptors(files: list[Path], dim: int) -> Iterator[np.ndarray]:
    """Yield the descriptors of each shard, float16 (rows, dim)."""
    for file in files:
        vectors = pa.parquet.read_table(file, columns=["descriptor"])["descriptor"].drop_null().to_pylist()
        yield np.frombuffer(b"".join(vectors), np.float16).reshape(-1, dim)


def read_jpegs(files: list[Path]) -> Iterator[list[Any]]:
    """Yield the thumbnails of each shard, for the rows of `read_descriptors`."""
    for file in files:
        table = pa.parquet.read_table(file, columns=["descriptor", "jpeg"])
        yield table.filter(table["descriptor"].is_valid())["jpeg"].to_pylist()
