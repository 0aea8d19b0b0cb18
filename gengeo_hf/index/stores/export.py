"""Make a vector database mirror an index: tiles that are new or changed are written, removed ones go."""

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

LEAST_AGREEMENT = 0.95  # of the top ten with the exact answer; less means that something is wrong


def export_index(index: GeoIndex, store: StoreIndex, progress: bool = False, samples: int = 20) -> dict[str, Any]:
    """Make a store mirror an index, from where an interrupted export stopped, and compare the two.

    Tiles that the store has and the index has not (any more) are removed from the store.

    Args:
        index: The store of record.
        store: An open connection. Its `index_name`, or else the name of the index's directory, names the collection.
        progress: Show a bar with tiles per second.
        samples: Queries whose top ten are compared with the exact answer of the index.

    Returns:
        `tiles` in the index, `count` in the store, `removed` from the store, `index_name`, `top10_agreement` in [0, 1].

    Raises:
        GenGeoError: The collection is that of another index, or does not hold the tiles of this one afterwards.
    """
    from tqdm.auto import tqdm

    name = store.index_name or collection_name(index.path)
    store.create(index.manifest.model.fingerprint, index.manifest.dim, name)
    removed = _strangers(index, store, name)
    # The state belongs to this content of the index, this store and what the store still holds.
    state = _State(index, [store.address, name, index.manifest.content_id])
    done = state.read() if len(store) else 0
    with tqdm(total=len(index), initial=done, desc="export", unit="tile", disable=not progress) as bar:
        seen = 0
        for tiles, vectors in _batches(index):
            seen += len(tiles)
            if seen > done:
                store.engine.upsert(store._name, _rows(index, tiles), vectors.astype(np.float32))
                state.write(seen)
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
    """The name of an index in stores: that of its directory without ending, in letters, digits and `_`."""
    return re.sub(r"[^A-Za-z0-9]+", "_", real_path(path).name.removesuffix(".gengeo")).strip("_")[:64] or "index"


def _strangers(index: GeoIndex, store: StoreIndex, name: str) -> list[str]:
    """Tiles of the collection that are not in the index.

    Raises:
        GenGeoError: None of its tiles is in the index: it belongs to another index with the same name.
    """
    if not len(store):
        return []
    known = index.tiles["tile_id"].combine_chunks()
    total, strangers = 0, []
    for rows in store.engine.rows(store._name):
        ids = pa.array([row["tile_id"] for row in rows], pa.string())
        strangers += ids.filter(pc.invert(pc.is_in(ids, known))).to_pylist()
        total += len(ids)
    if len(index) and total and len(strangers) == total:
        raise GenGeoError(
            f"{store.address} holds {total:,} tiles named {name}, and none of them is in {index.path}: they are of "
            "another index; give this one another name by adding #NAME to the address"
        )
    return strangers


def _rows(index: GeoIndex, tiles: pa.Table) -> list[dict[str, Any]]:
    """Rows for a store: those of the table, with the rights of their imagery."""
    rows: list[dict[str, Any]] = tiles.to_pylist()
    for row in rows:
        source = index.source_of(row["source"] or "")
        row.update({field: getattr(source, field) for field in RIGHTS})
    return rows


def _agreement(index: GeoIndex, store: StoreIndex, samples: int) -> float:
    """Share of the exact top ten that the store finds, over sample queries."""
    if not len(index):
        return 1.0
    largest = max(index.segments, key=lambda segment: segment.record.live)
    queries = sample_queries(largest.descriptors, samples)
    pairs = zip(index.search(queries, 10, fused=False), store.search(queries, 10), strict=True)
    return float(np.mean([len({h.tile_id for h in a} & {h.tile_id for h in b}) / len(a) for a, b in pairs]))


def _batches(index: GeoIndex) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Live tiles and their descriptors, at most `BATCH` at a time, always in the same portions."""
    for segment in index.segments:
        rows = segment.live_rows()
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            yield segment.tiles.select(TILE_SCHEMA.names).take(pa.array(some)), segment.descriptors[some]


class _State:
    """How far an export has come, in a file beside the index; kept nowhere where that place cannot be written."""

    def __init__(self, index: GeoIndex, key: list[str]) -> None:
        self._path = index.path.with_name(f".{index.path.name}.export.json")
        self._key, self._is_kept = key, True

    def read(self) -> int:
        """Rows that an interrupted export of the same content to the same store has written."""
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            return int(state["done"]) if state["key"] == self._key else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def write(self, done: int) -> None:
        """Note that rows have been written; an index that is read-only is exported all the same."""
        if self._is_kept:
            try:
                write_json(self._path, {"key": self._key, "done": done})
            except (GenGeoError, OSError):
                self._is_kept = False

    def clear(self) -> None:
        """The export is complete."""
        if self._is_kept:
            self._path.unlink(missing_ok=True)
