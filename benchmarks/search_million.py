"""Search a million synthetic descriptors: our search methods, exact FAISS and (if installed) usearch.

    python benchmarks/search_million.py --tiles 1000000 --dim 1024

The data are those on which the methods were selected: a mixture of regions in a random basis with a power-law spectrum
and eight siblings (overlapping tiles) for each site. Queries are synthetic views of a tile with cosine 0.65 to it;
their noise has the covariance of the tiles. A million tiles of 1024 dimensions need 2 GB on disk and, for exact FAISS,
4 GB of memory. Set OMP_NUM_THREADS=1 to measure one core.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measuring import peak_mb

from gengeo_hf.common.files import write_json
from gengeo_hf.index.scan import build_scan, measure_depth, sample_queries
from gengeo_hf.index.search import THREADS, Part, Searcher

SITES_SIBLINGS = 8


def descriptors(count: int, dim: int, path: Path, seed: int = 0) -> np.ndarray:
    """Write float16 unit vectors in blocks and return them memory-mapped."""
    generator = np.random.default_rng(seed)
    spectrum = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    basis = np.linalg.qr(generator.standard_normal((dim, dim)))[0].astype(np.float32) * spectrum[:, None]
    regions = generator.standard_normal((3000, dim)).astype(np.float32)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(count, dim))
    for start in range(0, count, 16_384):
        size = min(16_384, count - start)
        sites = generator.standard_normal((size // SITES_SIBLINGS + 1, dim), dtype=np.float32)
        sites += regions[generator.integers(0, 3000, len(sites))]
        block = np.repeat(sites, SITES_SIBLINGS, axis=0)[:size]
        block += 0.6 * generator.standard_normal(block.shape, dtype=np.float32)
        block = block @ basis
        out[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    out.flush()
    return np.load(path, mmap_mode="r")


def timed(search, queries: np.ndarray, k: int, singles: int) -> tuple[float, float, np.ndarray]:  # noqa: ANN001
    """Return CPU milliseconds of a single query and per query of a batch of 64, and the rows found.

    CPU time is used because other processes on a shared machine increase wall-clock time.
    """
    search(queries[:1], k)
    started = time.process_time()
    for query in queries[:singles]:
        search(query[None], k)
    one = (time.process_time() - started) / singles * 1000
    started = time.process_time()
    found = np.concatenate([search(queries[s : s + 64], k)[1] for s in range(0, len(queries), 64)])
    return one, (time.process_time() - started) / len(queries) * 1000, found


def usearch_rows(vectors: np.ndarray, dim: int, threads: int):  # noqa: ANN201
    """Return the search of a usearch HNSW index of int8 vectors and its bytes per tile; None without usearch."""
    try:
        from usearch.index import Index
    except ImportError:
        return None
    index = Index(ndim=dim, metric="ip", dtype="i8", expansion_search=256)
    for start in range(0, len(vectors), 16_384):
        index.add(
            np.arange(start, min(start + 16_384, len(vectors))),
            vectors[start : start + 16_384].astype(np.float32),
            threads=threads,
        )

    def search(queries: np.ndarray, k: int):  # noqa: ANN202
        found = index.search(queries, k, threads=threads)
        return found.distances, np.atleast_2d(found.keys)

    return search, index.serialized_length / len(vectors)


def kinds(vectors: np.ndarray) -> dict[str, Callable[[], tuple[Any, float] | None]]:
    """Return a build function per method: it returns search and bytes per tile, or None if a package is missing."""
    dim = vectors.shape[1]

    def exact() -> tuple[Any, float]:
        return Searcher([Part(vectors)]).search, 2 * dim

    def flat() -> tuple[Any, float]:
        index = faiss.IndexFlatIP(dim)
        for start in range(0, len(vectors), 16_384):
            index.add(vectors[start : start + 16_384].astype(np.float32))
        return index.search, 4 * dim

    def scan() -> tuple[Any, float]:
        made = build_scan(vectors)
        searcher = Searcher([Part(vectors, scan=made, depth=measure_depth(vectors, made)["depth"])])
        return searcher.search, 2 * dim + sum(len(faiss.serialize_index(index)) for index in made) / len(vectors)

    def hnsw() -> tuple[Any, float] | None:
        return usearch_rows(vectors, dim, THREADS)

    return {"fp16 (exact)": exact, "faiss flat": flat, "compressed scan": scan, "usearch": hnsw}


def measure(
    tiles: int, dim: int, queries: int = 512, singles: int = 50, skip: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yield a row for each method; the first is exact and is the reference for recall."""
    with tempfile.TemporaryDirectory() as folder:
        vectors = descriptors(tiles, dim, Path(folder) / "descriptors.npy")
        asked, exact = sample_queries(vectors, queries), None
        for name, build in kinds(vectors).items():
            if name in skip:
                continue
            started = time.process_time()
            made = build()
            if made is None:
                continue
            seconds = time.process_time() - started
            one, batch, found = timed(made[0], asked, 10, singles)
            exact = found if exact is None else exact
            both = zip(exact.tolist(), found.tolist(), strict=True)
            yield {
                "kind": name,
                "build_cpu_s": seconds,
                "bytes_a_tile": made[1],
                "cpu_ms_one": one,
                "cpu_ms_batch_64": batch,
                "recall_at_1": float((exact[:, 0] == found[:, 0]).mean()),
                "recall_at_10": float(np.mean([len(set(a) & set(b)) / 10 for a, b in both])),
            }
            del made  # free the memory for the next method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--singles", type=int, default=50, help="number of queries measured one at a time")
    parser.add_argument("--skip", nargs="*", default=[], help='methods to skip, e.g. "faiss flat" usearch')
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    given = parser.parse_args()
    rows = []
    for row in measure(given.tiles, given.dim, given.queries, given.singles, given.skip):
        rows.append(row)
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    peak = peak_mb() / 1024
    print(f"{given.tiles:,} x {given.dim}, {THREADS} threads, peak memory {peak:.1f} GB")
    if given.out:
        write_json(given.out, {"tiles": given.tiles, "dim": given.dim, "rows": rows})


if __name__ == "__main__":
    main()
