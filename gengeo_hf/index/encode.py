"""Encodes tiles to shards of descriptors; threads read tiles ahead of the model."""

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
    """Encode every missing shard.

    Args:
        encoder: Encoder of the tiles.
        source: Imagery with the tiles.
        work: Directory of the shards.
        units: Rows of each shard.
        thumbnail_pixels: Side of thumbnails in pixels; 0 makes none.
        readers: Number of threads that read and crop tiles while the model runs.
        progress: Show a bar with tiles per second.

    Returns:
        Number of tiles that this process encoded.
    """
    from tqdm.auto import tqdm

    encoded = 0
    complete: set[Path] = set()
    with tqdm(total=sum(map(len, units)), desc=f"index {source.name}", unit="tile", disable=not progress) as bar:
        # The second round waits for shards that were locked by other processes, and encodes them if these have ended.
        for wait in (False, True):
            for unit in units:
                file = work.file(unit)
                if file in complete:
                    continue
                if not work.is_active():
                    return encoded
                with exclusive(file.with_suffix(".lock"), wait) as is_locked:
                    if not is_locked or not work.is_active():
                        continue
                    complete.add(file)
                    if file.is_file() and work.is_complete(unit):
                        bar.update(len(unit))
                        continue
                    work.write(unit, encode_unit(encoder, source, unit, thumbnail_pixels, readers, bar))
                    encoded += len(unit)
    return encoded


def encode_unit(
    encoder: EncoderProtocol, source: TileSource, unit: range, thumbnail_pixels: int, readers: int, bar: Any
) -> pa.Table:
    """Read and encode the tiles of one shard in batches.

    Args:
        encoder: Encoder of the tiles.
        source: Imagery with the tiles.
        unit: Rows of the source.
        thumbnail_pixels: Side of thumbnails in pixels; 0 makes none.
        readers: Number of threads that read tiles.
        bar: Progress bar with the method `update`.

    Returns:
        Table with the columns of `SHARD_SCHEMA`.
    """
    records: list[tuple[int, str, bytes | None, bytes | None]] = []
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
            records.append((row, state, descriptor.astype(np.float16).tobytes(), small))
        records += [(row, str(error or "no data"), None, None) for row, error in batch.unreadable.items()]
        bar.update(len(batch.rows) + len(batch.unreadable))
    columns = dict(zip(SHARD_SCHEMA.names, zip(*sorted(records), strict=True), strict=True))
    return pa.table({name: list(values) for name, values in columns.items()}, schema=SHARD_SCHEMA)
