"""Nearest-neighbour search: exact for small segments; a compressed scan with exact rescoring for large segments.

For queries like those of cross-view retrieval, IVF and HNSW lose 10 to 50 % of recall@1, so they are not offered. Above
200,000 tiles FAISS scans one bit for each dimension (`scan.py`), and the best candidates are scored with the stored
float16 vectors, so scores are those of the exact search. The number of candidates is measured when the structure is
built (`measure_depth`).

Removed rows are not in exact structures. The fast scan of FAISS cannot skip rows, so more rows are requested from it
until no remaining row can be among the best live ones.
"""

import functools
import hashlib
import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

SCAN_ROWS = 2_097_152  # maximum rows of a compressed structure; several threads scan several structures
FLAT_LIMIT = 20_000  # 80 MB of float32 at 1024 dimensions
EXACT_LIMIT = 200_000
SMALLEST_SCAN = 4096  # smaller segments of a large index are searched exactly
LEAST_DEPTH, MOST_DEPTH = 320, 16_384  # bounds of the depth of a whole index
THREADED_ROWS = 1_000_000  # fewer rows are scanned by one thread, which is faster
THREADS = faiss.omp_get_max_threads()
BLOCK = 16_384  # rows converted to float32 at a time
QUERIES = 64  # queries searched at a time


def needs_scan(tiles: int, total: int) -> bool:
    """Whether a segment needs a compressed structure.

    Args:
        tiles: Number of tiles of the segment.
        total: Number of tiles of the index.
    """
    return total > EXACT_LIMIT and tiles >= min(SMALLEST_SCAN, EXACT_LIMIT)


def whole_depth(depths: Sequence[int], least: int | None = None) -> int:
    """Number of tiles of a whole index that are scored exactly for ten requested tiles.

    The depth of a segment is about proportional to the square root of its tiles (measured: 350 for 53,000 tiles, 1,660
    for a million), so the depth of several segments is the root of the sum of squares.

    Args:
        depths: Depth of each segment.
        least: Minimum depth; None takes `LEAST_DEPTH`.
    """
    least = LEAST_DEPTH if least is None else least
    return min(max(math.ceil(math.hypot(*depths)), least), MOST_DEPTH)


@dataclass
class Part:
    """Descriptors of one segment, for searches.

    Args:
        descriptors: float16 (tiles, dim), may be memory-mapped.
        dead: bool (tiles,), True for removed rows; None if there are none.
        scan: Compressed structures in the order of the rows; empty for exact search.
        depth: Number of tiles that are scored exactly, see `Scan`.
    """

    descriptors: np.ndarray
    dead: np.ndarray | None = None
    scan: Sequence[Any] = ()
    depth: int = LEAST_DEPTH

    @property
    def live(self) -> int:
        """Number of rows that are not removed."""
        return len(self.descriptors) - (0 if self.dead is None else int(self.dead.sum()))


class Searcher:
    """Searches parts that do not change. Several threads may search at the same time.

    Args:
        parts: Parts to search; rows are counted through all of them, including removed rows. Compressed structures
            with the same quantiser are merged into the first of them.
        least_depth: Minimum depth, see `whole_depth`.
    """

    def __init__(self, parts: Sequence[Part], least_depth: int | None = None) -> None:
        self._parts = list(parts)
        sizes = [len(part.descriptors) for part in self._parts]
        self._bases = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.live = sum(part.live for part in self._parts)
        self._scanned = [number for number, part in enumerate(self._parts) if part.scan]
        self._scans = _joined([scan for number in self._scanned for scan in self._scans_of(number)])
        self._depth = whole_depth([self._parts[number].depth for number in self._scanned], least_depth)
        self._lock = threading.Lock()
        self._exact: tuple[Any, np.ndarray] | None = None

    def _scans_of(self, number: int) -> Iterator["_Scan"]:
        part, first = self._parts[number], 0
        for index in part.scan:
            dead = None if part.dead is None else part.dead[first : first + index.ntotal]
            yield _Scan(index, dead, int(self._bases[number]) + first)
            first += index.ntotal

    def _exact_index(self) -> tuple[Any, np.ndarray]:
        """Result of `_build_exact`, built on the first search."""
        with self._lock:
            if self._exact is None:
                self._exact = self._build_exact()
            return self._exact

    def _build_exact(self) -> tuple[Any, np.ndarray]:
        """Build one structure of the live rows of all parts without a scan; returns it with the row numbers."""
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
        """Find the best tiles of all parts.

        Args:
            queries: float32 (queries, dim), unit length.
            k: Number of tiles for each query; limited to the number of live tiles.

        Returns:
            Cosines, float32 (queries, k), best first, and rows, int64 (queries, k). Equal scores are in row order.
        """
        k = min(k, self.live)
        if k == 0 or not len(queries):
            return _nothing(len(queries))
        found = [self._search_some(queries[start : start + QUERIES], k) for start in range(0, len(queries), QUERIES)]
        return np.concatenate([scores for scores, _ in found]), np.concatenate([rows for _, rows in found])

    def _search_some(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        # One thread is faster for one query (OpenMP barriers: 15 ms instead of 85 ms on a busy machine).
        faiss.omp_set_num_threads(1 if len(queries) == 1 else THREADS)
        scores, rows = _nothing(len(queries))
        exact, numbers = self._exact_index()
        if exact is not None:
            scores, found = exact.search(queries, min(k, len(numbers)))
            rows = numbers[found]
        if self._scanned:
            depth = max(self._depth, self._depth * k // 10)
            candidates = np.sort(self.ranked_candidates(queries, depth), axis=1)  # sorted, for sequential reads
            exact_scores = np.stack([self.scores(query, row) for query, row in zip(queries, candidates, strict=True)])
            scores, rows = np.concatenate([scores, exact_scores], axis=1), np.concatenate([rows, candidates], axis=1)
        return _ordered(scores, rows, k)

    def ranked_candidates(self, queries: np.ndarray, depth: int) -> np.ndarray:
        """Live rows with the best estimates of all scans, best first: int64 (queries, at most depth).

        Args:
            queries: float32 (queries, dim).
            depth: Maximum number of rows.
        """
        if not self._scans:
            return _nothing(len(queries))[1]
        totals = np.array([scan.index.ntotal for scan in self._scans])
        requested = self._first_requests(totals, depth)
        found: list[Any] = [None] * len(totals)
        again = np.arange(len(totals))
        while len(again):
            parts = self._scanned_by_threads(queries, [(self._scans[n], int(requested[n])) for n in again])
            for number, part in zip(again, parts, strict=True):
                found[number] = part
            estimates = np.concatenate([estimate for estimate, _, _ in found], axis=1)
            again = np.flatnonzero(requested < totals)
            if len(again):  # then at least `depth` rows were requested, see `_first_requests`
                least = np.partition(estimates, -depth, axis=1)[:, -depth]
                again = np.array([n for n in again if (found[n][2] > least).any()], np.int64)
            requested[again] = np.minimum(totals[again], requested[again] * 2)
        rows = np.concatenate([row for _, row, _ in found], axis=1)
        best = np.argsort(-estimates, axis=1)[:, :depth]
        return np.take_along_axis(rows, best, axis=1)

    def _first_requests(self, totals: np.ndarray, depth: int) -> np.ndarray:
        """Number of rows to request from each scan: its expected share of the best, plus a margin."""
        live = sum(scan.live for scan in self._scans)
        if depth >= live:
            return totals.copy()
        share = depth * totals / live
        if len(totals) > 1:
            share = 1.2 * share + 3 * np.sqrt(share) + 16
        elif live < totals[0]:
            share = 1.1 * share + 16
        return np.minimum(totals, np.ceil(share).astype(np.int64))

    def _scanned_by_threads(self, queries: np.ndarray, jobs: Sequence[tuple["_Scan", int]]) -> list[Any]:
        """Results of `_Scan.candidates` of some scans, each with the number of requested rows."""

        def run(some: Sequence[tuple["_Scan", int]]) -> list[Any]:
            if len(queries) == 1:  # this setting is per thread
                faiss.omp_set_num_threads(1)
            return [scan.candidates(queries, count) for scan, count in some]

        rows = sum(scan.index.ntotal for scan, _ in jobs)
        if len(jobs) > 1 and len(queries) == 1 and THREADS > 1 and rows > THREADED_ROWS:
            # One task for each thread, because a task costs more than the scan of a small segment.
            edges = [len(jobs) * number // THREADS for number in range(THREADS + 1)]
            shares = [jobs[first:last] for first, last in itertools.pairwise(edges) if first < last]
            return [part for parts in _pool().map(run, shares) for part in parts]
        return run(jobs)

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Exact cosines of some rows in ascending order; row -1 (no row) has the score -inf."""
        scores = np.full(len(rows), -np.inf, np.float32)
        edges = np.searchsorted(rows, self._bases)
        if edges[0] == len(rows):
            return scores
        halves = np.empty((len(rows) - edges[0], self._parts[0].descriptors.shape[1]), np.float16)
        for part, base, first, last in zip(self._parts, self._bases[:-1], edges[:-1], edges[1:], strict=True):
            if first < last:
                halves[first - edges[0] : last - edges[0]] = part.descriptors[rows[first:last] - base]
        for start in range(0, len(halves), BLOCK):
            scores[edges[0] + start : edges[0] + start + BLOCK] = to_float32(halves[start : start + BLOCK]) @ query
        return scores

    def search_runs(
        self, queries: np.ndarray, runs: Sequence[tuple[int, int, np.ndarray | None]], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best tiles in some runs of rows by exact search.

        Args:
            queries: float32 (queries, dim), unit length.
            runs: First row, end row (exclusive), and a bool mask of the rows to search, or None for all. Each run lies
                in one part.
            k: Number of tiles for each query.

        Returns:
            Cosines and rows, as in `search`.
        """
        best_scores, best_rows = _nothing(len(queries))
        for vectors, rows in self._filled(runs):
            scores = queries @ vectors.T
            if len(rows) > k:
                full = best_scores.shape[1] == k
                least = best_scores[:, -1] if full else np.partition(scores, -k, axis=1)[:, -k]
                columns = np.flatnonzero((scores >= least[:, None]).any(axis=0))
                scores, rows = scores[:, columns], rows[columns]
            joined = np.concatenate([best_scores, scores], axis=1)
            numbers = np.concatenate([best_rows, np.broadcast_to(rows, scores.shape)], axis=1)
            best_scores, best_rows = _ordered(joined, numbers, k)
        return best_scores, best_rows

    def _filled(self, runs: Sequence[tuple[int, int, np.ndarray | None]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield live vectors of runs as float32 blocks of at most `BLOCK` rows, with their row numbers."""
        if not runs:
            return
        dim = self._parts[0].descriptors.shape[1]
        buffer, numbers, filled = np.empty((BLOCK, dim), np.float32), np.empty(BLOCK, np.int64), 0
        for first, last, mask in runs:
            number = int(np.searchsorted(self._bases, first, side="right")) - 1
            part, base = self._parts[number], int(self._bases[number])
            if part.dead is not None:
                alive = ~part.dead[first - base : last - base]
                mask = alive if mask is None else mask & alive
            rows = np.arange(first, last) if mask is None else first + np.flatnonzero(mask)
            is_slice = len(rows) == last - first  # a slice is converted without a copy
            start = 0
            while start < len(rows):
                size = min(len(rows) - start, BLOCK - filled)
                some = rows[start : start + size]
                inside = slice(int(some[0]) - base, int(some[-1]) - base + 1) if is_slice else some - base
                to_float32(part.descriptors[inside], buffer[filled : filled + size])
                numbers[filled : filled + size] = some
                filled, start = filled + size, start + size
                if filled == BLOCK:
                    yield buffer, numbers.copy()
                    filled = 0
        if filled:
            yield buffer[:filled], numbers[:filled].copy()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Thread pool of scans, with one thread for each core, for all searches of the process."""
    return ThreadPoolExecutor(THREADS, "scan")


class _Scan:
    """A compressed structure with its removed rows.

    Args:
        index: The structure.
        dead: bool (rows,), True for removed rows; None if there are none.
        base: Number of its first row, counted through all parts.
    """

    def __init__(self, index: Any, dead: np.ndarray | None, base: int) -> None:
        self.index, self.dead = index, dead
        self._starts, self._offsets = np.zeros(1, np.int64), np.array([base], dtype=np.int64)
        self.live = int(index.ntotal) - (0 if dead is None else int(dead.sum()))

    def take(self, other: "_Scan") -> None:
        """Move the rows of another structure with the same quantiser to the end of this one."""
        mine, its = int(self.index.ntotal), int(other.index.ntotal)
        self.index.merge_from(other.index, 0)
        if self.dead is not None or other.dead is not None:
            both = [(self.dead, mine), (other.dead, its)]
            self.dead = np.concatenate([np.zeros(rows, bool) if dead is None else dead for dead, rows in both])
        self._starts = np.concatenate([self._starts, other._starts + mine])
        self._offsets = np.concatenate([self._offsets, other._offsets - mine])
        self.live += other.live

    def candidates(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Estimates and row numbers of the `count` best rows, best first, and the last estimate.

        Removed rows have the number -1 and the estimate -inf. No other row has a better estimate than the last one.
        """
        estimates, rows = self.index.search(queries, count)
        missing = rows < 0
        if self.dead is not None:
            missing |= self.dead[rows]
        last = estimates[:, -1]
        numbers = rows + self._offsets[np.searchsorted(self._starts, rows, side="right") - 1]
        return np.where(missing, np.float32(-np.inf), estimates), np.where(missing, -1, numbers), last


def _joined(scans: Sequence[_Scan]) -> list[_Scan]:
    """Merge structures with the same quantiser up to `SCAN_ROWS` rows: each has a fixed cost for every query."""
    found: list[_Scan] = []
    latest: dict[bytes, _Scan] = {}
    for scan in scans:
        quantizer = _quantizer_digest(scan.index) if len(scans) > 1 else b""
        into = latest.get(quantizer)
        if quantizer and into is not None and into.index.ntotal + scan.index.ntotal <= SCAN_ROWS:
            into.take(scan)
        else:
            latest[quantizer] = scan
            found.append(scan)
    return found


def _quantizer_digest(index: Any) -> bytes:
    """Digest of the quantiser; structures with equal digests can be merged. Empty for other kinds of structures."""
    inner: Any = faiss.downcast_index(index.index)
    if not isinstance(inner, faiss.IndexPQFastScan):
        return b""
    transform: Any = faiss.downcast_VectorTransform(index.chain.at(0))
    parts = (transform.A, transform.b, inner.pq.centroids)
    return hashlib.sha256(b"".join(faiss.vector_to_array(part).tobytes() for part in parts)).digest()


def to_float32(vectors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Convert float16 to float32, three times as fast as `astype`, which converts values one by one.

    The bits of exponent and fraction are shifted to their position in float32, and a product with 2^112 corrects the
    exponent, also of subnormal numbers. Infinity and NaN, which descriptors do not contain, become finite numbers.

    Args:
        vectors: float16 (rows, dim).
        out: float32 of the same shape, C-contiguous; None makes it.
    """
    if out is None:
        out = np.empty(vectors.shape, np.float32)
    halves, bits = np.asarray(vectors).view(np.int16), out.view(np.int32)
    for start in range(0, len(out), 512):  # fits into the cache
        some = bits[start : start + 512]
        some[...] = halves[start : start + 512]
        some <<= 13
        some &= np.int32(-0x70002000)  # sign, exponent and fraction
        out[start : start + 512] *= np.float32(2.0**112)
    return out


def _nothing(queries: int) -> tuple[np.ndarray, np.ndarray]:
    return np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)


def _ordered(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each query, ordered by score and then by row: FAISS returns equal scores in any order."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1).astype(np.float32), np.take_along_axis(rows, order, axis=1)
