"""Reads and writes keys of pose heads for the tiles of an index, in `<index>.pose/<prior>.parquet`.

Each row holds the id of a tile and K x d float16 values (0.8 kB at 5 x 5 patches, 8 kB at 16 x 16). The file holds a
checksum of the head's weights; features of another head are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file

PRIORS = ("known", "45", "180")
SUFFIX = ".pose"  # added to the path of the index


class StoredFeatures:
    """Stored keys of one pose head.

    Args:
        path: File of `write_features`.

    Raises:
        GenGeoError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.read_table(path, memory_map=True)
            stated = self._file.schema.metadata or {}
            self.head, self.shape = stated[b"head"].decode(), (int(stated[b"patches"]), int(stated[b"dim"]))
        except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
            raise GenGeoError(
                f"{path} does not hold pose features ({error}): make them again with --pose-features"
            ) from error

    def keys(self, tile_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        """float16 (K, d) keys of the available tiles, by id."""
        rows = self._file.filter(pc.is_in(self._file["tile_id"], pa.array(list(tile_ids), pa.string())))
        values = (np.frombuffer(value, np.float16).reshape(self.shape) for value in rows["keys"].to_pylist())
        return dict(zip(rows["tile_id"].to_pylist(), values, strict=True))


def features_path(index: str | Path, prior: str) -> Path:
    """Path of the features of an index for a heading prior."""
    return Path(f"{str(index).rstrip('/')}{SUFFIX}") / f"{prior}.parquet"


def open_features(index: str | Path) -> dict[str, StoredFeatures]:
    """Open all stored features of an index, by heading prior."""
    paths = {prior: features_path(index, prior) for prior in PRIORS}
    return {prior: StoredFeatures(path) for prior, path in paths.items() if path.is_file()}


def write_features(path: Path, head: str, blocks: Iterator[tuple[Sequence[str], np.ndarray]]) -> int:
    """Write a file of keys atomically.

    Args:
        path: File to write, see `features_path`.
        head: Checksum of the head's weights.
        blocks: Blocks of tile ids and their keys, float (n, K, d).

    Returns:
        Number of tiles.

    Raises:
        GenGeoError: There are no tiles.
    """
    writer: Any = None
    count = 0
    with atomic_file(path) as temporary:
        for ids, keys in blocks:
            if writer is None:
                stated = {"head": head, "patches": str(keys.shape[1]), "dim": str(keys.shape[2])}
                schema = pa.schema([("tile_id", pa.string()), ("keys", pa.binary())], metadata=stated)
                writer = pq.ParquetWriter(temporary, schema)
            values = [row.tobytes() for row in keys.astype(np.float16)]
            writer.write_table(pa.table([pa.array(list(ids)), pa.array(values, pa.binary())], schema=schema))
            count += len(values)
        if writer is None:
            raise GenGeoError("there are no tiles to store pose features for")
        writer.close()
    return count
