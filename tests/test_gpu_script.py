"""`benchmarks/gpu.sh` on a CPU with a tiny model, and with nothing installed beyond what it says it needs."""

import importlib.metadata as metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NEEDED = ("torch", "transformers", "accelerate", "safetensors", "pillow")
# Python imports this at its start: packages that were not named are not found, as if they were not installed.
HIDE = """
import importlib.machinery as machinery
HIDDEN = set({hidden!r})
found = machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in HIDDEN else found(name, path, target)
machinery.PathFinder.find_spec = staticmethod(find_spec)
"""


def installed_by(names) -> set[str]:
    """Distributions that these need, themselves included, without extras."""
    found, left = set(), [*names]
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or ():
            requirement, _, marker = line.partition(";")
            if "extra" not in marker:
                try:
                    metadata.version(word := re.match(r"[\w.-]+", requirement).group())
                except metadata.PackageNotFoundError:
                    continue
                left.append(word)
    return found


def hidden_packages() -> list[str]:
    kept = installed_by(NEEDED)
    names = metadata.packages_distributions().items()
    return [
        name
        for name, sources in names
        if name != "gengeo_hf" and not kept & {re.sub(r"[-_.]+", "-", source).lower() for source in sources}
    ]


@pytest.fixture
def bare(tmp_path):
    """Environment in which only what the script needs can be imported."""
    folder = tmp_path / "bare"
    folder.mkdir()
    hidden = hidden_packages()
    assert {"datasets", "faiss", "omegaconf", "embreex", "wrapt", "scipy", "pyarrow"} <= set(hidden)
    assert not set(hidden) & {"torch", "transformers", "accelerate", "safetensors", "PIL", "numpy"}
    (folder / "sitecustomize.py").write_text(HIDE.format(hidden=hidden))
    root = str(BENCHMARKS.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), root]), "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def jpegs(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("benchmark", "world/train", "world/test"):
        for view, shape in (("ground", (56, 224, 3)), ("aerial", (112, 112, 3))):
            home = tmp_path / "images" / folder / view
            home.mkdir(parents=True)
            for row in range(6):
                Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(home / f"{row}.jpg")
    return tmp_path / "images"


@pytest.mark.slow
def test_modules_of_the_gpu_script_import_in_a_bare_environment(bare):
    # data loading, model, loss, GradCache and augmentation; the whole script runs in the slow test
    words = (
        "import gpu_world, training_step, gpu_measure, sys; print('datasets' in sys.modules, 'wrapt' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", words], cwd=BENCHMARKS, env=bare, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == "set()"


@pytest.mark.slow
def test_gpu_script_runs_on_a_cpu_and_every_part_writes_figures(bare, jpegs, tmp_path):
    out = tmp_path / "out"
    options = ["--device", "cpu", "--size", "tiny", "--batch", "4", "--compile", "eager", "--workers", "1"]
    command = ["sh", str(BENCHMARKS / "gpu.sh"), str(out), *options, "--images", str(jpegs)]
    result = subprocess.run(
        command, env={**bare, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stderr[-3000:]
    parts = {part["part"]: part["rows"] for part in json.loads((out / "gpu.json").read_text())}
    assert list(parts) == ["peak", "encode", "train", "memory", "loading", "agreement", "world"], result.stderr[-3000:]
    cosines = [row["value"] for row in parts["agreement"]]
    assert len(cosines) == 2 and min(cosines) > 0.99999
    assert all(row["met"] is None for rows in parts.values() for row in rows)  # goals are about the paper's size
    assert "without figures" not in (out / "gpu.md").read_text()
