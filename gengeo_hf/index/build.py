"""From imagery to an index, in shards that survive an interruption.

Before: a `TileSource` and an encoder. After: the folder that folder.py writes, and a report.

Work lies in `<index>.partial/`: one Parquet file for each 256 tiles. A second run with the same imagery and model reads
what is finished there. Several processes that run the same command share the work: each takes shards that nobody holds.
"""

import hashlib
import json
import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file, write_json
from gengeo_hf.common.locks import exclusive
from gengeo_hf.imagery.tiles import EncoderLike, TileSource
from gengeo_hf.index.folder import LEFT_OUT_SCHEMA, check_place, read_manifest, thumbnail, write_index

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset

SHARD = 256
PLAN, PLAN_LOCK = "plan.json", "plan.lock"
SHARD_SCHEMA = pa.schema(
    [("row", pa.int64()), ("state", pa.string()), ("descriptor", pa.binary()), ("jpeg", pa.binary())]
)


@dataclass
class BuildReport:
    """What a build did.

    Args:
        source: name of the imagery.
        tiles: tiles now in the index.
        no_data: tiles left out because the imagery is empty there.
        broken: the first ten tiles that could not be read, with the reason; all are in the index's `left_out`.
        broken_count: how many there were.
        seconds: of this run; resumed shards cost nothing.
        tiles_per_second: encoded in this run.
    """

    source: str
    tiles: int = 0
    no_data: int = 0
    broken: list[str] = field(default_factory=list)
    broken_count: int = 0
    seconds: float = 0.0
    tiles_per_second: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.tiles:,} tiles of {self.source} in {self.seconds:.1f} s ({self.tiles_per_second:.1f} tiles/s)"]
        if self.no_data:
            lines.append(f"{self.no_data:,} tiles left out: no data there")
        if self.broken_count:
            lines.append(f"{self.broken_count:,} tiles left out: unreadable, first: {self.broken[0]}")
        return "; ".join(lines)


def build_index(
    encoder: EncoderLike,
    imagery: "TileSource | CrossViewDataset",
    path: str | Path,
    *,
    model_name: str = "",
    thumbnail_pixels: int = 128,
    readers: int = 2,
    progress: bool = False,
) -> BuildReport:
    """Encode every tile and write the index.

    Args:
        encoder: has `encode`, `fingerprint`, `dim`.
        imagery: a `TileSource`, or a dataset whose gallery is taken.
        path: folder of the index.
        model_name: what an error about another model calls this one.
        thumbnail_pixels: side of the small JPEGs for maps (about 4 kB each); 0 keeps none.
        readers: threads that read and cut tiles while the model works.
        progress: show a bar with tiles per second.

    Raises:
        GenGeoError: `path` holds something else, no tile could be read, the disk is full, or a process that builds an
            index of other imagery or another model took the place. Finished shards stay in `<path>.partial`, and the
            next run goes on from there.
    """
    path = Path(path)
    check_place(path)
    source = _as_source(imagery)
    partial = path.with_name(f"{path.name}.partial")
    try:
        work = _Work.begin(partial, encoder, source, thumbnail_pixels)
        started = time.monotonic()
        encoded = _encode_all(encoder, source, work, thumbnail_pixels, readers, progress)
        seconds = time.monotonic() - started
    except OSError as error:
        raise GenGeoError(f"the work could not be written to {partial}: {error.strerror or error}") from error
    with exclusive(path.with_name(f".{path.name}.lock")):
        if not work.goes_on():  # another process that shared the work has put it together
            work.end()
            return BuildReport(source.name, tiles=int(read_manifest(path)["count"]))
        report = _assemble(path, work, source, encoder, model_name, thumbnail_pixels > 0, seconds, encoded)
        work.end()
    path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
    return report


def _as_source(imagery: Any) -> TileSource:
    """A dataset becomes a source; a source stays one."""
    if hasattr(imagery, "read") and hasattr(imagery, "table"):
        return imagery
    from gengeo_hf.imagery.dataset import DatasetTiles

    return DatasetTiles(imagery)


@dataclass(frozen=True)
class _Work:
    """The work folder of a build, and what it belongs to.

    Args:
        folder: holds the plan, shards and locks.
        key: hash of the model, the tiles and how they are cut: what its `plan.json` says while it is worked on.
    """

    folder: Path
    key: str

    @classmethod
    def begin(cls, folder: Path, encoder: EncoderLike, source: TileSource, thumbnail_pixels: int) -> "_Work":
        """Make the folder, and empty it if it belongs to other imagery or another model."""
        rendering = getattr(source, "rendering", "")
        digest = hashlib.sha256(f"{encoder.fingerprint} {thumbnail_pixels} {SHARD} {rendering}".strip().encode())
        for column in source.table.columns:
            digest.update("\n".join(map(str, column.to_pylist())).encode())
        work = cls(folder, digest.hexdigest())
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / PLAN_LOCK):
            if work._found() != work.key:
                for old in folder.glob("shard-*"):
                    old.unlink()
                write_json(folder / PLAN, {"key": work.key})
        return work

    def goes_on(self) -> bool:
        """False once another process that shares the work has put its shards together.

        Raises:
            GenGeoError: the folder belongs to other imagery or another model by now.
        """
        found = self._found()
        if found not in (None, self.key):
            raise GenGeoError(
                f"another process has begun an index of other imagery or another model in {self.folder}; let it "
                "finish, or give another name to this index"
            )
        return found is not None

    def keep(self, file: Path, table: pa.Table) -> None:
        """Write a shard, unless the folder has changed hands meanwhile: encoding takes long enough for that."""
        with exclusive(self.folder / PLAN_LOCK):
            if self.goes_on():
                with atomic_file(file) as temporary:
                    pa.parquet.write_table(table.replace_schema_metadata({"sum": _sum(table)}), temporary)

    def end(self) -> None:
        """Remove the folder, the plan first: whoever shares the work knows by its absence that all is done."""
        (self.folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)  # another process may be putting lock files there

    def _found(self) -> str | None:
        """The key in the folder's plan; None where there is no plan, "" where it is damaged."""
        try:
            return str(json.loads((self.folder / PLAN).read_text(encoding="utf-8"))["key"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            return ""


def _encode_all(
    encoder: EncoderLike, source: TileSource, work: _Work, thumbnail_pixels: int, readers: int, progress: bool
) -> int:
    """Make every shard that is not there yet; the number of tiles that this process encoded."""
    from tqdm.auto import tqdm

    total = source.table.num_rows
    shards = [(work.folder / f"shard-{start:09d}.parquet", start) for start in range(0, total, SHARD)]
    encoded = 0
    whole: set[Path] = set()
    with (
        tqdm(total=total, desc=f"index {source.name}", unit="tile", disable=not progress) as bar,
        ThreadPoolExecutor(readers) as pool,
    ):
        # The second round waits for shards that another process held in the first one, and takes over if it died.
        for wait in (False, True):
            for file, start in shards:
                rows = range(start, min(start + SHARD, total))
                if wait is False and file.is_file():
                    bar.update(len(rows))
                with exclusive(file.with_suffix(".lock"), wait) as ours:
                    if not ours or file in whole or not work.goes_on():
                        continue
                    whole.add(file)
                    if file.is_file() and _is_whole(file):
                        continue
                    work.keep(file, _encode_shard(encoder, source, rows, thumbnail_pixels, pool, bar))
                    encoded += len(rows)
    return encoded


def _sum(table: pa.Table) -> str:
    """SHA-256 of what a shard holds."""
    digest = hashlib.sha256()
    for column in table.columns:
        for value in column.to_pylist():
            content = value if isinstance(value, bytes) else repr(value).encode()
            digest.update(f"{len(content)} ".encode() + content)
    return digest.hexdigest()


def _is_whole(file: Path) -> bool:
    """Whether a shard of an earlier run holds what was written; one that does not is made again."""
    try:
        table = pa.parquet.read_table(file)
        return (table.schema.metadata or {}).get(b"sum", b"").decode() == _sum(table)
    except Exception:  # a damaged file raises whatever its reader happens to meet
        return False


def _encode_shard(
    encoder: EncoderLike, source: TileSource, rows: range, thumbnail_pixels: int, pool: ThreadPoolExecutor, bar: Any
) -> pa.Table:
    """Read and encode the tiles of one shard, in batches."""
    batch_size = int(getattr(encoder, "batch_size", 32))
    columns: dict[str, list[Any]] = {name: [] for name in SHARD_SCHEMA.names}
    waiting: list[tuple[int, Image.Image]] = []

    def encode() -> None:
        if not waiting:
            return
        vectors = encoder.encode([image for _, image in waiting], view="aerial")
        for (row, image), vector in zip(waiting, vectors, strict=True):
            small = thumbnail(image, thumbnail_pixels) if thumbnail_pixels else b""
            for name, value in zip(columns, (row, "", vector.astype(np.float16).tobytes(), small), strict=True):
                columns[name].append(value)
        bar.update(len(waiting))
        waiting.clear()

    for row, result in _read_ahead(pool, source, rows, ahead=2 * batch_size):
        if isinstance(result, Image.Image):
            waiting.append((row, result))
        else:
            for name, value in zip(columns, (row, str(result or "no data"), None, None), strict=True):
                columns[name].append(value)
            bar.update(1)
        if len(waiting) >= batch_size:
            encode()
    encode()
    return pa.table(columns, schema=SHARD_SCHEMA).sort_by("row")


def _read_ahead(
    pool: ThreadPoolExecutor, source: TileSource, rows: range, ahead: int
) -> Iterator[tuple[int, Image.Image | GenGeoError | None]]:
    """Read tiles in threads, at most `ahead` of them before they are used; an error is an answer as well."""

    def read(row: int) -> Image.Image | GenGeoError | None:
        try:
            return source.read(row)
        except GenGeoError as error:
            return error

    pending: deque[tuple[int, Future]] = deque()
    for row in rows:
        pending.append((row, pool.submit(read, row)))
        if len(pending) >= ahead:
            first, future = pending.popleft()
            yield first, future.result()
    for row, future in pending:
        yield row, future.result()


def _assemble(
    path: Path,
    work: _Work,
    source: TileSource,
    encoder: EncoderLike,
    model_name: str,
    thumbnails: bool,
    seconds: float,
    encoded: int,
) -> BuildReport:
    """Put the shards together as an index."""
    report = BuildReport(source.name, seconds=seconds, tiles_per_second=encoded / max(seconds, 1e-9))
    files = sorted(work.folder.glob("shard-*.parquet"))
    rows, broken = _sorted_out(files, report)
    if not rows:
        work.end()
        reason = f"first: {report.broken[0]}" if report.broken else "the imagery is empty"
        raise GenGeoError(f"none of the {source.table.num_rows} tiles of {source.name} could be read; {reason}")
    report.tiles = len(rows)
    about = {
        "model": {
            "fingerprint": encoder.fingerprint,
            "name": model_name,
            "truncate_dim": getattr(encoder, "truncate_dim", None),  # photos are then cut alike
            "computed_by": getattr(encoder, "computed_by", ""),  # for people: any backend may ask
        },
        "preprocessing": _preprocessing(encoder),
        "dim": int(encoder.dim),
        "build": asdict(report),
        "history": [happened("built", source=source.name, tiles=len(rows))],
    }
    bad = source.table.take(pa.array(list(broken), pa.int64()))
    left_out = bad.append_column("reason", pa.array(broken.values(), pa.string())).cast(LEFT_OUT_SCHEMA)
    jpegs = _stored_jpegs(files) if thumbnails else None
    write_index(path, source.table.take(pa.array(rows)), _stored(files, encoder.dim), about, jpegs, left_out)
    return report


def happened(what: str, **details: Any) -> dict[str, Any]:
    """One entry of an index's history."""
    return {"when": datetime.now(UTC).isoformat(timespec="seconds"), "what": what} | details


def _sorted_out(files: list[Path], report: BuildReport) -> tuple[list[int], dict[int, str]]:
    """Rows that were encoded, and rows that could not be read with the reason; the report is filled in."""
    rows: list[int] = []
    broken: dict[int, str] = {}
    for file in files:
        part = pa.parquet.read_table(file, columns=["row", "state"])
        for row, state in zip(part["row"].to_pylist(), part["state"].to_pylist(), strict=True):
            if not state:
                rows.append(row)
            elif state == "no data":
                report.no_data += 1
            else:
                broken[row] = state
    report.broken_count, report.broken = len(broken), list(broken.values())[:10]
    return rows, broken


def _stored(files: list[Path], dim: int) -> Iterator[np.ndarray]:
    """Descriptors of all shards."""
    for file in files:
        vectors = pa.parquet.read_table(file, columns=["descriptor"])["descriptor"].drop_null().to_pylist()
        yield np.frombuffer(b"".join(vectors), np.float16).reshape(-1, dim)


def _stored_jpegs(files: list[Path]) -> Iterator[list[bytes]]:
    """Thumbnails of all shards."""
    for file in files:
        table = pa.parquet.read_table(file, columns=["descriptor", "jpeg"])
        yield table.filter(table["descriptor"].is_valid())["jpeg"].to_pylist()


def _preprocessing(encoder: Any) -> dict[str, Any]:
    """The image processor's own words, for people; the fingerprint is what is compared."""
    processor = getattr(encoder, "processor", None)
    return json.loads(json.dumps(processor.to_dict(), default=str)) if processor is not None else {}
