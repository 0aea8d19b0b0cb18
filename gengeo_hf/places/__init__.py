"""From imagery and photos to places: tiles, index, search, positions, maps."""

from gengeo_hf.places.imagery import TilingOptions, open_imagery
from gengeo_hf.places.index import GeoIndex, Hit
from gengeo_hf.places.locate import Answer, GeoLocalizer, Place
from gengeo_hf.places.units import Near

__all__ = ["Answer", "GeoIndex", "GeoLocalizer", "Hit", "Near", "Place", "TilingOptions", "open_imagery"]
