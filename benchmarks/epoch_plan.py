"""What the batches of VIGOR's size cost to lay out, on one core, and whether they stay hard to the end of an epoch.

    OMP_NUM_THREADS=1 python benchmarks/epoch_plan.py [--pairs 105214] [--batch-size 256] [--pool 128]

Places are drawn around 600 centres, as towns are. Times are those of this process (CPU seconds), so that neighbours on
the machine disturb them little. The second part lays out the same epoch by our rules and by the published ones and
prints the distance to the nearest negative of a batch in the first and in the last quarter of the epoch.
"""

import argparse
import json
import time

import numpy as np

from gengeo_hf.data.neighbours import great_circle_neighbours
from gengeo_hf.learning import HardNegativeBatchSampler, Pairs, Rules
from gengeo_hf.learning.sampler import _metres_between


def towns(count: int, generator: np.random.Generator) -> np.ndarray:
    """Latitude and longitude in degrees, (count, 2)."""
    centres = np.stack([generator.uniform(30, 48, 600), generator.uniform(-120, -75, 600)], axis=1)
    return centres[generator.integers(0, 600, count)] + generator.normal(0, 0.05, (count, 2))


def quarters(sampler: HardNegativeBatchSampler) -> tuple[float, float]:
    """Median metres to the nearest negative in the first and in the last quarter of the epoch."""
    batches, lat_lon = sampler.plan().batches, sampler.pairs.lat_lon
    metres = np.array([np.median(_metres_between(lat_lon[rows]).min(axis=1)) for rows in batches])
    quarter = max(1, len(metres) // 4)
    return float(np.median(metres[:quarter])), float(np.median(metres[-quarter:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=105_214)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--pool", type=int, default=128, help="K, columns of the neighbour table")
    given = parser.parse_args()
    lat_lon = towns(given.pairs, np.random.default_rng(0))

    started = time.process_time()
    ids = [f"place-{number}" for number in range(given.pairs)]
    table = great_circle_neighbours(ids, lat_lon[:, 0], lat_lon[:, 1], given.pool)
    print(f"GPS table, {given.pairs:,} places, K = {given.pool}: {time.process_time() - started:.1f} CPU-s (goal: 20)")

    pairs = Pairs(np.arange(given.pairs), None, lat_lon)
    for name, rules in (
        ("our rules", Rules(given.batch_size)),
        ("our rules without back-fill", Rules(given.batch_size, backfill=False)),
        ("published rules", Rules.sample4geo(given.batch_size)),
    ):
        sampler = HardNegativeBatchSampler(pairs, rules)
        sampler.set_tables(geographic=table.neighbours)
        started = time.process_time()
        plan = sampler.plan()
        seconds = time.process_time() - started
        first, last = quarters(sampler)
        print(
            f"{name}: epoch plan {seconds:.1f} CPU-s (goal: 3), {plan.anchors / len(plan.batches):.1f} anchors "
            f"a batch, {plan.dropped} of {given.pairs:,} pairs dropped; nearest negative {first:,.0f} m away in "
            f"the first quarter, {last:,.0f} m in the last; state {len(json.dumps(sampler.state_dict()))} bytes"
        )


if __name__ == "__main__":
    main()
