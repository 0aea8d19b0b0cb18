"""End-to-end run of the commands from a token and an orthophoto to a located photo, on the synthetic world.

The short training does not measure quality; tests/acquire/test_city.py tests that the pairs are right.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gengeo_hf.acquire.mapillary import TOKEN_VARIABLE
from gengeo_hf.data import load_pairs
from tests.acquire.mapillary_double import ROOT
from tests.acquire.mapillary_server import TOKEN

pytest_plugins = ["tests.acquire.mapillary_double"]
CONFIG = """
output: {out}
data: {{name: table, root: {root}, workers: 0, in_memory: true, ground_size: [42, 84], aerial_size: [70, 70]}}
model:
  config:
    backbone_config: {{model_type: dinov2, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, mlp_ratio: 2,
      image_size: 70, patch_size: 14}}
    num_clusters: 4
    cluster_dim: 8
    token_dim: 8
    head_hidden_dim: 32
    descriptor_dim: 32
    trainable_blocks: null
augment: {{options: {{flip: true, rotate: true}}}}
sampling: {{batch_size: 8, gps_epochs: 1, mining_every: 1, neighbours: 2, pool: 8}}
optimisation: {{epochs: 2, learning_rate: 0.001}}
evaluate_every: 2
"""


@pytest.mark.slow
def test_rehearsal_of_a_city_survives_a_kill_and_locates_a_photo(service, gengeo, tmp_path, monkeypatch):
    pytest.importorskip("embreex")
    from tests.acquire.world_city import write_city

    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    count = write_city(tmp_path / "world", 1)
    for path in (tmp_path / "world").glob("*.jpg"):
        path.rename(service.folder / path.name)
    photos = json.loads((tmp_path / "world" / "photos.json").read_text())
    service.hold(photos)
    town, ortho = tmp_path / "town", tmp_path / "world" / "ortho"
    words = ["data", "make", "--area", tmp_path / "world" / "area.geojson", "--imagery", ortho, "--out", town]
    words += ["--api", service.address, "--allow-private", "--yes", "--attribution", "nobody", "--licence", "CC0-1.0"]
    words += ["--tile", "65m", "--pixels", 130, "--block", "100m", "--acquired", 2023, "--photo-width", 1024]
    killed = kill_after_photos([*words, "--rate", 100], town / "photos", 20)
    assert 20 <= killed < count and not (town / "pairs.parquet").exists()
    service.hold(photos)
    code, out, err = gengeo(*words, "--rate", 0)
    assert code == 0, err
    asked = [entry["path"] for entry in service.log]
    assert not any(path.startswith("/images") for path in asked)  # the search is not repeated
    assert sum(path.startswith("/pixels") for path in asked) <= count - killed
    assert gengeo("data", "check", "table", town)[0] == 0
    parts = {split: load_pairs("table", town, split) for split in ("train", "validation", "test")}
    assert len(parts["test"].gallery) > len(parts["test"].queries) > 0
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(out=tmp_path / "run", root=town))
    trained = run(["-m", "gengeo_hf.training", "--config", config])
    assert trained.returncode == 0, trained.stderr[-2000:]
    model = tmp_path / "run" / "model"
    code, out, err = gengeo("evaluate", "--model", model, "--data", f"table:test {town}", "--json", "--device", "cpu")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["gallery"] == len(parts["test"].gallery) and 0 <= shown["R@1"] <= 100
    code, _, err = gengeo("index", ortho, "--out", tmp_path / "idx", "--model", model, "--tile", "65m")
    assert code == 0, err
    photo = next((town / "photos").iterdir())
    code, out, err = gengeo("locate", photo, "--index", tmp_path / "idx", "--model", model, "--fov", 360)
    assert code == 0 and "1. 2" in out, err


def kill_after_photos(words, folder, count):
    """Kill the command when `count` photos exist, and return their number."""
    process = subprocess.Popen([sys.executable, "-m", "gengeo_hf.cli", *map(str, words)], cwd=ROOT, env=os.environ)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        there = len(list(folder.glob("*.jpg"))) if folder.is_dir() else 0
        if there >= count:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    return len(list(folder.glob("*.jpg")))


def run(words):
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
