"""The demo (`make demo`): the whole workflow on the synthetic world.

Builds the urban world, trains a small GenGeo with `train.py`, evaluates it on 500 test photos of the urban world and of
two domains outside the training data, indexes the test gallery, locates some panoramas, and writes `report.html`,
`map.html` and `places.geojson`. A second run reuses finished results.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Lines

from demo_pose import PAIRS, VALIDATION
from demo_report import KS
from gengeo_hf.common.errors import GenGeoError, exit_on_error
from gengeo_hf.common.files import atomic_folder, write_json, write_text
from gengeo_hf.training.launch import run_training
from gengeo_hf.training.settings import CONFIGS

HERE = Path(__file__).resolve().parent
CONFIG = CONFIGS / "world_urban.yaml"
# 12 of 40 epochs, with a longer warm-up.
SHORT = ["optimisation.epochs=12", "optimisation.warmup=0.3", "evaluate_every=3"]
DOMAINS = ("urban", "rural", "offcenter")
TITLES = {"rural": "rural", "offcenter": "off-centre"}
PROBE_STEPS, PROBE_PAIRS = 6, 24
# Fractions of the time of a run that the probes measure: drawing places without starting processes and writing, and
# training steps without sampling, mining and validation.
DRAW_SHARE, STEP_SHARE = 0.6, 0.5
OTHER_STEPS = 800  # steps that take as long as evaluation, index, pose and page together
console = Console()


@dataclass(frozen=True)
class Folder:
    """Paths of the demo.

    Args:
        root: Directory of all results.
        places: Number of test photos of each domain.
    """

    root: Path
    places: int = 500

    @property
    def model(self) -> Path:
        """The checkpoint in Hub format."""
        return self.root / "gengeo-world-urban"

    @property
    def index(self) -> Path:
        """The index of the test gallery."""
        return self.root / "world.gengeo"


def main() -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="Directory of all results (default: demo).")
    parser.add_argument("--photos", type=int, default=6, help="Number of test panoramas to locate (default: 6).")
    parser.add_argument("--places", type=int, default=500, help="Number of test photos per domain (default: 500).")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Overrides of settings of world_urban.yaml.")
    given = parser.parse_args()
    folder, started = Folder(given.out, given.places), time.perf_counter()
    overrides = [*SHORT, *given.overrides]
    given.out.mkdir(parents=True, exist_ok=True)
    console.print(estimate_duration(folder, overrides), soft_wrap=True)

    stage("1/6 The synthetic world", lambda: build_worlds(folder, overrides))
    stage("2/6 Training", lambda: train(folder, overrides))
    results = stage("3/6 Evaluation on test photos", lambda: evaluate_model(folder))
    stage("4/6 Index of the test gallery", lambda: build_index(folder))
    stage("5/6 Position and heading inside the tiles", lambda: find_poses(folder, overrides))
    stage("6/6 Where are these photos?", lambda: locate_and_report(folder, given.photos, results))
    console.print(f"\n[bold green]Done[/] in {(time.perf_counter() - started) / 60:.1f} minutes.")
    console.print(next_steps(folder), markup=False, highlight=False, soft_wrap=True)  # commands to copy


def estimate_duration(folder: Folder, overrides: list[str]) -> str:
    """Estimate the minutes of the run from some rendered pairs and training steps on this machine."""
    from gengeo_hf.training.settings import load_settings

    if (folder.root / "results.json").is_file():
        return f"{folder.root} contains an earlier run: its finished results are reused."
    settings, cores = load_settings(CONFIG, overrides), os.cpu_count() or 1
    data, pairs = settings.data, settings.data.train["num_pairs"]
    steps = settings.optimisation.epochs * pairs / settings.sampling.batch_size
    drawn = pairs + data.validation["num_pairs"] + len(DOMAINS) * folder.places + VALIDATION
    seconds = drawn * pair_seconds(settings) / DRAW_SHARE / cores + (steps / STEP_SHARE + OTHER_STEPS) * step_seconds(
        settings
    )
    minutes = max(1, round(seconds / 60))
    return f"About {minutes} minute{'s' * (minutes > 1)} on {cores} cores without other load."


def pair_seconds(settings: Any) -> float:
    """Measure the CPU seconds of rendering one pair."""
    from gengeo_hf.world import build_world

    sizes: dict[str, Any] = {
        "ground_size": tuple(settings.data.ground_size),
        "aerial_size": tuple(settings.data.aerial_size),
    }
    with tempfile.TemporaryDirectory() as cache:
        build_world("urban", "test", 1, cache_dir=cache, workers=1, **sizes)  # warm-up
        started = time.process_time()
        build_world("urban", "test", PROBE_PAIRS, cache_dir=cache, workers=1, **sizes)
        return (time.process_time() - started) / PROBE_PAIRS


def step_seconds(settings: Any) -> float:
    """Measure the seconds of a training step on random pixels (augmentation, passes, optimizer): minimum of some."""
    import torch

    from gengeo_hf.learning import symmetric_info_nce
    from gengeo_hf.training.components import build_augmentation, build_model
    from gengeo_hf.training.step import build_optimizer

    model, augment, taken = build_model(settings), build_augmentation(settings), []
    optimizer, _ = build_optimizer(model, settings)
    sizes = {"ground": settings.data.ground_size, "aerial": settings.data.aerial_size}
    batch = {
        view: torch.randint(0, 256, (settings.sampling.batch_size, 3, *size), dtype=torch.uint8)
        for view, size in sizes.items()
    }
    for number in range(PROBE_STEPS):
        started = time.perf_counter()
        images = augment(batch, seed=(number,)) if augment else batch
        ground, aerial = (model(images[view] / 255, view=view).pooler_output for view in sizes)
        symmetric_info_nce(ground, aerial, model.logit_scale).backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.perf_counter() - started)
    return min(taken)


def stage(title: str, work: Callable[[], Any]) -> Any:
    """Run one stage under a heading, and print its duration."""
    console.rule(f"[bold]{title}", align="left")
    started = time.perf_counter()
    found = work()
    console.print(f"  [dim]{(time.perf_counter() - started) / 60:.1f} minutes[/]")
    return found


def build_worlds(folder: Folder, overrides: list[str]) -> None:
    """Render the training, validation and test pairs, unless they are cached."""
    from gengeo_hf.training.settings import load_settings
    from gengeo_hf.world import build_world

    data = load_settings(CONFIG, overrides).data
    sizes: dict[str, Any] = {"ground_size": tuple(data.ground_size), "aerial_size": tuple(data.aerial_size)}
    wanted = [("urban", "train", data.train["num_pairs"]), ("urban", "validation", data.validation["num_pairs"])]
    wanted += [(domain, "test", folder.places) for domain in DOMAINS]
    for domain, split, pairs in wanted:
        world = build_world(domain, split, pairs, cache_dir=folder.root / "world", progress=True, **sizes)
        console.print(f"  {world.name}: {len(world.queries):,} photos, {len(world.gallery):,} tiles")


def train(folder: Folder, overrides: list[str]) -> None:
    """Train with `accelerate launch training/train.py`."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--quiet"),  # quiet: no traceback of the launcher
        *("--num_cpu_threads_per_process", str(min(4, os.cpu_count() or 1))),  # the default is 1
        *(str(HERE / "train.py"), "--config", str(CONFIG)),
        *(f"output={folder.root / 'run'}", f"data.root={folder.root / 'world'}", *overrides),
    ]
    if run_training(command, {**os.environ, "TOKENIZERS_PARALLELISM": "false"}):
        raise GenGeoError("training stopped (see above); the same command continues from the last checkpoint")
    best = folder.root / "run" / "model"
    if not folder.model.exists() or digest(best) != digest(folder.model):
        with atomic_folder(folder.model) as target:
            shutil.copytree(best, target, dirs_exist_ok=True)


def digest(model: Path) -> str:
    """Return the SHA-256 of the weights of a checkpoint."""
    from gengeo_hf.common.files import sha256_of

    return sha256_of(model / "model.safetensors")


def test_world(folder: Folder, domain: str) -> Any:
    """Build the test split of a domain, at the image sizes of the model."""
    from gengeo_hf.model import GenGeoImageProcessor
    from gengeo_hf.world import build_world

    sizes = GenGeoImageProcessor.from_pretrained(folder.model).view_sizes
    ground, aerial = ((sizes[view]["height"], sizes[view]["width"]) for view in ("ground", "aerial"))
    cache = folder.root / "world"
    return build_world(
        domain, "test", folder.places, ground_size=ground, aerial_size=aerial, cache_dir=cache, progress=True
    )


def evaluate_model(folder: Folder) -> dict[str, dict[str, float]]:
    """Evaluate the model in three domains, and a model with random weights and colour histograms in the first."""
    import torch

    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.evaluation import evaluate
    from gengeo_hf.evaluation.baseline import histogram_ranks
    from gengeo_hf.model import GenGeoConfig, GenGeoModel

    path = folder.root / "results.json"
    if path.is_file():
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (stored["model"], stored.get("places")) == (digest(folder.model), folder.places):
            show_results(stored["results"])
            return dict(stored["results"])
    trained = Encoder.from_pretrained(folder.model)
    torch.manual_seed(0)  # the same random weights in every run
    blank = Encoder(GenGeoModel(GenGeoConfig.from_pretrained(folder.model)), trained.processor)
    results: dict[str, dict[str, float]] = {}
    for domain in DOMAINS:
        world = test_world(folder, domain)
        name = "urban, unseen places" if domain == "urban" else f"{TITLES[domain]}, a domain never seen"
        results[name] = numbers(evaluate(trained, world, show_progress_bar=True).metrics)
        if domain == "urban":
            results["random weights, urban"] = numbers(evaluate(blank, world).metrics)
            ranks = histogram_ranks(world)
            tiles = len(world.gallery)
            shares = {key: float(np.mean(ranks < k)) for key, k in zip(KS, (1, 5, 10, tiles // 100), strict=True)}
            results["colour histograms, urban"] = {**shares, "gallery_size": tiles}
    write_json(path, {"model": digest(folder.model), "places": folder.places, "results": results})
    show_results(results)
    return results


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Select the values of a result that the report shows."""
    return {key: result[key] for key in (*KS, "gallery_size")}


def show_results(results: dict[str, dict[str, float]]) -> None:
    """Print recall as a table."""
    lines = Lines(box=None, pad_edge=False)
    for heading in ("synthetic world", "R@1", "R@5", "R@10", "R@1%", "tiles"):
        lines.add_column(heading, justify="left" if heading == "synthetic world" else "right")
    for name, row in results.items():
        lines.add_row(name, *(f"{row[key]:.1%}" for key in KS), f"{row['gallery_size']:,}")
    console.print(lines)


def build_index(folder: Folder) -> None:
    """Index the test gallery, unless the index of this model exists."""
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index import GeoIndex

    encoder, world = Encoder.from_pretrained(folder.model), test_world(folder, "urban")
    if folder.index.exists():
        try:
            index = GeoIndex.load(folder.index)
            index.check_model(encoder)
            if len(index) == len(world.gallery):
                console.print(f"  {folder.index} is up to date")
                return
        except GenGeoError:
            pass  # an index of another model, or damaged
        shutil.rmtree(folder.index)
    index = GeoIndex.build(encoder, world, folder.index, progress=True, model_name=folder.model.name, overwrite=True)
    console.print(f"  {len(index):,} tiles in {folder.index}")


def find_poses(folder: Folder, overrides: list[str]) -> None:
    """Fit a pose head and evaluate it on the off-centre domain; writes `pose.json` and `pose.png`."""
    from demo_pose import measure_pose
    from gengeo_hf.training.settings import load_settings
    from gengeo_hf.world import build_world

    data, cache = load_settings(CONFIG, overrides).data, folder.root / "world"
    sizes: dict[str, Any] = {"ground_size": tuple(data.ground_size), "aerial_size": tuple(data.aerial_size)}
    train = build_world("urban", "train", min(PAIRS, data.train["num_pairs"]), cache_dir=cache, **sizes)

    def offcenter(split: str, places: int) -> Any:
        return build_world("offcenter", split, places, cache_dir=cache, progress=True, **sizes)

    found = measure_pose(folder.root, folder.model, train, offcenter, folder.places)
    console.print(
        f"  off-centre, a domain never seen: {found['median_m']:.1f} m in the true tile (its centre "
        f"{found['centre_median_m']:.1f} m), {found['within_5_m']:.0f} % within 5 m; among all tiles within 10 m: "
        f"{found['fused_within_10_m']:.1f} % (centre of the best tile {found['centre_within_10_m']:.1f} %)"
    )


def locate_and_report(folder: Folder, count: int, results: dict[str, dict[str, float]]) -> None:
    """Locate some test photos, and write the map, the GeoJSON and the report."""
    from demo_report import write_demo_report
    from gengeo_hf.common.metadata import PhotoPosition
    from gengeo_hf.data.loading import GroundImages
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.localization import GeoLocalizer
    from gengeo_hf.localization.localizer import to_geojson
    from gengeo_hf.localization.maps import answers_map

    world, encoder, index = (
        test_world(folder, "urban"),
        Encoder.from_pretrained(folder.model),
        GeoIndex.load(folder.index),
    )
    localizer = GeoLocalizer(encoder, index)
    photos = GroundImages(world)
    rows = np.linspace(0, len(photos) - 1, count).astype(int)
    shown = folder.root / "photos"
    shown.mkdir(exist_ok=True)
    answers = []
    for row in rows:
        query = {key: world.queries[int(row)][key] for key in ("query_id", "lat", "lon")}
        path = shown / f"{query['query_id'].replace('/', '-')}.png"
        photos[row].save(path)
        found = localizer.locate(photos[row], top=5, merge=False)
        position = PhotoPosition(query["lat"], query["lon"])
        answers.append(replace(found, photo=str(path), exif_position=position))
        best = found.places[0]
        console.print(
            f"  {path.name}: {best.lat:.5f}, {best.lon:.5f}, {answers[-1].exif_distance_m:.0f} m from the true position"
        )
    write_text(folder.root / "places.geojson", to_geojson(answers, localizer.caveat))
    page = answers_map(
        answers,
        index,
        title="True positions of the panoramas, and the places that GenGeo found",
        caveat=localizer.caveat,
    )
    write_text(folder.root / "map.html", page)
    write_demo_report(folder.root, world, encoder, answers, results, page, next_steps(folder), machine())


def machine() -> str:
    """Return a summary of the machine and of PyTorch."""
    import torch

    return f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, PyTorch {torch.__version__}"


def next_steps(folder: Folder) -> str:
    """Return commands that use the results of the demo."""
    gengeo = Path(sys.executable).parent / "gengeo"
    command = gengeo.relative_to(Path.cwd()) if gengeo.is_relative_to(Path.cwd()) else "gengeo"
    photo = next(iter(sorted((folder.root / "photos").glob("*.png"))), Path("photo.jpg"))
    return f"""
Open  {folder.root / "report.html"}  and  {folder.root / "map.html"}

Locate a photo:
  {command} locate {photo} --index {folder.index} --model {folder.model} --map where.html
  (with --pose --heading 0: its position and heading inside the tile)

Index your own imagery (a GeoTIFF, or a directory of tiles with a CSV of positions):
  {command} index ortho.tif --out city.gengeo --model {folder.model} --tile 60m --overlap 50%

Train longer, or change the model:
  accelerate launch training/train.py --config world_urban
"""


if __name__ == "__main__":
    with exit_on_error("stopped; the same command continues"):
        main()
