"""What a pair is, and how each benchmark and everyone's own data become pairs.

The names below are looked up when they are first used: `gengeo_hf.data.images` must not cost an import of `datasets`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gengeo_hf.data.augment import Augmentation
    from gengeo_hf.data.images import PhotoPosition, open_image, photo_position
    from gengeo_hf.data.loading import AerialImages, GroundImages, PairSource
    from gengeo_hf.data.neighbours import NeighbourTable, great_circle_neighbours, training_neighbours
    from gengeo_hf.data.own import load_hf_dataset
    from gengeo_hf.data.registry import load_pairs
    from gengeo_hf.data.schema import GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset

_HOMES = {
    "AerialImages": "loading",
    "Augmentation": "augment",
    "CrossViewDataset": "schema",
    "GALLERY_FEATURES": "schema",
    "GroundImages": "loading",
    "NeighbourTable": "neighbours",
    "PairSource": "loading",
    "PhotoPosition": "images",
    "QUERY_FEATURES": "schema",
    "great_circle_neighbours": "neighbours",
    "load_hf_dataset": "own",
    "load_pairs": "registry",
    "open_image": "images",
    "photo_position": "images",
    "training_neighbours": "neighbours",
}
__all__ = [
    "GALLERY_FEATURES",
    "QUERY_FEATURES",
    "AerialImages",
    "Augmentation",
    "CrossViewDataset",
    "GroundImages",
    "NeighbourTable",
    "PairSource",
    "PhotoPosition",
    "great_circle_neighbours",
    "load_hf_dataset",
    "load_pairs",
    "open_image",
    "photo_position",
    "training_neighbours",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
