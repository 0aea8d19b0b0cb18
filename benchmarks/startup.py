"""Start-up time of help, imports and locating one photo, compared with an empty Python program.

    python benchmarks/startup.py --rounds 9

One photo is located with a model as small as that of the demo, so that start-up dominates: from the weights, and from
their ONNX export, which needs neither torch nor transformers. `PreTrainedModel` measures transformers alone.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import Figure
from PIL import Image

PROGRAMS = {
    "python -c pass": ["-c", "pass"],
    "gengeo --help": ["-m", "gengeo_hf.cli", "--help"],
    "import gengeo_hf": ["-c", "import gengeo_hf"],
    "import transformers, PreTrainedModel": ["-c", "from transformers import PreTrainedModel"],
    "import gengeo_hf, GenGeoModel": ["-c", "from gengeo_hf import GenGeoModel"],
}
BACKBONE = {"model_type": "dinov2", "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
MODEL = {  # of the demo
    "backbone_config": {**BACKBONE, "mlp_ratio": 2, "image_size": 70, "patch_size": 14},
    "num_clusters": 8,
    "cluster_dim": 32,
    "token_dim": 64,
    "head_hidden_dim": 192,
    "descriptor_dim": 256,
    "trainable_blocks": None,
}
SIZES = {"ground": {"height": 42, "width": 168}, "aerial": {"height": 70, "width": 70}}
WEIGHTS, EXPORT = "gengeo locate, one photo, from the weights", "gengeo locate, one photo, from their ONNX export"
GOALS = {"gengeo --help": "<= 0.5", EXPORT: "<= 2.5"}


def once(words: list[str]) -> tuple[float, float]:
    """Return wall-clock and CPU seconds of a new process."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def locating(folder: Path) -> dict[str, list[str]]:
    """Write a tiny model, its export and an index; return the commands that locate a photo."""
    from gengeo_hf.hub.export import export_folder
    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    plain, exported = folder / "plain", folder / "exported"
    GenGeoModel(GenGeoConfig(**MODEL)).save_pretrained(plain)
    GenGeoImageProcessor(view_sizes=SIZES).save_pretrained(plain)
    export_folder(plain, exported, onnx=True)
    rng, tiles = np.random.default_rng(0), folder / "tiles"
    tiles.mkdir()
    rows = ["image,lat,lon"]
    for number in range(20):
        Image.fromarray(rng.integers(0, 255, (56, 56, 3), np.uint8)).save(tiles / f"{number}.png")
        rows.append(f"{number}.png,60.{number:02d},25.0")
    (tiles / "tiles.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    index = str(folder / "tiles.gengeo")
    command = ["-m", "gengeo_hf.cli"]
    once([*command, "index", str(tiles), "--out", index, "--model", str(plain)])
    locate = [*command, "locate", str(tiles / "3.png"), "--index", index, "--model"]
    return {WEIGHTS: [*locate, str(plain)], EXPORT: [*locate, str(exported)]}


def figures(rounds: int) -> list[Figure]:
    """Return the minimum seconds of each program; anything above the minimum is other load on the machine."""
    with tempfile.TemporaryDirectory() as folder:
        programs = PROGRAMS | locating(Path(folder))
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for turn in range(rounds + 1):
            for name, words in programs.items():
                found = once(words)
                if turn:  # the first round fills the file cache
                    taken[name].append(found)
    least = {name: tuple(min(values) for values in zip(*times, strict=True)) for name, times in taken.items()}
    rows = []
    for name, (wall, cpu) in least.items():
        rows.append(Figure("start", name, cpu, "CPU s", wall, cpu, GOALS.get(name, "")))
    rows.append(Figure("start", EXPORT, least[WEIGHTS][1] / least[EXPORT][1], "times as from the weights"))
    ours, theirs = least["import gengeo_hf, GenGeoModel"][1], least["import transformers, PreTrainedModel"][1]
    return [*rows, Figure("start", "import gengeo_hf, GenGeoModel", ours / theirs, "x PreTrainedModel alone")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    for row in figures(parser.parse_args().rounds):
        print(f"{row.what}: {row.value:.2f} {row.unit} {row.goal}")


if __name__ == "__main__":
    main()
