"""Datasets by name: what `training/train.py`, `training/evaluate.py` and the command line call.

Before: a name, a folder, a split. After: a validated `CrossViewDataset`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gengeo_hf.data.schema import CrossViewDataset
from gengeo_hf.errors import GenGeoError

NAMES = ("world-urban", "world-rural", "world-offcenter")


def load_pairs(name: str, root: str | Path | None = None, split: str = "train", **options: Any) -> CrossViewDataset:
    """Load one split of a dataset.

    Args:
        name: one of `NAMES`.
        root: folder of the images; for the synthetic world the folder where it is kept (None: a cache of the user).
        split: "train", "validation" or "test".
        options: of the loader.

    Raises:
        GenGeoError: the name, the split or an option is unknown, or the data are not there.
    """
    if name not in NAMES:
        raise GenGeoError(f"unknown dataset {name!r}; known are {', '.join(NAMES)}")
    if split not in ("train", "validation", "test"):
        raise GenGeoError(f"unknown split {split!r}; expected train, validation or test")
    from gengeo_hf.world import build_world

    if "num_pairs" not in options:
        options["num_pairs"] = 500
    return build_world(name.removeprefix("world-"), split, cache_dir=root, **options).validate()
