"""Test `benchmarks/gpu.sh` on a CPU with a tiny model, in an environment with only the packages that it requires."""

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
REQUIRED = ("torch", "transformers", "accelerate", "safetensors", "pillow")
# Python imports `sitecustomize` when it starts: hidden packages are then not found, as if they were not installed.
HIDE = """
import importlib.machinery as machinery
HIDDEN = set({hidden!r})
original = machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in HIDDEN else original(name, path, target)
machinery.PathFinder.find_spec = staticmethod(find_spec)
"""


def required_distributions(names) -> set[str]:
    """Normalised names of these distributions and of all that they require, without extras."""
    found, queue = set(), [*names]
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or ():
            requirement, _, marker = line.partition(";")
            if "extra" not in marker:
                try:
                    metadata.version(required := re.match(r"[\w.-]+", requirement).group())
                except metadata.PackageNotFoundError:
                    continue
                queue.append(required)
    return found


def hidden_packages() -> list[str]:
    """Installed packages that the script does not require."""
    kept = required_distributions(REQUIRED)
    names = metadata.packages_distributions().items()
    return [
        name
        for name, sources in names
        if name != "gengeo_hf" and not kept & {re.sub(r"[-_.]+", "-", source).lower() for source in sources}
    ]


@pytest.fixture
def minimal_environment(tmp_path):
    """Environment variables of a process that can import only the packages that the script requires."""
    folder = tmp_path / "minimal"
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
            directory = tmp_path / "images" / folder / view
            directory.mkdir(parents=True)
            for row in range(6):
                Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(directory / f"{row}.jpg")
    return tmp_path / "images"


@pytest.mark.slow
def test_gpu_script_modules_in_a_minimal_environment_can_be_imported(minimal_environment):
    # data loading, model, loss, GradCache and augmentation; the next test runs the whole script
    code = "import gpu_world, training_step, gpu_measure, sys; print({'datasets', 'wrapt'} & {*sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BENCHMARKS,
        env=minimal_environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == "set()"


@pytest.mark.slow
def test_gpu_script_on_a_cpu_writes_the_figures_of_every_part(minimal_environment, jpegs, tmp_path):
    out = tmp_path / "out"
    options = ["--device", "cpu", "--size", "tiny", "--batch", "4", "--compile", "eager", "--workers", "1"]
    command = ["sh", str(BENCHMARKS / "gpu.sh"), str(out), *options, "--images", str(jpegs)]
    result = subprocess.run(
        command, env={**minimal_environment, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stderr[-3000:]
    parts = {part["part"]: part["rows"] for part in json.loads((out / "gpu.json").read_text())}
    assert list(parts) == ["peak", "encode", "train", "memory", "loading", "agreement", "world"], result.stderr[-3000:]
    cosines = [row["value"] for row in parts["agreement"]]
    assert len(cosines) == 2 and min(cosines) > 0.99999
    # goals apply only to the model size of the paper
    assert all(row["met"] is None for rows in parts.values() for row in rows)
    assert "without figures" not in (out / "gpu.md").read_text()
