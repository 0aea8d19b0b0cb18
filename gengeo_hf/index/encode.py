"""Tiles to shards of descriptors, with reading ahead of the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gengeo_hf.common.locks import exclusive
from gengeo_hf.encoding.engine import encode_rows
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.imagery.tiles import NO_DATA_SHARE, TileSource, read_tile
from gengeo_hf.index.segment import thumbnail
from gengeo_hf.index.work import PARTLY_EMPTY, SHARD_SCHEMA, Work


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
    with tqdm(total=sum(map(len, units)), desc=f"index {source.name}", unit="tile", disable=not progress) as bar:
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
                    work.keep(unit, encode_unit(encoder, source, unit, thumbnail_pixels, readers, bar))
                    encoded += len(unit)
    return encoded


def encode_unit(
    encoder: EncoderProtocol, source: TileSource, unit: range, thumbnail_pixels: int, readers: int, bar: Any
) -> pa.Table:
    """Read and encode the tiles of one shard, in batches: `SHARD_SCHEMA`.

    Args:
        encoder: What encodes.
        source: What is encoded.
        unit: Rows of the source.
        thumbnail_pixels: Side of the pictures for maps; 0 makes none.
        readers: Threads that read.
        bar: Has `update`.
    """
    lines: list[tuple[int, str, bytes | None, bytes | None]] = []
    batches = encode_rows(
        lambda row: read_tile(source, row),
        lambda images, _: encoder.encode(images, view="aerial"),
        unit,
        batch_size=encoder.batch_size,
        readers=readers,
        keep_images=True,
        skip_unreadable=True,
    )
    for batch in batches:
        for row, image, descriptor in zip(batch.rows, batch.images, batch.descriptors, strict=True):
            small = thumbnail(image, thumbnail_pixels) if thumbnail_pixels else b""
            state = PARTLY_EMPTY if getattr(image, "info", {}).get(NO_DATA_SHARE) else ""
            lines.append((row, state, descriptor.astype(np.float16).tobytes(), small))
        lines += [(row, str(error or "no data"), None, None) for row, error in batch.unreadable.items()]
        bar.update(len(batch.rows) + len(batch.unreadable))
    columns = dict(zip(SHARD_SCHEMA.names, zip(*sorted(lines), strict=True), strict=True))
    return pa.table({name: list(values) for name, values in columns.items()}, schema=SHARD_SCHEMA)
