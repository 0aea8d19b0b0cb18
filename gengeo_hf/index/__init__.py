"""The index of aerial tiles: building, searching, storing."""

from gengeo_hf.index.hits import Hit
from gengeo_hf.index.index import GeoIndex

__all__ = ["GeoIndex", "Hit"]
