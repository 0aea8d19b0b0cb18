"""Time of ranks relative to the matrix product of the same blocks, and their memory.

    python benchmarks/ranks.py --queries 20000 --tiles 20000 --dim 1024 [--noise 1] [--semi-positives 3] [--device cuda]

Both run in turns, one block of queries at a time, in one process. The reported value is the median of the ratios of the
turns, for clock time and for CPU time, which other load affects less. Memory is the peak of the process beyond the
descriptors. It does not grow with the size: a block of queries against a block of tiles takes 64 MB, and about 200
bytes are stored for each query. The last line extrapolates to the test set of CVACT (92,802 x 92,802) by the number of
products, which is not a measurement.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from measuring import peak_mb

from gengeo_hf.evaluation import scan

CVACT_TEST = 92_802
BLOCK = (2048, 8192)  # the default of `scan`


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare_product(queries: np.ndarray, gallery: torch.Tensor | np.ndarray, device: torch.device) -> None:
    """Compute only the matrix product, in the blocks of `scan`."""
    buffer = torch.empty(0, device=device)
    for number in range(0, len(queries), BLOCK[0]):
        part = torch.as_tensor(queries[number : number + BLOCK[0]], device=device)
        for first in range(0, len(gallery), BLOCK[1]):
            tiles = torch.as_tensor(gallery[first : first + BLOCK[1]], device=device)
            if buffer.shape != (len(part), len(tiles)):
                buffer = torch.empty(len(part), len(tiles), device=device)
            torch.mm(part, tiles.T, out=buffer)


def measure(
    asked: int,
    tiles: int,
    dim: int = 1024,
    noise: float = 0.06,
    semi_positives: int = 0,
    device_name: str = "cpu",
) -> dict[str, Any]:
    """Clock and CPU seconds of both, (turns, 2), and memory in MB beyond the descriptors."""
    device = torch.device(device_name)
    generator = np.random.default_rng(0)
    gallery = generator.standard_normal((tiles, dim), dtype=np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    rows = generator.integers(0, tiles, asked)
    queries = generator.standard_normal((asked, dim), dtype=np.float32) * np.float32(noise)
    for start in range(0, asked, 4096):  # in parts, so that creating them does not set the peak
        queries[start : start + 4096] += gallery[rows[start : start + 4096]]
    semi = (rows[:, None] + 1 + np.arange(semi_positives)) % tiles if semi_positives else None
    there: Any = (gallery, queries)
    if device.type == "cuda":  # as in an evaluation on one GPU
        there = tuple(torch.from_numpy(a).to(device) for a in there)
    gallery_there, queries_there = there
    before = peak_mb()
    bare_product(queries_there[:64], gallery_there[:64], device)  # starts the threads
    taken: dict[str, list[tuple[float, float]]] = {"bare": [], "ranks": []}
    for start in range(0, asked, BLOCK[0]):
        part = slice(start, start + BLOCK[0])
        own = None if semi is None else semi[part]
        work = {
            "bare": lambda part=part: bare_product(queries_there[part], gallery_there, device),
            "ranks": lambda part=part, own=own: scan(
                queries_there[part], gallery_there, rows[part], semi_positive_rows=own, top=5
            ),
        }
        for name in ("bare", "ranks") if start // BLOCK[0] % 2 else ("ranks", "bare"):
            wall, cpu = time.perf_counter(), time.process_time()
            work[name]()
            finish(device)
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    found: dict[str, Any] = {name: np.array(times) for name, times in taken.items()}
    found["memory_mb"] = peak_mb() - before
    if device.type == "cuda":
        held = (gallery_there.nbytes + queries_there.nbytes) / 2**20
        found["device_mb"] = torch.cuda.max_memory_allocated(device) / 2**20 - held
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--noise", type=float, default=0.06, help="0.06: nearly all queries are found; 1: nearly none")
    parser.add_argument("--semi-positives", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    found = measure(given.queries, given.tiles, given.dim, given.noise, given.semi_positives, given.device)
    print(f"{given.queries} x {given.tiles} x {given.dim} on {given.device}, {torch.get_num_threads()} threads")
    bare, ranked = found["bare"], found["ranks"]
    for which, clock in enumerate(("wall clock", "processor")):
        ratios = ranked[:, which] / bare[:, which]
        print(
            f"{clock}: bare product {bare[:, which].sum():.1f} s, ranks and top-5 {ranked[:, which].sum():.1f} s; "
            f"ratio of {len(ratios)} turns: median {np.median(ratios):.2f}, worst {ratios.max():.2f}"
        )
    print(f"peak memory beyond the descriptors: {found['memory_mb']:.0f} MB of host memory")
    if "device_mb" in found:
        print(f"and {found['device_mb']:.0f} MB on the device")
    scale = CVACT_TEST**2 / (given.queries * given.tiles) * 1024 / given.dim
    minutes = ranked[:, 0].sum() * scale / 60
    print(f"extrapolated to {CVACT_TEST} x {CVACT_TEST} x 1024: {minutes:.0f} minutes, not measured")


if __name__ == "__main__":
    main()
