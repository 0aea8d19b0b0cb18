"""Localisation of photos: ranked places from an index, drives, confidences and maps."""

from gengeo_hf.common.camera import CameraView
from gengeo_hf.localization.answers import Answer, Place, Track
from gengeo_hf.localization.drive import Motion
from gengeo_hf.localization.localizer import GeoLocalizer

__all__ = ["Answer", "CameraView", "GeoLocalizer", "Motion", "Place", "Track"]
