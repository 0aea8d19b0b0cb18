"""Reading of aerial imagery as a `TileSource`: a table of georeferenced tiles, whose pixels are read on demand.

`open_imagery` chooses the reader by the kind of the file, directory or address.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gengeo_hf.imagery.options import TilingOptions
    from gengeo_hf.imagery.registry import open_imagery

__all__ = ["TilingOptions", "open_imagery"]


def __getattr__(name: str) -> Any:
    """Import the readers on first use, since searching an index does not need them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gengeo_hf.imagery import registry

    return getattr(registry, name)
