"""Encodes the photos of an area to fit the mean of its ground descriptors (see `index.adapt`)."""

from pathlib import Path

import numpy as np

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.adaptation import Adaptation, AdaptedEncoder
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.localization.photos import (
    encode_pictures,
    find_photos,
    panorama_canvas,
    pictures,
    read_photo,
)


def encode_photos(encoder: Encoder, folder: Path, *, flip: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Encode the photos of a directory as `gengeo locate` would.

    Args:
        encoder: Encoder without an adaptation.
        folder: Directory with photos, or one photo.
        flip: Also encode the mirror images.

    Returns:
        Descriptors, float32 (photos, dim), and latitude and longitude in degrees, (photos, 2), NaN where unknown.

    Raises:
        GenGeoError: There are no photos, or one cannot be read.
    """
    plain, camera = AdaptedEncoder(encoder, Adaptation(flip=flip)), CameraView()
    canvas = panorama_canvas(encoder)
    descriptors, positions = [], []
    for path in find_photos([folder]):
        photo = read_photo(path)
        if photo.error:
            raise GenGeoError(f"{path}: {photo.error}")
        descriptors.append(encode_pictures(plain, pictures(photo, camera, canvas, encoder.patch))[0].mean(axis=0))
        exif = photo.metadata.position
        positions.append((np.nan, np.nan) if exif is None else (exif.lat, exif.lon))
    return np.array(descriptors, dtype=np.float32), np.array(positions, dtype=float)
