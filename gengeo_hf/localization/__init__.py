"""From photos to places: candidates of an index become ranked places, drives and maps."""

from gengeo_hf.common.camera import CameraView
from gengeo_hf.localization.answers import Answer, Place, Track
from gengeo_hf.localization.drive import Motion
from gengeo_hf.localization.localizer import GeoLocalizer

__all__ = ["Answer", "CameraView", "GeoLocalizer", "Motion", "Place", "Track"]
