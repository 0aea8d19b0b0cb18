"""Imagery of every kind becomes a `TileSource`: tiles with a place each, and their pixels on demand.

`open_imagery` picks the reader by what it finds.
"""

from gengeo_hf.imagery.registry import TilingOptions, open_imagery

__all__ = ["TilingOptions", "open_imagery"]
