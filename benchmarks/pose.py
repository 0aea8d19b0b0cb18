"""Position and heading inside the true tile on the synthetic world: errors and times, for all heading priors and seeds.

    OMP_NUM_THREADS=1 python benchmarks/pose.py --model demo/gengeo-world-urban --cache demo/world --work pose_heads
    OMP_NUM_THREADS=1 python benchmarks/pose.py --model demo/gengeo-world-urban --quick --work quick_heads
    OMP_NUM_THREADS=1 python benchmarks/pose.py --times

Fits a head on the frozen encoder for each heading prior and seed on 4,500 urban training pairs, and one on an encoder
with random weights for the first seed, because both views of this world have the same colours. Test photos are up to
15.8 m from the centre of their tile. Existing heads in --work are not fitted again. Times are CPU time of one thread
for the head, without the encoder. All data are synthetic.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Figure, machine

from gengeo_hf.common.files import write_json, write_text
from gengeo_hf.data import load_pairs
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation.pose import evaluate_pose
from gengeo_hf.pose.estimate import estimate_samples
from gengeo_hf.pose.fitting import FitSettings, fit_head
from gengeo_hf.pose.geometry import column_azimuths, positions_of
from gengeo_hf.pose.head import PRIORS, PoseConfig, PoseHead
from gengeo_hf.pose.posterior import poses_of, to_posterior
from gengeo_hf.pose.random_encoder import random_encoder
from gengeo_hf.pose.samples import PosePairs, Samples, draw_samples, plain_plans

TRAINING_PAIRS, SHIFT_M, NARROW = 4500, 15.8, (90.0, 70.0)
BATCH, ALONE = 128, 100  # timed pairs in a batch, and timed calls with one pair
# Section and value -> goal; other values have no goal.
GOALS = {
    ("urban, known", "median_m"): "<= 1.9",
    ("urban, known", "within_5_m"): ">= 92",
    ("urban, 45", "median_m"): "<= 2.1",
    ("urban, 45", "median_deg"): "<= 4.2",
    ("urban, 180", "median_m"): "<= 2.6",
    ("urban, 180", "median_deg"): "<= 4.5",
    ("rural, known", "median_m"): "<= 3.3",
    ("off-centre, known", "median_m"): "<= 2.3",
    ("off-centre, known", "within_5_m"): ">= 88",
    ("search, urban, known", "median_m"): "<= 2.6",
    ("time, known", "batch_ms"): "<= 0.1",
    ("time, known", "alone_ms"): "<= 1",
    ("time, 180", "alone_ms"): "<= 3",
}
COVERED = (60, 78)  # percent of urban photos inside the 68 % radius
UNITS = {
    "batch_ms": "ms",
    "alone_ms": "ms",
    "median_m": "m",
    "mean_m": "m",
    "within_5_m": "%",
    "median_deg": "degrees",
    "within_10_deg": "%",
}


class Tests:
    """Test worlds, rendered on first use."""

    def __init__(self, cache: str | None, photos: int) -> None:
        self.cache, self.photos, self._found = cache, photos, {}

    def __getitem__(self, domain: str) -> Any:
        """Test pairs of a domain, with photos off the centre of their tile."""
        if domain not in self._found:
            shift = {} if domain == "offcenter" else {"tile_shift_m": SHIFT_M}
            self._found[domain] = load_pairs(f"world-{domain}", self.cache, "test", num_pairs=self.photos, **shift)
        return self._found[domain]


def fitted(encoder: Encoder, train: Any, folder: Path, settings: FitSettings) -> PoseHead:
    """Load the head of a prior and seed, or fit it."""
    if not (folder / "config.json").is_file():
        fit_head(
            encoder, train, folder, settings, random_baseline=False, progress=lambda line: print(" ", line, flush=True)
        )
    return PoseHead.from_pretrained(folder).eval()


def cases_of(prior: str) -> dict[str, tuple[str, float]]:
    """Name of a case -> domain and field of view; other domains only for a known heading."""
    cases = {f"urban, {prior}": ("urban", 360.0)}
    if prior == "known":
        cases |= {"rural, known": ("rural", 360.0), "off-centre, known": ("offcenter", 360.0)}
    if prior != "180":
        cases |= {f"urban, {prior}, field of view {fov:.0f}": ("urban", fov) for fov in NARROW}
    return cases


def measure(encoder: Encoder, train: Any, tests: Tests, name: str, settings: FitSettings, work: Path) -> dict[str, Any]:
    """Results of one head by case, and its times; existing results are read."""
    path = work / f"{name}.json"
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    prior = settings.heading_prior
    head = fitted(encoder, train, work / name, settings)
    found: dict[str, Any] = {
        case: evaluate_pose(encoder, tests[domain], prior, head=head, fov=fov)
        for case, (domain, fov) in cases_of(prior).items()
    }
    found[f"time, {prior}"] = times(head, drawn_samples(encoder, tests, head))
    write_json(path, found)
    return found


@torch.inference_mode()
def answer(head: PoseHead, samples: Samples, rows: slice) -> None:
    """Compute poses from tokens, as in localisation."""
    queries, keys = head.queries(samples.ground[rows].float()), head.keys(samples.aerial[rows].float())
    scores = head.scores(queries, keys, samples.layout, samples.azimuths, samples.headings)
    poses_of(to_posterior(scores, positions_of(samples.layout), samples.headings))


def searched(encoder: Encoder, tests: Tests, prior: str, work: Path) -> dict[str, Any]:
    """Results of the search without a head: 25 tiles for a known heading, else 49 tiles and 21 rolls."""
    path = work / f"search-{prior}.json"
    if not path.is_file():
        write_json(path, evaluate_pose(encoder, tests["urban"], prior))
    return dict(json.loads(path.read_text(encoding="utf-8")))


def times(head: PoseHead, samples: Samples) -> dict[str, float]:
    """CPU milliseconds of the head for one pair, in batches and in single calls."""
    estimate_samples(head, samples)  # the geometry is cached

    def cpu_ms(work: Callable[[], None], repeats: int) -> float:
        taken = []
        for _ in range(repeats):
            started = time.process_time()
            work()
            taken.append(1000 * (time.process_time() - started))
        return float(np.median(taken))

    whole = cpu_ms(lambda: answer(head, samples, slice(None)), 5)
    return {"batch_ms": whole / len(samples), "alone_ms": cpu_ms(lambda: answer(head, samples, slice(0, 1)), ALONE)}


def drawn_samples(encoder: Encoder, tests: Tests, head: PoseHead) -> Samples:
    """Draw one batch of test pairs."""
    pairs = PosePairs.of(tests["urban"], encoder.processor)
    plan = plain_plans(pairs, np.arange(min(BATCH, len(pairs))))[0]
    return draw_samples(encoder, head, pairs, plan, np.random.default_rng(0))


def bare_times(prior: str) -> dict[str, float]:
    """Times for random tokens in the shapes of the demo model; they do not depend on weights."""
    head = PoseHead(PoseConfig(token_dim=96, ground_rows=3, heading_prior=prior, tile_m=[40.0, 90.0])).eval()
    layout, headings = head.layout((65.0, 65.0), (5, 5)), head.config.headings
    ground, aerial = torch.randn(BATCH, 3, 12, 96), torch.randn(BATCH, 25, 96)
    empty = torch.empty(BATCH, 0, dtype=torch.int64)
    nowhere = torch.zeros(BATCH, 2), torch.zeros(BATCH)
    return times(head, Samples(ground, aerial, *nowhere, layout, column_azimuths(12, 360.0), headings, empty))


def figures_of(case: str, seeds: list[dict[str, Any]], blank: dict[str, Any] | None) -> list[Figure]:
    """Values of one case; the goal applies to the worst seed.

    Args:
        case: Name of a case of `cases_of`, or of a search or times.
        seeds: Results of each seed.
        blank: Results with the encoder of random weights; None if there are none.
    """
    found = []
    for key, unit in UNITS.items():
        values = [result.get(key) for result in seeds]
        if None in values:
            continue
        worst = min(values) if key.startswith("within") else max(values)
        notes = ["seeds " + ", ".join(f"{value:.2f}" for value in values)] if len(values) > 1 else []
        notes += (
            [f"random-weight encoder {blank[key]:.2f}"] if blank is not None and not case.startswith("time") else []
        )
        found.append(Figure(case, key, worst, unit, goal=GOALS.get((case, key), ""), note="; ".join(notes)))
    if "radii" in seeds[0]:
        shares = [result["radii"]["0.68"]["covered"] for result in seeds]
        note = "seeds " + ", ".join(f"{share:.0f}" for share in shares)
        if case == "urban, known":
            met = all(COVERED[0] <= share <= COVERED[1] for share in shares)
            note += f"; goal {COVERED[0]} to {COVERED[1]}: {'met' if met else 'missed'}"
        found.append(Figure(case, "68 % radius covers", shares[0], "%", note=note))
    return found


def as_markdown(figures: list[Figure], given: argparse.Namespace) -> str:
    """Format the report in Markdown, with the worst of the seeds."""
    lines = [
        "# Position and heading on the synthetic world",
        "",
        f"Written by `python benchmarks/pose.py --model MODEL --seeds {' '.join(map(str, given.seeds))}`: "
        f"{given.photos} test photos, worst of the seeds. Synthetic: both views have the same colours.",
        "",
        "| case | figure | value | goal | met | note |",
        "| --- | --- | ---: | --- | --- | --- |",
    ]
    for one in figures:
        met = {True: "yes", False: "no", None: ""}[one.met]
        lines.append(f"| {one.section} | {one.what} | {one.value:.2f} {one.unit} | {one.goal} | {met} | {one.note} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fit, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument(
        "--times", action="store_true", help="only measure the times of heads with random weights, which takes seconds"
    )
    parser.add_argument("--cache", help="directory of rendered worlds")
    parser.add_argument("--work", type=Path, help="directory of the fitted heads")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--priors", nargs="+", default=list(PRIORS), choices=list(PRIORS))
    parser.add_argument("--no-random", action="store_true", help="leave the encoder with random weights out")
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--out", type=Path, help="directory of pose.json and pose.md; default: print only")
    parser.add_argument("--quick", action="store_true", help="small sizes, to test the script")
    given = parser.parse_args()
    if given.times:
        torch.set_num_threads(1)
        for prior in given.priors:
            found = figures_of(f"time, {prior}", [bare_times(prior)], None)
            print(prior, json.dumps([figure.plain() for figure in found]), flush=True)
        return
    if given.model is None or given.work is None:
        parser.error("give --model and --work, or --times")
    pairs, steps = (60, 3) if given.quick else (TRAINING_PAIRS, FitSettings.steps)
    given.photos = 8 if given.quick else given.photos
    given.work.mkdir(parents=True, exist_ok=True)
    train = load_pairs("world-urban", given.cache, "train", num_pairs=pairs)
    encoder, tests = Encoder.from_pretrained(given.model, device="cpu"), Tests(given.cache, given.photos)
    results: dict[str, list[dict[str, Any]]] = {}
    blanks: dict[str, dict[str, Any]] = {}
    for seed in given.seeds:
        for prior in given.priors:
            settings = FitSettings(prior, pairs=pairs, steps=steps, seed=seed)
            for case, result in measure(encoder, train, tests, f"{prior}-{seed}", settings, given.work).items():
                results.setdefault(case, []).append(result)
                print(case, seed, json.dumps(result), flush=True)
    for prior in given.priors:
        results[f"search, urban, {prior}"] = [searched(encoder, tests, prior, given.work)]
    for prior in given.priors if not given.no_random else ():
        settings = FitSettings(prior, pairs=pairs, steps=steps, seed=given.seeds[0])
        blanks |= measure(random_encoder(encoder), train, tests, f"{prior}-random", settings, given.work)
    figures = [one for case, seeds in results.items() for one in figures_of(case, seeds, blanks.get(case))]
    print(as_markdown(figures, given))
    print(f"{time.process_time():.0f} CPU seconds with {os.cpu_count()} cores")
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        plain = {
            "machine": machine(),
            "figures": [figure.plain() for figure in figures],
            "results": results,
            "random": blanks,
        }
        write_json(given.out / "pose.json", json.loads(json.dumps(plain)))
        write_text(given.out / "pose.md", as_markdown(figures, given))


if __name__ == "__main__":
    main()
