"""The index of aerial tiles: building, searching, storing."""

from gengeo_hf.index.index import GeoIndex, Hit

__all__ = ["GeoIndex", "Hit"]
