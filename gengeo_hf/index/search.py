"""Nearest descriptors: exact for small segments, a one-bit scan with an exact second look for large ones.

On cross-view-like queries IVF and HNSW lose 10 to 50 % of recall@1, so they are not offered. Beyond 200,000 tiles FAISS
scans one bit for each dimension (RaBitQ after a random rotation), and the best are scored again from our own float16
vectors, so scores are always those of the exact search. How many are looked at again is measured when the structure is
built (`measure_depth`).

Removed rows never enter an exact structure. FAISS's fast scan takes no selector of rows, so a scan is asked for more
until enough live rows have come.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from gengeo_hf.common.errors import GenGeoError

FLAT_LIMIT = 20_000  # 80 MB of float32 at 1024 dimensions
EXACT_LIMIT = 200_000
SMALLEST_SCAN = 4096  # smaller segments of a large index are scored exactly
SCAN_ROWS = 2_097_152  # of one file; several are scanned by several threads
FACTORY = "RR,RaBitQfs"
LEAST_DEPTH, MOST_DEPTH = 320, 16_384
WANTED_RECALL = 0.997  # of the ten best, on made-up queries; with a quarter more depth than that needs
THREADS = faiss.omp_get_max_threads()
BLOCK = 16_384  # rows that are converted to float32 at a time
QUERIES = 64  # at a time
MIXED = 1024  # tiles whose mixtures stand for what differs between two views
SAMPLE_COSINE = 0.65  # between a test query and its tile: as far apart as two views of a place are


def needs_scan(tiles: int, total: int) -> bool:
    """Whether a segment gets a compressed structure.

    Args:
        tiles: Of the segment.
        total: Of the whole index.
    """
    return total > EXACT_LIMIT and tiles >= min(SMALLEST_SCAN, EXACT_LIMIT)


@dataclass
class Part:
    """The descriptors of one segment, as searches see them.

    Args:
        descriptors: float16 (tiles, dim), may be memory-mapped.
        dead: bool (tiles,), True for removed rows; None where all are live.
        scan: Compressed structures in the order of the rows; empty for exact search.
        depth: See `Scan.depth`.
    """

    descriptors: np.ndarray
    dead: np.ndarray | None = None
    scan: Sequence[Any] = ()
    depth: int = LEAST_DEPTH

    @property
    def live(self) -> int:
        """Rows that can be found."""
        return len(self.descriptors) - (0 if self.dead is None else int(self.dead.sum()))


class Searcher:
    """Search over parts that never change under it. Any number of threads may search at the same time.

    Args:
        parts: Rows are numbered through all of them, removed ones included.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = list(parts)
        sizes = [len(part.descriptors) for part in self._parts]
        self._bases = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.live = sum(part.live for part in self._parts)
        self._scanned = [number for number, part in enumerate(self._parts) if part.scan]
        self._depth = max((self._parts[number].depth for number in self._scanned), default=0)
        self._lock = threading.Lock()
        self._exact: tuple[Any, np.ndarray] | None = None

    def _exact_index(self) -> tuple[Any, np.ndarray]:
        """What `_build_exact` gives, built at the first search."""
        with self._lock:
            if self._exact is None:
                self._exact = self._build_exact()
            return self._exact

    def _build_exact(self) -> tuple[Any, np.ndarray]:
        """One structure over the live rows of all parts without a scan, and their numbers."""
        kept = []
        for number, part in enumerate(self._parts):
            if not part.scan:
                rows = np.arange(len(part.descriptors)) if part.dead is None else np.flatnonzero(~part.dead)
                kept.append((part, rows, self._bases[number]))
        numbers = np.concatenate([rows + base for _, rows, base in kept] or [np.empty(0, np.int64)])
        if not len(numbers):
            return None, numbers
        dim = kept[0][0].descriptors.shape[1]
        index: Any
        if len(numbers) <= FLAT_LIMIT:
            index = faiss.IndexFlatIP(dim)
        else:
            index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        for part, rows, _ in kept:
            for start in range(0, len(rows), BLOCK):
                index.add(np.ascontiguousarray(part.descriptors[rows[start : start + BLOCK]], dtype=np.float32))
        return index, numbers

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Best tiles of the whole gallery.

        Args:
            queries: float32 (queries, dim), unit length.
            k: How many to find; no more than there are come back.

        Returns:
            Cosines, float32 (queries, k), best first, and rows, int64 (queries, k). Equal scores come in row order.
        """
        k = min(k, self.live)
        if k == 0 or not len(queries):
            return _nothing(len(queries))
        found = [self._search_some(queries[start : start + QUERIES], k) for start in range(0, len(queries), QUERIES)]
        return np.concatenate([scores for scores, _ in found]), np.concatenate([rows for _, rows in found])

    def _search_some(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        # Threads cost more than they bring for one query (OpenMP barriers: 15 ms against 85 ms on a busy machine).
        faiss.omp_set_num_threads(1 if len(queries) == 1 else THREADS)
        scores, rows = _nothing(len(queries))
        exact, numbers = self._exact_index()
        if exact is not None:
            scores, found = exact.search(queries, min(k, len(numbers)))
            rows = numbers[found]
        if self._scanned:
            depth = max(self._depth, self._depth * k // 10)
            candidates = np.sort(self.ranked_candidates(queries, depth), axis=1)  # neighbours are read together
            again = np.stack([self._scores(query, row) for query, row in zip(queries, candidates, strict=True)])
            scores, rows = np.concatenate([scores, again], axis=1), np.concatenate([rows, candidates], axis=1)
        return _ordered(scores, rows, k)

    def ranked_candidates(self, queries: np.ndarray, depth: int) -> np.ndarray:
        """Live rows with the best estimates over all scans, best first: int64 (queries, at most depth).

        Args:
            queries: float32 (queries, dim).
            depth: How many at most.
        """
        jobs = []
        for number in self._scanned:
            part, first = self._parts[number], 0
            for index in part.scan:
                dead = None if part.dead is None else part.dead[first : first + index.ntotal]
                jobs.append((index, dead, int(self._bases[number]) + first))
                first += index.ntotal

        def run(job: tuple[Any, np.ndarray | None, int]) -> tuple[np.ndarray, np.ndarray]:
            return _live_candidates(*job, queries, depth)

        if len(jobs) > 1 and len(queries) == 1 and THREADS > 1:
            with ThreadPoolExecutor(THREADS) as pool:
                found = list(pool.map(run, jobs))
        else:
            found = [run(job) for job in jobs]
        estimates = np.concatenate([estimate for estimate, _ in found], axis=1)
        rows = np.concatenate([row for _, row in found], axis=1)
        if len(found) == 1:
            return rows
        if rows.shape[1] > depth:
            best = np.argpartition(-estimates, depth - 1, axis=1)[:, :depth]
            estimates, rows = np.take_along_axis(estimates, best, axis=1), np.take_along_axis(rows, best, axis=1)
        return np.take_along_axis(rows, np.argsort(-estimates, axis=1), axis=1)

    def _scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Exact cosines of some rows, sorted; -1 stands for "nothing" and scores below everything."""
        scores = np.full(len(rows), -np.inf, np.float32)
        edges = np.searchsorted(rows, self._bases)
        for part, base, first, last in zip(self._parts, self._bases[:-1], edges[:-1], edges[1:], strict=True):
            for start in range(first, last, BLOCK):
                some = slice(start, min(start + BLOCK, last))
                scores[some] = part.descriptors[rows[some] - base].astype(np.float32) @ query
        return scores

    def search_runs(
        self, queries: np.ndarray, runs: Sequence[tuple[int, int, np.ndarray | None]], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Best tiles among some runs of rows, exactly: shapes as `search`.

        Args:
            queries: float32 (queries, dim), unit length.
            runs: First row, the row behind the last one, and which of them count (bool, or None for all); a run lies
                in one part.
            k: Best tiles for each query.
        """
        best_scores, best_rows = _nothing(len(queries))
        for vectors, rows in self._filled(runs):
            scores = queries @ vectors.T
            if len(rows) > k:
                least = np.partition(scores, -k, axis=1)[:, -k]
                if best_scores.shape[1] == k:
                    least = np.maximum(least, best_scores[:, -1])
                columns = np.flatnonzero((scores >= least[:, None]).any(axis=0))
                scores, rows = scores[:, columns], rows[columns]
            joined = np.concatenate([best_scores, scores], axis=1)
            numbers = np.concatenate([best_rows, np.broadcast_to(rows, scores.shape)], axis=1)
            best_scores, best_rows = _ordered(joined, numbers, k)
        return best_scores, best_rows

    def _filled(self, runs: Sequence[tuple[int, int, np.ndarray | None]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Live vectors of runs as float32 blocks of at most `BLOCK` rows, with their numbers."""
        dim = self._parts[0].descriptors.shape[1] if self._parts else 0
        buffer, numbers, filled = np.empty((BLOCK, dim), np.float32), np.empty(BLOCK, np.int64), 0
        for first, last, counts in runs:
            number = int(np.searchsorted(self._bases, first, side="right")) - 1
            part, base = self._parts[number], int(self._bases[number])
            if part.dead is not None:
                alive = ~part.dead[first - base : last - base]
                counts = alive if counts is None else counts & alive
            rows = np.arange(first, last) if counts is None else first + np.flatnonzero(counts)
            whole = len(rows) == last - first
            start = 0
            while start < len(rows):
                size = min(len(rows) - start, BLOCK - filled)
                some = rows[start : start + size]
                inside = slice(int(some[0]) - base, int(some[-1]) - base + 1) if whole else some - base
                buffer[filled : filled + size] = part.descriptors[inside]
                numbers[filled : filled + size] = some
                filled, start = filled + size, start + size
                if filled == BLOCK:
                    yield buffer, numbers.copy()
                    filled = 0
        if filled:
            yield buffer[:filled], numbers[:filled].copy()


def _live_candidates(
    index: Any, dead: np.ndarray | None, base: int, queries: np.ndarray, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and rows of the best live rows of one structure: more is asked for until there are `depth`."""
    total = int(index.ntotal)
    live = total if dead is None else total - int(dead.sum())
    wanted = min(depth, live)
    if wanted == 0:
        return _nothing(len(queries))
    asked = min(total, wanted if live == total else int(wanted * total / live * 1.1) + 16)
    while True:
        estimates, rows = index.search(queries, asked)
        if dead is None:
            break
        estimates = np.where(dead[rows] | (rows < 0), -np.inf, estimates)
        if asked == total or bool((np.isfinite(estimates).sum(axis=1) >= wanted).all()):
            order = np.argsort(-estimates, axis=1, kind="stable")[:, :wanted]
            estimates, rows = np.take_along_axis(estimates, order, axis=1), np.take_along_axis(rows, order, axis=1)
            break
        asked = min(total, asked * 2)
    lost = (rows < 0) | ~np.isfinite(estimates)
    return np.where(lost, -np.inf, estimates).astype(np.float32), np.where(lost, -1, rows + base)


def build_scan(descriptors: np.ndarray) -> list[Any]:
    """Compressed structures of all rows: 1/8 byte for each dimension of a tile.

    Args:
        descriptors: float16 (tiles, dim).
    """
    trained = faiss.index_factory(descriptors.shape[1], FACTORY, faiss.METRIC_INNER_PRODUCT)
    step = max(1, len(descriptors) // 50_000)
    trained.train(np.ascontiguousarray(descriptors[::step], dtype=np.float32))
    empty = faiss.serialize_index(trained)  # this kind cannot be cloned
    made = []
    for first in range(0, len(descriptors), SCAN_ROWS):
        index = faiss.deserialize_index(empty)
        for start in range(first, min(first + SCAN_ROWS, len(descriptors)), BLOCK):
            rows = slice(start, min(start + BLOCK, first + SCAN_ROWS))
            index.add(np.ascontiguousarray(descriptors[rows], dtype=np.float32))
        made.append(index)
    return made


def read_scan(file: str | Path, dim: int) -> Any:
    """Read a stored structure. FAISS checks little, so type and sizes are compared here; the bytes are the manifest's.

    Raises:
        GenGeoError: It cannot be read or belongs to other descriptors.
    """
    try:
        index = faiss.read_index(str(file))
    except (RuntimeError, MemoryError) as error:
        raise GenGeoError(f"{file} cannot be read; copy the index again or make it again") from error
    if (index.d, index.metric_type) != (dim, faiss.METRIC_INNER_PRODUCT) or not isinstance(
        index, faiss.IndexPreTransform
    ):
        raise GenGeoError(f"{file} holds vectors of {index.d} dimensions, expected {dim}; make the index again")
    return index


def measure_depth(descriptors: np.ndarray, scan: Sequence[Any], samples: int = 200) -> dict[str, Any]:
    """How deep the second look must go, and what is then lost against exact search.

    The queries are tiles with noise, at cosine 0.65 to their tile (see `sample_queries`). Real photos may lose more or
    less.

    Args:
        descriptors: float16 (tiles, dim).
        scan: Structures over them.
        samples: Test queries.

    Returns:
        `depth`, `samples`, `recall_at_1` and `recall_at_10`.
    """
    queries = sample_queries(descriptors, samples)
    searcher = Searcher([Part(descriptors, scan=scan)])
    _, exact = searcher.search_runs(queries, [(0, len(descriptors), None)], 10)
    ranks = np.full(exact.shape, len(descriptors), np.int64)
    for start in range(0, len(queries), QUERIES):
        ranked = searcher.ranked_candidates(queries[start : start + QUERIES], MOST_DEPTH)
        for number, line in enumerate(ranked, start):
            rank, column = np.nonzero(line[:, None] == exact[number])
            ranks[number, column] = rank
    needed = np.sort(ranks, axis=None)[math.ceil(WANTED_RECALL * ranks.size) - 1] + 1
    depth = int(min(max(LEAST_DEPTH, math.ceil(1.25 * needed)), MOST_DEPTH))
    return {
        "depth": depth, "samples": len(queries), "recall_at_1": float((ranks[:, 0] < depth).mean()),
        "recall_at_10": float((ranks < depth).mean()),
    }  # fmt: skip


def sample_queries(descriptors: np.ndarray, samples: int, cosine: float = SAMPLE_COSINE, seed: int = 0) -> np.ndarray:
    """Other views of some tiles, made up: float32 (samples, dim), unit length, at the given cosine to their tile.

    What is added varies as the gallery does (random mixtures of its tiles). Noise that is alike in all directions would
    hardly touch the few directions in which tiles differ, and every approximate search would look perfect.

    Args:
        descriptors: (tiles, dim).
        samples: At most as many as there are tiles.
        cosine: 0 to 1.
        seed: Of what is drawn.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(descriptors), min(samples, len(descriptors)), replace=False))
    tiles = descriptors[rows].astype(np.float32)
    tiles /= np.linalg.norm(tiles, axis=1, keepdims=True)
    others = np.sort(rng.choice(len(descriptors), min(MIXED, len(descriptors)), replace=False))
    spread = descriptors[others].astype(np.float32)
    spread -= spread.mean(axis=0)
    noise = rng.standard_normal((len(tiles), len(spread)), dtype=np.float32) @ spread
    noise += 1e-3 * rng.standard_normal(tiles.shape, dtype=np.float32)  # a gallery of one tile has no spread
    noise -= (noise * tiles).sum(axis=1, keepdims=True) * tiles
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return cosine * tiles + np.sqrt(1 - cosine**2, dtype=np.float32) * noise


def _nothing(queries: int) -> tuple[np.ndarray, np.ndarray]:
    return np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)


def _ordered(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each line, by score and then by row: FAISS leaves equal scores in any order."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1).astype(np.float32), np.take_along_axis(rows, order, axis=1)
