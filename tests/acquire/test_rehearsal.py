"""End-to-end run from an open data set to a published model and a located photo, by commands of an installed wheel.

The data have the layout of Just Zoom In and images of the synthetic world. The Hub is a server on loopback that breaks
connections and refuses some requests. The results say nothing about real photos.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.acquire.conftest import REPOSITORY
from tests.acquire.jz_city import City
from tests.hub.hub_server import TOKEN, HubServer

ROOT = Path(__file__).resolve().parents[2]
SIDE = 30  # photos along a side of the square, 78 m apart, so that there are enough blocks of 500 m
TRAINING = """
data.workers=0 data.in_memory=true data.ground_size=[42,168] data.aerial_size=[70,70] model.init=null
model.config.num_clusters=8 model.config.cluster_dim=32 model.config.token_dim=64 model.config.head_hidden_dim=128
model.config.descriptor_dim=256 model.config.position_init_std=0.5 model.config.head_dropout=0.0
model.config.trainable_blocks=null augment.options.unknown_heading=false augment.options.dropout_chance=0
augment.options.jpeg_chance=0 augment.options.blur_chance=0 augment.options.colour=0
sampling.batch_size=64 sampling.random_share=0.5 sampling.neighbours=16 sampling.pool=64 sampling.gps_epochs=2
sampling.mining_every=3 optimisation.learning_rate=0.003 optimisation.learning_rate_batch=64 optimisation.warmup=0.3
optimisation.weight_decay=0.05 optimisation.mixed_precision=no evaluate_every=9 save_every=50 log_every=50 output=run
"""
SMALL = (
    "model_type: dinov2, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, mlp_ratio: 2, image_size: 70, "
    "patch_size: 14"
)
STEPS = 300


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Directory with the installed wheel of the package, without the checkout."""
    work = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "benchmarks/", "notebooks/")):
            (work / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, work / "source" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", work, work / "source"], check=True)
    found = next(work.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", work / "site", found], check=True)
    return work / "site"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Hub server with a city of synthetic pairs: one photo in every second cell of every second row."""
    from gengeo_hf.world import build_world

    world = build_world("urban", "train", SIDE * SIDE, cache_dir=tmp_path_factory.mktemp("world"))
    rows, columns = range(40, 40 + 2 * SIDE), range(60, 60 + 2 * SIDE)
    of_cell = {(rows[2 * (i // SIDE)], columns[2 * (i % SIDE)]): i for i in range(SIDE * SIDE)}

    def picture(row, column):
        index = of_cell.get((row, column), (row * 31 + column * 17) % len(of_cell))
        tile = world.gallery[index]["aerial"].convert("RGB")
        # Cells without a photo show rotated tiles, which differ from each other and from the tiles of photos.
        return tile if (row, column) in of_cell else tile.rotate(90 * (1 + row % 3))

    photos = [(*cell, 4.0, -3.0, world.queries[index]["ground"].convert("RGB")) for cell, index in of_cell.items()]
    server = HubServer()
    server.repositories[REPOSITORY] = {"files": {}, "commits": ["0" * 40]}
    server.commit(REPOSITORY, City(rows, columns, picture, photos, 0.1).files(photo_archives=3))
    yield server
    server.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_rehearsal_from_get_to_a_located_photo(wheel, hub, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(wheel),
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }

    def run(*words, module="gengeo_hf.cli", code=0):
        command = [sys.executable, "-m", module, *map(str, words)]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == code, f"{words}: {result.stdout[-2000:]}{result.stderr[-3000:]}"
        return result.stdout

    hub.faults["archives/satellite_level_m2_000.tar"] = [503, "break"]
    hub.faults["archives/streetview_images_001.tar"] = ["break", "break"]
    get = ("data", "get", "justzoomin", "--out", "jz", "--revision", "main")
    run(*get, code=2)  # without a terminal, --yes is required
    run(*get, "--yes", "--archives", "0")
    found = run(*get, "--yes", "--archives", "all")
    assert f"{SIDE * SIDE:,} photos" in found
    check = run("data", "check", "justzoomin", "jz", code=1)  # fewer photos than the published list
    assert "FAIL  test list: 90 (expected 30,956)" in check

    train = json.loads(run_python(environment, tmp_path, COUNT))
    epochs = -(-STEPS // (train // 64))
    words = [*TRAINING.split(), f"model.config.backbone_config={{{SMALL}}}", f"optimisation.epochs={epochs}"]
    run("--config", "justzoomin", "data.root=jz", *words, module="gengeo_hf.training")
    evaluated = json.loads(
        run("evaluate", "--model", "run/model", "--data", "justzoomin:test jz", "--out", "results/jz.json", "--json")
    )
    assert evaluated["queries"] == 90
    assert evaluated["R@1"] >= 5 * 100 / evaluated["gallery"]
    assert any("90 of 30,956 queries" in note for note in evaluated["notes"])

    run("push", "run/model", "someone/jz-rehearsal", "--result", "results/jz.json")
    files = hub.repositories["model", "someone/jz-rehearsal"]["files"]
    card = files["README.md"].decode()
    assert "Mapillary contributors" in card and "CC-BY-SA-4.0" in card and "adapted material" in card
    assert "pcvlab/justzoomin" in yaml.safe_load(card.split("---")[1])["datasets"]
    entries = yaml.safe_load(files[".eval_results/0-jz.yaml"])
    assert entries[0]["value"] == pytest.approx(evaluated["R@1"], abs=1e-3)

    run("pull", "someone/jz-rehearsal", "pulled")
    run("index", "jz", "--model", "pulled", "--out", "city.gengeo")
    photo = next((tmp_path / "jz/streetview/images").iterdir())
    answer = json.loads(run("locate", photo, "--model", "pulled", "--index", "city.gengeo", "--json").splitlines()[0])
    assert answer["places"][0]["tile_id"].startswith("r")
    assert "Open Data DC" in json.dumps(answer) or "Open Data DC" in run("info", "city.gengeo")


COUNT = "import gengeo_hf; print(len(gengeo_hf.load_pairs('justzoomin', 'jz', 'train').queries))"


def run_python(environment, folder, code):
    """Last line printed by Python code that runs with the installed wheel and not with the checkout."""
    site = environment["PYTHONPATH"]
    check = f"import gengeo_hf\nassert gengeo_hf.__file__.startswith({site!r}), gengeo_hf.__file__\n"
    command = [sys.executable, "-c", check + code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.splitlines()[-1]
