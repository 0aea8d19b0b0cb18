"""Train in stages, each initialised from the weights of the previous stage.

    python training/curriculum.py world_anywhere --out runs/world_anywhere
    python training/curriculum.py world_anywhere --start demo/gengeo-world-urban data.root=demo/world

A curriculum is a file of `training/curricula/`: stages with a configuration and overrides. A finished stage is not
repeated, and an interrupted one is resumed. The weights of the last stage are in `OUT/model`.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gengeo_hf.common.errors import GenGeoError, UsageError, exit_on_error
from gengeo_hf.training.launch import run_training

HERE = Path(__file__).resolve().parent
CURRICULA = HERE / "curricula"
Stages = dict[str, dict[str, Any]]


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curriculum", help="Name of a file in training/curricula, or path of a YAML file.")
    parser.add_argument("--out", type=Path, help="Directory of all stages (default: runs/CURRICULUM).")
    parser.add_argument("--start", metavar="MODEL", help="Trained model that replaces the first stage.")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Overrides of the settings of every stage.")
    given = parser.parse_intermixed_args(arguments)
    stages = read_stages(given.curriculum)
    out = given.out or Path("runs") / Path(given.curriculum).stem
    names = list(stages)[1:] if given.start else list(stages)
    if not names:
        raise UsageError(f"--start replaces the first stage, and {given.curriculum} has no other stage")
    start, last = given.start, names[-1]
    for number, name in enumerate(names, 1):
        folder = out if name == last else out / name
        print(f"stage {number} of {len(names)}: {name}, in {folder}", flush=True)
        init = [f"model.init={start}"] if start else []
        run_stage(stages[name], folder, [*init, *given.overrides])
        start = str(folder / "model")


def read_stages(curriculum: str) -> Stages:
    """Read the stages of a curriculum by name, in order.

    Raises:
        UsageError: The file does not exist.
        GenGeoError: The file has no stages, or a stage has no configuration.
    """
    for path in (Path(curriculum), CURRICULA / f"{curriculum}.yaml"):
        if path.is_file():
            break
    else:
        known = ", ".join(sorted(found.stem for found in CURRICULA.glob("*.yaml")))
        raise UsageError(f"no curriculum {curriculum}: give the path of a YAML file or one of {known}")
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not stages or not all("config" in (row or {}) for row in stages.values()):
        raise GenGeoError(f"{path} is not a curriculum: it needs stages, each with a config")
    return stages


def run_stage(stage: dict[str, Any], folder: Path, overrides: list[str]) -> None:
    """Train one stage with `training/train.py`.

    Raises:
        GenGeoError: The training ended with an error.
    """
    command = [sys.executable, str(HERE / "train.py"), "--config", stage["config"], f"output={folder}"]
    if run_training([*command, *stage.get("set", []), *overrides], {**os.environ, "TOKENIZERS_PARALLELISM": "false"}):
        raise GenGeoError("training stopped (see above); the same command continues from the last checkpoint")


if __name__ == "__main__":
    with exit_on_error("stopped; the same command continues from the last checkpoint"):
        main()
