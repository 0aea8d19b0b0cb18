"""From imagery and photos to places: tiles, index, search, positions, maps."""

from gengeo_hf.places.answers import Answer, Place
from gengeo_hf.places.drive import Motion
from gengeo_hf.places.imagery import TilingOptions, open_imagery
from gengeo_hf.places.index import GeoIndex, Hit
from gengeo_hf.places.locate import GeoLocalizer
from gengeo_hf.places.photos import Look
from gengeo_hf.places.units import Near

__all__ = [
    "Answer", "GeoIndex", "GeoLocalizer", "Hit", "Look", "Motion", "Near", "Place", "TilingOptions", "open_imagery",
]  # fmt: skip
