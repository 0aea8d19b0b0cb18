"""Speed of rendering the synthetic world, and time of its parts.

    python benchmarks/draw_world.py --pairs 600

Prints pairs per second with one process for each core, and the CPU time of the parts of a pair in one process. Run it
on an idle machine; absolute values depend on the machine.
"""

import argparse
import os
import tempfile
import time

from gengeo_hf.world import build_world
from gengeo_hf.world.regions import Region
from gengeo_hf.world.shards import encode, samples_for

GROUND, AERIAL = (42, 168), (70, 70)  # pixels


def parts(domain: str, pairs: int) -> dict[str, float]:
    """CPU milliseconds of a pair: layout of its region, rendering of both views, encoding."""
    clock = time.process_time
    region = Region(domain, "train", 1, 0)
    started = clock()
    places = region.camera_positions(150)
    tiles = [place.tiles[0] for place in places]
    laid_out = clock()
    above = [region.draw_aerial(tile, AERIAL, samples_for(AERIAL)).image for tile in tiles[:pairs]]
    seen = clock()
    street = [region.draw_ground(place, GROUND, samples_for(GROUND)).image for place in places[:pairs]]
    drawn = clock()
    for image in (*above, *street):
        encode(image)
    done = clock()
    return {
        "layout": 1000 * (laid_out - started) / len(places),
        "aerial": 1000 * (seen - laid_out) / len(above),
        "ground": 1000 * (drawn - seen) / len(street),
        "encoding": 1000 * (done - drawn) / len(street),
    }


def built(domain: str, pairs: int) -> float:
    """Clock seconds of rendering and storing pairs with one process for each core, including their start."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        build_world(domain, "train", pairs, seed=1, cache_dir=folder)
        return time.perf_counter() - started


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", default="urban")
    parser.add_argument(
        "--pairs", type=int, default=600, help="number of pairs; use a multiple of 150, the pairs of a region"
    )
    given = parser.parse_args()
    seconds = built(given.domain, given.pairs)
    print(f"{given.pairs / seconds:.1f} pairs/s on {os.cpu_count()} cores (start of the processes included)")
    cost = parts(given.domain, 100)
    print(", ".join(f"{name} {value:.1f} ms" for name, value in cost.items()))
    print(f"{sum(cost.values()):.1f} ms CPU a pair")


if __name__ == "__main__":
    main()
