"""Index of aerial tiles: build, search, store."""

from gengeo_hf.index.hits import Hit
from gengeo_hf.index.index import GeoIndex

__all__ = ["GeoIndex", "Hit"]
