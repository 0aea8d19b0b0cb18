"""Imagery of every kind becomes a `TileSource`: tiles with a place each, and their pixels on demand.

`open_imagery` picks the reader by what it finds.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gengeo_hf.imagery.registry import TilingOptions, open_imagery

__all__ = ["TilingOptions", "open_imagery"]


def __getattr__(name: str) -> Any:
    """The readers import rasters, tables and addresses; an index that is searched needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gengeo_hf.imagery import registry

    return getattr(registry, name)
