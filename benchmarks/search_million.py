"""Search over a million synthetic descriptors: our kinds beside exact FAISS (and usearch where it is installed).

    python benchmarks/search_million.py --tiles 1000000 --dim 1024

Data as in the measurements that chose the kinds: a mixture of regions in a random basis with a power-law spectrum, and
eight overlapping-tile siblings for each site. Queries are made-up other views of a tile, at cosine 0.65 to it, that
differ from it as tiles differ from one another. A million tiles of 1024 dimensions need 2 GB on disk and, for exact
FAISS, 4 GB of memory. Start it with OMP_NUM_THREADS=1 for the time of one core.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from gengeo_hf.common.files import write_json
from gengeo_hf.index.scan import build_scan, measure_depth, sample_queries
from gengeo_hf.index.search import THREADS, Part, Searcher

SITES_SIBLINGS = 8


def descriptors(count: int, dim: int, path: Path, seed: int = 0) -> np.ndarray:
    """Unit vectors, float16, written in blocks."""
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
    """CPU milliseconds for one query alone and for each of a batch of 64, and the rows found for all.

    CPU time, because neighbours on a shared machine stretch the clock's; on one quiet core the two are the same.
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
    """A usearch HNSW index of int8 vectors and its bytes a tile, or None where the package is missing."""
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
    """How each kind is built: gives its search and its bytes a tile, or None where its package is missing."""
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
    """A row for each kind as it is finished; the first is exact and sets the recall of the others."""
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
            del made  # the next kind needs the memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--singles", type=int, default=50, help="queries that are asked one by one")
    parser.add_argument("--skip", nargs="*", default=[], help='kinds to leave out, e.g. "faiss flat" usearch')
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    given = parser.parse_args()
    rows = []
    for row in measure(given.tiles, given.dim, given.queries, given.singles, given.skip):
        rows.append(row)
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{given.tiles:,} x {given.dim}, {THREADS} threads, peak memory {peak:.1f} GB")
    if given.out:
        write_json(given.out, {"tiles": given.tiles, "dim": given.dim, "rows": rows})


if __name__ == "__main__":
    main()
