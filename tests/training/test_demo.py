"""A small run of `make demo`: all results are written, and a second run reuses them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "training" / "demo.py"
SMALL = (
    "data.train.num_pairs=48",
    "data.validation.num_pairs=8",
    "optimisation.epochs=2",
    "evaluate_every=1",
    "sampling.batch_size=16",
    "sampling.neighbours=8",
    "sampling.pool=16",
)


def run(folder, *options):
    command = [sys.executable, str(DEMO), "--out", str(folder), "--places", "12", "--photos", "2", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_demo_train_interrupted_copy_leaves_no_partial_model(tmp_path, monkeypatch):
    import demo

    folder, best = demo.Folder(tmp_path), tmp_path / "run" / "model"
    best.mkdir(parents=True)
    (best / "config.json").write_text("{}")
    (best / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(demo, "run_training", lambda *_: 0)

    def stopped(source, target, **_):
        (Path(target) / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo.shutil, "copytree", stopped)
        with pytest.raises(KeyboardInterrupt):
            demo.train(folder, [])
    assert not folder.model.exists()
    demo.train(folder, [])
    assert (folder.model / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.slow
def test_demo_runs_and_second_run_reuses_results(tmp_path):
    folder = tmp_path / "demo"
    first = run(folder, *SMALL)
    assert first.returncode == 0, first.stderr[-2000:]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "synthetic world" in page and "R@1" in page and page.count("data:image") >= 10
    for title in (
        "Kept mass of the patches",
        "Attribution of a match",
        "A wrong tile compared",
        "Patches of the clusters",
    ):
        assert f"<h2>{title}" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src=" not in page
    places = json.loads((folder / "places.geojson").read_text(encoding="utf-8"))
    assert places["type"] == "FeatureCollection" and len(places["features"]) >= 2
    assert " cores without other load" in first.stdout.partition("1/6")[0]  # the estimate precedes the first stage
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]
    assert len(results) == 5  # three domains, random weights, colour histograms
    assert (folder / "gengeo-world-urban" / "model.safetensors").is_file() and "gengeo" in first.stdout
    pose = json.loads((folder / "pose.json").read_text(encoding="utf-8"))
    assert set(pose) == {"centre_median_m", "median_m", "within_5_m", "centre_within_10_m", "fused_within_10_m"}
    assert (folder / "gengeo-world-urban" / "pose" / "known" / "model.safetensors").is_file()

    kept = ["gengeo-world-urban/model.safetensors", "world.gengeo/manifest.json", "results.json", "run/log.jsonl"]
    before = {name: (folder / name).stat().st_mtime_ns for name in kept[:3]}
    second = run(folder, *SMALL)
    assert second.returncode == 0, second.stderr[-2000:]
    assert before == {name: (folder / name).stat().st_mtime_ns for name in kept[:3]}
    assert "its finished results are reused" in second.stdout
    assert "up to date" in second.stdout and "epoch 1/2" not in second.stderr


@pytest.mark.slow
def test_demo_other_settings_in_same_directory_are_one_line(tmp_path):
    folder = tmp_path / "demo"
    assert run(folder, *SMALL).returncode == 0
    again = run(folder, *SMALL, "optimisation.learning_rate=0.01")
    assert again.returncode == 1 and "Traceback" not in again.stderr
    assert "error" in again.stderr
