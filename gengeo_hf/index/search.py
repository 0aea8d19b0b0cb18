"""Nearest descriptors: exact up to some 200,000 tiles, a one-bit scan with exact second look beyond.

Before: index.py maps the descriptors. After: scores and rows, best first.

Measured choices: on cross-view-like queries IVF and HNSW lose 10 to 50 % of recall@1, so they are not offered. Beyond
200,000 tiles FAISS scans one bit for each dimension (RaBitQ after a random rotation), and the best are scored again
from our own float16 vectors, so that the scores are those of the exact search.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from gengeo_hf.common.errors import GenGeoError

FLAT_LIMIT = 20_000  # 80 MB of float32 at 1024 dimensions
EXACT_LIMIT = 200_000
CANDIDATES = 32  # the scan proposes 32 times as many tiles as are asked for
THREADS = faiss.omp_get_max_threads()
BLOCK = 16_384  # rows that are converted to float32 at a time
MIXED = 1024  # tiles whose mixtures stand for what differs between two views
SAMPLE_COSINE = 0.65  # between a test query and its tile: as far apart as two views of a place are


def choose_kind(count: int) -> tuple[str, str]:
    """The kind of search for a number of tiles, and the reason in words.

    Args:
        count: tiles.
    """
    if count <= FLAT_LIMIT:
        return "flat", f"{count:,} tiles: exact search on float32 is the fastest up to {FLAT_LIMIT:,}"
    if count <= EXACT_LIMIT:
        return "fp16", f"{count:,} tiles: exact search on float16, half the memory, up to {EXACT_LIMIT:,}"
    return "rabitq", f"{count:,} tiles: one-bit scan with an exact second look, beyond {EXACT_LIMIT:,}"


class Searcher:
    """Search over the descriptors of one index, which never change under it.

    Args:
        kind: "flat", "fp16" or "rabitq".
        descriptors: float16 (tiles, dim), may be memory-mapped.
        file: the stored structure of "rabitq"; None or a missing file makes it again.

    Any number of threads may search at the same time: nothing is ever added to a FAISS index that is in use.
    """

    def __init__(self, kind: str, descriptors: np.ndarray, file: Path | None = None) -> None:
        self.kind = kind
        self._descriptors = descriptors
        self._index: Any = None
        if not len(descriptors):
            return
        if kind == "rabitq":
            stored = file is not None and file.is_file()
            self._index = read_scan(str(file), descriptors.shape) if stored else build_scan(descriptors)
        elif kind == "flat":
            self._index = _fill(faiss.IndexFlatIP(descriptors.shape[1]), descriptors)
        elif kind == "fp16":
            quantiser = faiss.ScalarQuantizer.QT_fp16
            empty = faiss.IndexScalarQuantizer(descriptors.shape[1], quantiser, faiss.METRIC_INNER_PRODUCT)
            self._index = _fill(empty, descriptors)
        else:
            raise GenGeoError(f"unknown kind of search {kind!r}; flat, fp16 and rabitq are there")

    def search(self, queries: np.ndarray, k: int, candidates: int = CANDIDATES) -> tuple[np.ndarray, np.ndarray]:
        """Best tiles of the whole gallery.

        Args:
            queries: float32 (queries, dim), unit length.
            k: how many to find; no more than there are come back.
            candidates: "rabitq" only: tiles looked at a second time, for each one asked for.

        Returns:
            Cosines, float32 (queries, k), best first, and rows, int64 (queries, k). Equal scores come in row order.
        """
        k = min(k, len(self._descriptors))
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        # Threads cost more than they bring for one query (OpenMP barriers: 15 ms against 85 ms on a busy machine).
        faiss.omp_set_num_threads(1 if len(queries) == 1 else THREADS)
        if self.kind != "rabitq":
            scores, rows = self._index.search(queries, k)
            return _ordered(scores, rows, k)
        _, rows = self._index.search(queries, min(k * candidates, len(self._descriptors)))
        scores = np.stack([self._score(query, found) for query, found in zip(queries, rows, strict=True)])
        return _ordered(scores, rows, k)

    def search_rows(self, queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Best tiles among some rows, exactly: shapes as `search`.

        Args:
            queries: float32 (queries, dim), of length 1.
            rows: (rows,) of the descriptors.
            k: best tiles for each query.
        """
        k = min(k, len(rows))
        best: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(rows), BLOCK):  # only k of each block are kept, so memory stays small
            part = rows[start : start + BLOCK]
            scores = queries @ self._descriptors[part].astype(np.float32).T
            best.append(_ordered(scores, np.broadcast_to(part, scores.shape), min(k, len(part))))
        if not best:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        return _ordered(np.concatenate([b[0] for b in best], axis=1), np.concatenate([b[1] for b in best], axis=1), k)

    def _score(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Exact cosines of some rows; the -1 that FAISS writes for "nothing" scores below everything."""
        scores = self._descriptors[np.maximum(rows, 0)].astype(np.float32) @ query
        return np.where(rows < 0, -np.inf, scores).astype(np.float32)


def build_scan(descriptors: np.ndarray) -> Any:
    """The one-bit structure of "rabitq": 1/8 byte for each dimension of a tile.

    Args:
        descriptors: (tiles, dim).
    """
    index = faiss.index_factory(descriptors.shape[1], "RR,RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    step = max(1, len(descriptors) // 50_000)
    index.train(np.ascontiguousarray(descriptors[::step], dtype=np.float32))
    return _fill(index, descriptors)


def read_scan(file: str, shape: tuple[int, ...]) -> Any:
    """Read a stored structure. FAISS checks little, so type and sizes are compared here; the bytes are the manifest's.

    Raises:
        GenGeoError: it cannot be read or belongs to other descriptors.
    """
    try:
        index = faiss.read_index(file)
    except RuntimeError as error:
        raise GenGeoError(f"{file} cannot be read; delete it and its entry in the manifest, or index again") from error
    found = (index.ntotal, index.d, index.metric_type)
    if found != (shape[0], shape[1], faiss.METRIC_INNER_PRODUCT) or not isinstance(index, faiss.IndexPreTransform):
        raise GenGeoError(
            f"{file} holds {found[0]} vectors of {found[1]} dimensions, expected {shape[0]} of {shape[1]}"
        )
    return index


def measure_and_write(descriptors: np.ndarray, file: Path, samples: int = 200) -> dict[str, Any]:
    """Build the scan, store it, and measure what it loses against exact search.

    The sample queries are tiles with noise, at cosine 0.65 to their tile (see `sample_queries`). Real photos may lose
    more or less.

    Args:
        descriptors: (tiles, dim).
        file: where the structure goes.
        samples: test queries.

    Returns:
        What the manifest tells: `recall_at_1` and `recall_at_10` against exact search, and the number of samples.
    """
    searcher = Searcher("rabitq", descriptors)
    queries = sample_queries(descriptors, samples)
    _, exact = searcher.search_rows(queries, np.arange(len(descriptors)), 10)
    _, found = searcher.search(queries, 10)
    shared = [len(set(a) & set(b)) / len(a) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    faiss.write_index(searcher._index, str(file))
    return {
        "recall_at_1": float((exact[:, 0] == found[:, 0]).mean()),
        "recall_at_10": float(np.mean(shared)),
        "samples": len(queries),
        "candidates": CANDIDATES,
    }


def sample_queries(descriptors: np.ndarray, samples: int, cosine: float = SAMPLE_COSINE, seed: int = 0) -> np.ndarray:
    """Other views of some tiles, made up: float32 (samples, dim), unit length, at the given cosine to their tile.

    What is added varies as the gallery does (random mixtures of its tiles). Noise that is alike in all directions would
    hardly touch the few directions in which tiles differ, and every approximate search would look perfect.

    Args:
        descriptors: (tiles, dim).
        samples: at most as many as there are tiles.
        cosine: 0 to 1.
        seed: of what is drawn.
    """
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(len(descriptors), min(samples, len(descriptors)), replace=False))
    tiles = descriptors[rows].astype(np.float32)
    tiles /= np.linalg.norm(tiles, axis=1, keepdims=True)
    others = np.sort(generator.choice(len(descriptors), min(MIXED, len(descriptors)), replace=False))
    spread = descriptors[others].astype(np.float32)
    spread -= spread.mean(axis=0)
    noise = generator.standard_normal((len(tiles), len(spread)), dtype=np.float32) @ spread
    noise += 1e-3 * generator.standard_normal(tiles.shape, dtype=np.float32)  # a gallery of one tile has no spread
    noise -= (noise * tiles).sum(axis=1, keepdims=True) * tiles
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return cosine * tiles + np.sqrt(1 - cosine**2, dtype=np.float32) * noise


def _fill(index: Any, descriptors: np.ndarray) -> Any:
    """Add all rows, a block at a time."""
    for start in range(0, len(descriptors), BLOCK):
        index.add(np.ascontiguousarray(descriptors[start : start + BLOCK], dtype=np.float32))
    return index


def _ordered(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each line, by score and then by row: FAISS leaves equal scores in any order."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1).astype(np.float32), np.take_along_axis(rows, order, axis=1)
