"""Search over a million synthetic descriptors: our kinds beside exact FAISS (and usearch where it is installed).

    python benchmarks/search_million.py --tiles 1000000 --dim 1024

Data as in the measurements that chose the kinds: a mixture of regions in a random basis with a power-law spectrum, and
eight overlapping-tile siblings for each site. Queries are made-up other views of a tile, at cosine 0.65 to it, that
differ from it as tiles differ from one another. A million tiles of 1024 dimensions need 2 GB on disk and, for exact
FAISS, 4 GB of memory. Start it with OMP_NUM_THREADS=1 for the time of one core.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from gengeo_hf.places.search import THREADS, Searcher, sample_queries

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--singles", type=int, default=50, help="queries that are asked one by one")
    parser.add_argument("--skip", nargs="*", default=[], help="kinds to leave out, e.g. exact usearch")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        vectors = descriptors(arguments.tiles, arguments.dim, Path(folder) / "descriptors.npy")
        queries = sample_queries(vectors, arguments.queries)
        exact, rows = None, []

        def measure(name: str, build, size: float) -> None:  # noqa: ANN001
            nonlocal exact
            if name in arguments.skip:
                return
            started = time.process_time()
            search = build()
            if search is None:
                return
            if isinstance(search, tuple):
                search, size = search
            seconds = time.process_time() - started
            one, batch, found = timed(search, queries, 10, arguments.singles)
            exact = found if exact is None else exact
            top1 = float((exact[:, 0] == found[:, 0]).mean())
            top10 = float(
                np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
            )
            row = {"kind": name, "build_cpu_s": seconds, "bytes_a_tile": size, "cpu_ms_one": one,
                   "cpu_ms_batch_64": batch, "recall_at_1": top1, "recall_at_10": top10}  # fmt: skip
            rows.append(row)
            print(
                {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )

        dim = arguments.dim
        flat = faiss.IndexFlatIP(dim)
        measure("fp16 (exact)", lambda: Searcher("fp16", vectors).search, 2 * dim)

        def fill():  # noqa: ANN202
            for start in range(0, len(vectors), 16_384):
                flat.add(vectors[start : start + 16_384].astype(np.float32))
            return flat.search

        measure("faiss flat", fill, 4 * dim)
        flat.reset()

        def scan():  # noqa: ANN202
            searcher = Searcher("rabitq", vectors)
            return searcher.search, 2 * dim + len(faiss.serialize_index(searcher._index)) / len(vectors)

        measure("rabitq", scan, 0)
        measure("usearch", lambda: usearch_rows(vectors, dim, THREADS), 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{arguments.tiles:,} x {dim}, {THREADS} threads, peak memory {peak:.1f} GB")
        if arguments.out:
            arguments.out.write_text(json.dumps({"tiles": arguments.tiles, "dim": dim, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
