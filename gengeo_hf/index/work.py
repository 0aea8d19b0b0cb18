"""The unfinished work of a build: one Parquet file for each 256 tiles, kept until all are there.

    city.gengeo.partial/<key>/plan.json               what the work belongs to
    city.gengeo.partial/<key>/shard-000000256.parquet tiles 256 to 511, written whole or not at all

The key stands for the model, the tiles and how they are cut. A second run of the same command finds its shards;
another command with the same output has another key, and what it finds stays. Processes that run the same command share
the work: each takes shards that nobody holds.
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
PARTLY_EMPTY = "partly empty"  # state of a tile that was encoded although some of its pixels hold no data
PLAN, PLAN_LOCK, ASSEMBLY_LOCK = "plan.json", "plan.lock", ".assembly.lock"
SHARD_SCHEMA = pa.schema(
    [("row", pa.int64()), ("state", pa.string()), ("descriptor", pa.binary()), ("jpeg", pa.binary())]
)


@dataclass(frozen=True)
class Work:
    """The work folder of a build, and what it belongs to.

    Args:
        folder: Holds the plan, shards and locks.
        key: Hash of the model, the tiles and how they are cut.
        tiles: Rows of the source.
    """

    folder: Path
    key: str
    tiles: int

    @classmethod
    def of(cls, out: Path, encoder: EncoderProtocol, source: TileSource, thumbnail_pixels: int) -> "Work":
        """The work of a build; nothing is written.

        Args:
            out: Directory of the index.
            encoder: What encodes.
            source: What is encoded.
            thumbnail_pixels: Side of the pictures for maps.
        """
        key = work_key(encoder.fingerprint, source, thumbnail_pixels)
        return cls(out.with_name(f"{out.name}.partial") / key[:16], key, source.table.num_rows)

    def begin(self) -> None:
        """Make the folder and its plan."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / PLAN_LOCK):
            if not self.goes_on():
                write_json(self.folder / PLAN, {"key": self.key})

    def goes_on(self) -> bool:
        """False once another process that shares the work has put its shards together."""
        return (self.folder / PLAN).is_file()

    def others(self) -> list[Path]:
        """Folders with finished shards of other commands with the same output."""
        kept = (path for path in self.folder.parent.glob("*/") if path != self.folder)
        return sorted(path for path in kept if any(path.glob("shard-*.parquet")))

    def units(self, part: tuple[int, int] = (0, 1)) -> list[range]:
        """Rows of each shard.

        Args:
            part: Which part of how many: whole shards, as many in each part as can be.
        """
        starts = range(0, self.tiles, SHARD)
        number, count = part
        mine = starts[len(starts) * number // count : len(starts) * (number + 1) // count]
        return [range(start, min(start + SHARD, self.tiles)) for start in mine]

    def file(self, unit: range) -> Path:
        """Where a shard is kept."""
        return self.folder / f"shard-{unit.start:09d}.parquet"

    def keep(self, unit: range, table: pa.Table) -> None:
        """Write a shard, unless the work was put together meanwhile: encoding takes long enough for that."""
        with exclusive(self.folder / PLAN_LOCK):
            if self.goes_on():
                with atomic_file(self.file(unit)) as temporary:
                    stated = table.replace_schema_metadata({"checksum": _checksum(table), "key": self.key})
                    pa.parquet.write_table(stated, temporary)

    def is_whole(self, unit: range) -> bool:
        """Whether a shard is there and holds what was written; one that does not is made again."""
        try:
            table = pa.parquet.read_table(self.file(unit))
            stated = table.schema.metadata or {}
            return (stated.get(b"checksum"), stated.get(b"key")) == (_checksum(table).encode(), self.key.encode())
        except Exception:  # a damaged file raises whatever its reader happens to meet
            return False

    @contextlib.contextmanager
    def assembling(self) -> Iterator[bool]:
        """Hold the right to put the shards together; False where another process has done it."""
        try:
            with exclusive(self.folder.parent / ASSEMBLY_LOCK):
                try:
                    yield self.goes_on()
                finally:
                    if not self.goes_on():
                        shutil.rmtree(self.folder, ignore_errors=True)  # lock files that came late
        finally:
            with contextlib.suppress(OSError):  # work of other commands stays
                self.folder.parent.rmdir()

    def end(self) -> None:
        """Remove the folder, the plan first: whoever shares the work knows by its absence that all is done."""
        (self.folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)  # another process may be putting lock files there


def work_key(fingerprint: str, source: TileSource, thumbnail_pixels: int) -> str:
    """Hash of all that the shards of a build depend on.

    Args:
        fingerprint: Of the model.
        source: The tiles.
        thumbnail_pixels: Side of the pictures for maps.
    """
    rendering = getattr(source, "rendering", "")
    digest = hashlib.sha256(f"{fingerprint} {thumbnail_pixels} {SHARD} {rendering}".encode())
    for batch in source.table.to_batches(max_chunksize=65_536):
        digest.update(repr(batch.to_pydict()).encode())
    return digest.hexdigest()


def _checksum(table: pa.Table) -> str:
    """SHA-256 of what a shard holds."""
    digest = hashlib.sha256()
    for column in table.columns:
        for value in column.to_pylist():
            content = value if isinstance(value, bytes) else repr(value).encode()
            digest.update(f"{len(content)} ".encode() + content)
    return digest.hexdigest()


def read_states(files: list[Path]) -> tuple[np.ndarray, dict[int, str], int, int]:
    """Rows that were encoded, rows that could not be read with the reason, how many hold no data, and how many of
    those that were encoded hold no data in part.

    Args:
        files: Shards in the order of their rows.
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
    """Descriptors of all shards, float16 (rows, dim) of one at a time."""
    for file in files:
        vectors = pa.parquet.read_table(file, columns=["descriptor"])["descriptor"].drop_null().to_pylist()
        yield np.frombuffer(b"".join(vectors), np.float16).reshape(-1, dim)


def read_jpegs(files: list[Path]) -> Iterator[list[Any]]:
    """Thumbnails of the same rows."""
    for file in files:
        table = pa.parquet.read_table(file, columns=["descriptor", "jpeg"])
        yield table.filter(table["descriptor"].is_valid())["jpeg"].to_pylist()
