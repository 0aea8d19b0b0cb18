"""Copies an index to a vector database: writes new and changed tiles, and deletes removed tiles."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import real_path, write_json
from gengeo_hf.imagery.tiles import TILE_SCHEMA
from gengeo_hf.index.index import GeoIndex
from gengeo_hf.index.scan import sample_queries
from gengeo_hf.index.stores.protocol import BATCH, RIGHTS, StoreIndex

LEAST_AGREEMENT = 0.95  # agreement of the top ten with exact search; a lower value indicates an error


def export_index(index: GeoIndex, store: StoreIndex, progress: bool = False, samples: int = 20) -> dict[str, Any]:
    """Copy an index to a store, or resume an interrupted export, and compare the results of both.

    Tiles of the store that are not in the index are deleted from the store.

    Args:
        index: Index to copy.
        store: Open connection. The collection is named by its `index_name`, else by the directory of the index.
        progress: Show a bar with tiles per second.
        samples: Number of queries whose top ten are compared with the exact search of the index.

    Returns:
        `tiles` in the index, `count` in the store, `removed` from the store, `index_name`, `top10_agreement` in [0, 1].

    Raises:
        GenGeoError: The collection belongs to another index, or does not hold the tiles of this index after the export.
    """
    from tqdm.auto import tqdm

    name = store.index_name or collection_name(index.path)
    store.create(index.manifest.model.fingerprint, index.manifest.dim, name)
    removed = _unknown_tiles(index, store, name)
    # The state is valid for this content of the index and this store.
    state = _State(index, [store.address, name, index.manifest.content_id])
    done = state.read() if len(store) else 0
    with tqdm(total=len(index), initial=done, desc="export", unit="tile", disable=not progress) as bar:
        read = 0
        for tiles, vectors in _batches(index):
            read += len(tiles)
            if read > done:
                store.engine.upsert(store._name, _rows(index, tiles), vectors.astype(np.float32))
                state.write(read)
                bar.update(len(tiles))
    state.clear()
    store.remove_ids(removed)
    if (count := len(store)) != len(index):
        raise GenGeoError(f"{store.address} holds {count} tiles after writing {len(index)}; run the export again")
    return {
        "tiles": len(index),
        "count": count,
        "removed": len(removed),
        "index_name": name,
        "top10_agreement": _agreement(index, store, samples),
    }


def collection_name(path: Path) -> str:
    """Name of an index in stores: that of its directory without suffix, in letters, digits and `_`."""
    return re.sub(r"[^A-Za-z0-9]+", "_", real_path(path).name.removesuffix(".gengeo")).strip("_")[:64] or "index"


def _unknown_tiles(index: GeoIndex, store: StoreIndex, name: str) -> list[str]:
    """Ids of the tiles of the collection that are not in the index.

    Raises:
        GenGeoError: None of its tiles is in the index: the collection belongs to another index with the same name.
    """
    if not len(store):
        return []
    known = index.tiles["tile_id"].combine_chunks()
    total, unknown = 0, []
    for rows in store.engine.rows(store._name):
        ids = pa.array([row["tile_id"] for row in rows], pa.string())
        unknown += ids.filter(pc.invert(pc.is_in(ids, known))).to_pylist()
        total += len(ids)
    if len(index) and total and len(unknown) == total:
        raise GenGeoError(
            f"{store.address} holds {total:,} tiles named {name}, and none of them is in {index.path}: they belong to "
            "another index; give this index another name by adding #NAME to the address"
        )
    return unknown


def _rows(index: GeoIndex, tiles: pa.Table) -> list[dict[str, Any]]:
    """Rows of a store: rows of the table, with the rights of their imagery."""
    rows: list[dict[str, Any]] = tiles.to_pylist()
    for row in rows:
        source = index.source_of(row["source"] or "")
        row.update({field: getattr(source, field) for field in RIGHTS})
    return rows


def _agreement(index: GeoIndex, store: StoreIndex, samples: int) -> float:
    """Share of the exact top ten that the store finds, for synthetic queries."""
    if not len(index):
        return 1.0
    largest = max(index.segments, key=lambda segment: segment.record.live)
    queries = sample_queries(largest.descriptors, samples)
    pairs = zip(index.search(queries, 10, fused=False), store.search(queries, 10), strict=True)
    return float(np.mean([len({h.tile_id for h in a} & {h.tile_id for h in b}) / len(a) for a, b in pairs]))


def _batches(index: GeoIndex) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield live tiles and their descriptors in fixed batches of at most `BATCH`."""
    for segment in index.segments:
        rows = segment.live_rows()
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            yield segment.tiles.select(TILE_SCHEMA.names).take(pa.array(some)), segment.descriptors[some]


class _State:
    """Progress of an export, in a file in the parent directory of the index; not stored if that is read-only."""

    def __init__(self, index: GeoIndex, key: list[str]) -> None:
        self._path = index.path.with_name(f".{index.path.name}.export.json")
        self._key, self._is_kept = key, True

    def read(self) -> int:
        """Number of rows that an interrupted export of the same content to the same store has written."""
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            return int(state["done"]) if state["key"] == self._key else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def write(self, done: int) -> None:
        """Store the number of written rows, if possible."""
        if self._is_kept:
            try:
                write_json(self._path, {"key": self._key, "done": done})
            except (GenGeoError, OSError):
                self._is_kept = False

    def clear(self) -> None:
        """Remove the file after a complete export."""
        if self._is_kept:
            self._path.unlink(missing_ok=True)
