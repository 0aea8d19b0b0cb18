"""Memory and time of mining: neighbours of 105,214 x 1024 descriptors (the size of VIGOR).

    OMP_NUM_THREADS=2 python benchmarks/mining.py [--pairs 105214] [--dim 1024] [--device cuda] [--part 4096]

The peak memory of the process is compared with the peak after the descriptors are created: mining may need 500 MB more.
`--part` searches the neighbours of only some photos (against all tiles) and extrapolates the time by the number of
products, which is not a measurement. Except for the result (4 bytes x K per photo), memory does not depend on it.
"""

import argparse
import time

import numpy as np
from measuring import peak_mb

from gengeo_hf.learning import similar_tiles

MEMORY_GOAL = 500  # MB beyond the descriptors


def measure(
    pairs: int, dim: int = 1024, pool: int = 128, part: int | None = None, device: str = "cpu"
) -> dict[str, float]:
    """Clock and CPU seconds of `part` photos against all tiles, and MB beyond the descriptors."""
    generator = np.random.default_rng(0)
    ground, aerial = (np.empty((pairs, dim), np.float32) for _ in range(2))
    for table in (ground, aerial):
        for first in range(0, pairs, 4096):  # in blocks, so that creating them does not set the peak
            block = generator.standard_normal(table[first : first + 4096].shape, dtype=np.float32)
            table[first : first + 4096] = block / np.linalg.norm(block, axis=1, keepdims=True)
    own = np.arange(pairs)
    similar_tiles(ground[:64], aerial[:4096], own[:64], pool, device=device)  # loads the libraries
    before, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
    asking = part or pairs
    found = similar_tiles(ground[:asking], aerial, own[:asking], pool, device=device)
    return {
        "clock_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "descriptors_mb": 2 * ground.nbytes / 2**20,
        "before_mb": before,
        "added_mb": peak_mb() - before,
        "table_mb": found.nbytes / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=105_214)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--pool", type=int, default=128)
    parser.add_argument("--part", type=int, help="number of photos whose neighbours are searched; default: all")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    found = measure(given.pairs, given.dim, given.pool, given.part, given.device)
    part = given.part or given.pairs
    print(
        f"{given.pairs:,} x {given.dim} descriptors of both views: {found['descriptors_mb']:,.0f} MB; mining added "
        f"{found['added_mb']:,.0f} MB to the peak of {found['before_mb']:,.0f} MB (goal: at most {MEMORY_GOAL}), the "
        f"table holds {found['table_mb']:.0f} MB of them"
    )
    whole = given.pairs / part
    print(
        f"{part:,} photos against all tiles on {given.device}: {found['clock_s']:.1f} s, {found['cpu_s']:.1f} CPU-s"
        + (f"; all would take {whole * found['cpu_s']:,.0f} CPU-s by the number of products" if whole > 1 else "")
    )


if __name__ == "__main__":
    main()
