"""Data sets: the published benchmarks, users' own tables, augmentation and export.

The names below are imported when they are first used, so that importing one module does not import `datasets`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gengeo_hf.data.augment import Augmentation
    from gengeo_hf.data.loading import AerialImages, GroundImages, PairSource
    from gengeo_hf.data.own import load_hf_dataset
    from gengeo_hf.data.registry import DataNotation, load_notation, load_pairs, parse_data

_MODULES = {
    "AerialImages": "loading",
    "Augmentation": "augment",
    "DataNotation": "registry",
    "GroundImages": "loading",
    "PairSource": "loading",
    "load_hf_dataset": "own",
    "load_notation": "registry",
    "load_pairs": "registry",
    "parse_data": "registry",
}
__all__ = [
    "AerialImages",
    "Augmentation",
    "DataNotation",
    "GroundImages",
    "PairSource",
    "load_hf_dataset",
    "load_notation",
    "load_pairs",
    "parse_data",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
