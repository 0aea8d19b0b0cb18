"""Cost of planning the batches of an epoch at the size of VIGOR, and their difficulty over the epoch.

    OMP_NUM_THREADS=1 python benchmarks/epoch_plan.py [--pairs 105214] [--batch-size 256] [--pool 128]

Positions are drawn around 600 centres. Times are CPU seconds of this process, which other load affects little. The same
epoch is planned by our rules and by the published rules; the script prints the distance to the nearest negative of a
batch in the first and in the last quarter of the epoch.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from gengeo_hf.learning import HardNegativeBatchSampler, Pairs, Rules
from gengeo_hf.learning.neighbours import great_circle_neighbours
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


RULES = {
    "our rules": Rules,
    "our rules without back-fill": partial(Rules, backfill=False),
    "published rules": Rules.sample4geo,
}
TABLE_GOAL, PLAN_GOAL = 20, 3  # CPU seconds, at 105,214 pairs


def measure(pairs: int, batch_size: int = 256, pool: int = 128, names: Sequence[str] = tuple(RULES)) -> dict[str, Any]:
    """CPU seconds of the table of neighbours and of each plan, with statistics of the plan."""
    lat_lon = towns(pairs, np.random.default_rng(0))
    ids = [f"place-{number}" for number in range(pairs)]
    started = time.process_time()
    table = great_circle_neighbours(ids, lat_lon[:, 0], lat_lon[:, 1], pool)
    found: dict[str, Any] = {"table_cpu_s": time.process_time() - started, "plans": {}}
    for name in names:
        sampler = HardNegativeBatchSampler(Pairs(np.arange(pairs), None, lat_lon), RULES[name](batch_size))
        sampler.set_tables(geographic=table.neighbours)
        started = time.process_time()
        plan = sampler.plan()
        seconds = time.process_time() - started
        first, last = quarters(sampler)
        found["plans"][name] = {
            "cpu_s": seconds,
            "anchors": plan.anchors / len(plan.batches),
            "dropped": plan.dropped,
            "first_m": first,
            "last_m": last,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=105_214)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--pool", type=int, default=128, help="K, columns of the neighbour table")
    given = parser.parse_args()
    found = measure(given.pairs, given.batch_size, given.pool)
    print(f"GPS table, {given.pairs:,} places, K = {given.pool}: {found['table_cpu_s']:.1f} CPU-s (goal: {TABLE_GOAL})")
    for name, plan in found["plans"].items():
        print(
            f"{name}: epoch plan {plan['cpu_s']:.1f} CPU-s (goal: {PLAN_GOAL}), {plan['anchors']:.1f} anchors "
            f"a batch, {plan['dropped']} of {given.pairs:,} pairs dropped; nearest negative {plan['first_m']:,.0f} m "
            f"away in the first quarter, {plan['last_m']:,.0f} m in the last"
        )


if __name__ == "__main__":
    main()
