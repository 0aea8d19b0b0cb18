"""What the ranks cost beside the bare matrix product of the same blocks, and how much memory they take.

    python benchmarks/ranks.py --queries 20000 --tiles 20000 --dim 1024 [--semi-positives 3] [--device cuda]

Both are run in turn, some thousand queries at a time, in one process: neighbours on the machine slow both alike. The
memory is the peak of the process beyond what the descriptors took, so start it with `OMP_NUM_THREADS` as you would
evaluate. The last line extrapolates to the test set of CVACT (92,802 x 92,802) by the number of products: it is
arithmetic, not a measurement.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch

from gengeo_hf.evaluation import scan

CVACT_TEST = 92_802
BLOCK = (2048, 8192)  # the default of `scan`
ROUND = 4 * BLOCK[0]  # queries of one turn: what is done once for a whole gallery is shared by several blocks


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare_product(queries: np.ndarray, gallery: torch.Tensor | np.ndarray, device: torch.device) -> float:
    """Seconds of the matrix product alone, in the blocks of `scan`."""
    start = time.perf_counter()
    buffer = torch.empty(0, device=device)
    for number in range(0, len(queries), BLOCK[0]):
        part = torch.as_tensor(queries[number : number + BLOCK[0]], device=device)
        for first in range(0, len(gallery), BLOCK[1]):
            tiles = torch.as_tensor(gallery[first : first + BLOCK[1]], device=device)
            if buffer.shape != (len(part), len(tiles)):
                buffer = torch.empty(len(part), len(tiles), device=device)
            torch.mm(part, tiles.T, out=buffer)
    finish(device)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--semi-positives", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    device = torch.device(given.device)
    generator = np.random.default_rng(0)
    gallery = generator.standard_normal((given.tiles, given.dim), dtype=np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    rows = generator.integers(0, given.tiles, given.queries)
    queries = generator.standard_normal((given.queries, given.dim), dtype=np.float32) * np.float32(0.06)
    for start in range(0, given.queries, 4096):  # in parts, so that making them does not set the peak
        queries[start : start + 4096] += gallery[rows[start : start + 4096]]
    semi = None
    if given.semi_positives:
        semi = (rows[:, None] + 1 + np.arange(given.semi_positives)) % given.tiles
    if device.type == "cuda":  # as an evaluation on one GPU would hold them
        gallery_there, queries_there = (torch.from_numpy(a).to(device) for a in (gallery, queries))
    else:
        gallery_there, queries_there = gallery, queries
    before = peak_mb()
    bare, ranked = [], []
    bare_product(queries_there[:64], gallery_there[:64], device)  # wakes the threads
    for start in range(0, given.queries, ROUND):
        part = slice(start, start + ROUND)
        bare.append(bare_product(queries_there[part], gallery_there, device))
        begin = time.perf_counter()
        scan(
            queries_there[part],
            gallery_there,
            rows[part],
            semi_positive_rows=None if semi is None else semi[part],
            top=5,
        )
        finish(device)
        ranked.append(time.perf_counter() - begin)
    ratios = [b / a for a, b in zip(bare, ranked, strict=True)]
    print(f"{given.queries} x {given.tiles} x {given.dim} on {device}, {torch.get_num_threads()} threads")
    print(f"bare product {sum(bare):.1f} s, ranks and top-5 {sum(ranked):.1f} s: ratio {sum(ranked) / sum(bare):.2f}")
    print(f"ratio by turns of {ROUND} queries: median {statistics.median(ratios):.2f}, worst {max(ratios):.2f}")
    print(f"peak memory beyond the descriptors: {peak_mb() - before:.0f} MB of host memory")
    if device.type == "cuda":
        held = (gallery_there.nbytes + queries_there.nbytes) / 2**20
        print(f"and {torch.cuda.max_memory_allocated(device) / 2**20 - held:.0f} MB on the device")
    scale = CVACT_TEST**2 / (given.queries * given.tiles) * 1024 / given.dim
    print(f"extrapolated to {CVACT_TEST} x {CVACT_TEST} x 1024: {sum(ranked) * scale / 60:.0f} minutes, not measured")


if __name__ == "__main__":
    main()
