"""Memory and time of mining: neighbours of 105,214 x 1024 descriptors (VIGOR's size).

    OMP_NUM_THREADS=2 python benchmarks/mining.py [--pairs 105214] [--dim 1024] [--device cuda] [--part 4096]

The peak of the process is compared with its peak after the descriptors have been made: mining may take 500 MB beyond
them. `--part` asks only for so many photos (against all tiles) and extrapolates the time by the number of
products: arithmetic, not a measurement. The memory does not depend on it, but for the result (4 bytes x K a photo).
"""

import argparse
import resource
import time

import numpy as np

from gengeo_hf.learning import similar_tiles


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=105_214)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--pool", type=int, default=128)
    parser.add_argument("--part", type=int, help="photos that ask; all without it")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    generator = np.random.default_rng(0)
    ground, aerial = (np.empty((given.pairs, given.dim), np.float32) for _ in range(2))
    for table in (ground, aerial):
        for first in range(0, given.pairs, 4096):  # in blocks, or making them would set the peak
            block = generator.standard_normal(table[first : first + 4096].shape, dtype=np.float32)
            table[first : first + 4096] = block / np.linalg.norm(block, axis=1, keepdims=True)
    own = np.arange(given.pairs)
    similar_tiles(ground[:64], aerial[:4096], own[:64], given.pool, device=given.device)  # loads the libraries
    before, started = peak_mb(), (time.perf_counter(), time.process_time())
    part = given.part or given.pairs
    found = similar_tiles(ground[:part], aerial, own[:part], given.pool, device=given.device)
    wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    descriptors = 2 * ground.nbytes / 2**20
    print(
        f"{given.pairs:,} x {given.dim} descriptors of both views: {descriptors:,.0f} MB; mining added "
        f"{peak_mb() - before:,.0f} MB to the peak of {before:,.0f} MB (goal: at most 500), the table holds "
        f"{found.nbytes / 2**20:.0f} MB of them"
    )
    whole = given.pairs / part
    print(
        f"{part:,} photos against all tiles on {given.device}: {wall:.1f} s, {cpu:.1f} CPU-s"
        + (f"; all would take {whole * cpu:,.0f} CPU-s by the number of products" if whole > 1 else "")
    )


if __name__ == "__main__":
    main()
