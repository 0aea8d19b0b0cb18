"""What a pair is, and how each benchmark and everyone's own data become pairs.

The names below are looked up when they are first used: `gengeo_hf.data.images` must not cost an import of `datasets`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gengeo_hf.data.registry import load_pairs
    from gengeo_hf.data.schema import GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset

_HOMES = {
    "CrossViewDataset": "schema",
    "GALLERY_FEATURES": "schema",
    "QUERY_FEATURES": "schema",
    "load_pairs": "registry",
}
__all__ = ["GALLERY_FEATURES", "QUERY_FEATURES", "CrossViewDataset", "load_pairs"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
