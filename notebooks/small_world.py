"""What the notebooks share: places of the synthetic world, and a small model that is trained once.

The model of `make demo` is taken where it is there. Otherwise one is trained in a few minutes, into runs/notebooks.
"""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from IPython.display import Image, display

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(os.environ.get("GENGEO_NOTEBOOKS", ROOT / "runs" / "notebooks"))  # what the notebooks write
DEMO = ROOT / "demo"
PAIRS, EPOCHS = 1500, 15  # of the short training; `make demo` trains on 6,800


def world_folder() -> Path:
    """Where drawn places are kept."""
    return DEMO / "world" if "GENGEO_NOTEBOOKS" not in os.environ and (DEMO / "world").is_dir() else HOME / "world"


def places(split: str = "test", count: int = 150, domain: str = "urban", **options: Any) -> Any:
    """Places of the synthetic world as a `CrossViewDataset`, at the small model's image sizes."""
    from gengeo_hf.world import build_world

    return build_world(domain, split, count, cache_dir=world_folder(), **options)


def trained_model() -> Path:
    """Directory of a small model that was trained on the urban world."""
    if "GENGEO_NOTEBOOKS" not in os.environ and (DEMO / "gengeo-world-urban" / "config.json").is_file():
        return DEMO / "gengeo-world-urban"
    if not (HOME / "run" / "model" / "config.json").is_file():
        print(f"training a small model once, on {PAIRS} places; `make demo` makes a better one")
        train(HOME / "run")
    return HOME / "run" / "model"


def train(output: Path, *overrides: str) -> list[str]:
    """Run training/train.py with a short configuration; gives what it printed."""
    command = [
        *(sys.executable, str(ROOT / "training" / "train.py")),
        *("--config", "world_small"),
        *(f"output={output}", f"data.root={world_folder()}", f"data.train.num_pairs={PAIRS}"),
        *("data.validation.num_pairs=150", f"optimisation.epochs={EPOCHS}", f"evaluate_every={EPOCHS // 3}"),
        *overrides,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return plain(done.stdout).splitlines()


def plain(text: str) -> str:
    """What a program printed, without the directories of this machine."""
    return text.strip().replace(f"{HOME}/", "runs/notebooks/").replace(f"{ROOT}/", "")


def show(picture: Any, width: int = 760) -> None:
    """Display a PIL picture as a JPEG of moderate size, so that notebooks stay small."""
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=72)
    display(Image(data=buffer.getvalue(), format="jpeg"))
