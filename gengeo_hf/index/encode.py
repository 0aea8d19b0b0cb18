"""Tiles to shards of descriptors, with reading ahead of the model."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.locks import exclusive
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.imagery.tiles import ImageryStoppedError, TileSource
from gengeo_hf.index.segment import thumbnail
from gengeo_hf.index.work import SHARD_SCHEMA, Work


def encode_units(
    encoder: EncoderProtocol,
    source: TileSource,
    work: Work,
    units: Sequence[range],
    *,
    thumbnail_pixels: int,
    readers: int,
    progress: bool,
) -> int:
    """Make every shard that is not there yet; the number of tiles that this process encoded.

    Args:
        encoder: What encodes.
        source: What is encoded.
        work: Where shards are kept.
        units: Rows of the shards that are wanted.
        thumbnail_pixels: Side of the pictures for maps; 0 makes none.
        readers: Threads that read and cut tiles while the model works.
        progress: Show a bar with tiles per second.
    """
    from tqdm.auto import tqdm

    encoded = 0
    whole: set[Path] = set()
    with (
        tqdm(total=sum(map(len, units)), desc=f"index {source.name}", unit="tile", disable=not progress) as bar,
        ThreadPoolExecutor(readers) as pool,
    ):
        # The second round waits for shards that another process held in the first one, and takes over if it died.
        for wait in (False, True):
            for unit in units:
                file = work.file(unit)
                if file in whole:
                    continue
                if not work.goes_on():
                    return encoded
                with exclusive(file.with_suffix(".lock"), wait) as ours:
                    if not ours or not work.goes_on():
                        continue
                    whole.add(file)
                    if file.is_file() and work.is_whole(unit):
                        bar.update(len(unit))
                        continue
                    work.keep(unit, encode_unit(encoder, source, unit, thumbnail_pixels, pool, bar))
                    encoded += len(unit)
    return encoded


def encode_unit(
    encoder: EncoderProtocol, source: TileSource, unit: range, thumbnail_pixels: int, pool: ThreadPoolExecutor, bar: Any
) -> pa.Table:
    """Read and encode the tiles of one shard, in batches: `SHARD_SCHEMA`.

    Args:
        encoder: What encodes.
        source: What is encoded.
        unit: Rows of the source.
        thumbnail_pixels: Side of the pictures for maps; 0 makes none.
        pool: Threads that read.
        bar: Has `update`.
    """
    batch_size = encoder.batch_size
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

    for row, result in _read_ahead(pool, source, unit, ahead=2 * batch_size):
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
        except ImageryStoppedError:  # the server is down, the disk is full: the same for every tile
            raise
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
