"""Prepares a photo for a pose head: pixels at the model's scale, azimuths of the columns, and heading."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from gengeo_hf.common.camera import CameraView, check_heading
from gengeo_hf.data.loading import resize_images
from gengeo_hf.localization.photos import Photo, pictures
from gengeo_hf.pose.geometry import column_azimuths
from gengeo_hf.pose.tokens import grid_of

if TYPE_CHECKING:
    from gengeo_hf.common.projection import PanoramaCanvas
    from gengeo_hf.encoding.encoder import Encoder


@dataclass(frozen=True)
class GroundView:
    """Input of a pose head for one photo.

    Args:
        pixels: uint8 (1, 3, H, W) at the model's scale.
        azimuths: (C,) azimuths of the patch columns relative to the centre column, degrees.
        stated: Known heading of the centre column, degrees clockwise from north; 0 if unknown.
        rolled: Degrees by which the panorama was rolled; must be added to an estimated heading.
        prior: Heading prior: "known", "45" or "180".
        panorama: Whether the photo is a panorama and can be rolled.
    """

    pixels: torch.Tensor
    azimuths: torch.Tensor
    stated: float
    rolled: float
    prior: str
    panorama: bool


def heading_prior_of(photo: Photo, camera: CameraView) -> str:
    """Narrowest heading prior of a photo: "known" for a stated or true heading, "45" for a magnetic one, else "180"."""
    if camera.bearing is not None:
        return "known"
    if camera.heading is not None or photo.metadata.camera.bearing is None:
        return "180"
    return "45" if photo.metadata.heading_is_magnetic else "known"


def ground_view(
    encoder: Encoder, canvas: PanoramaCanvas | None, photo: Photo, camera: CameraView, heading_prior: str | None = None
) -> GroundView | None:
    """Prepare a photo for a pose head.

    Args:
        encoder: Encoder of the model.
        canvas: Canvas of the model's panoramas; None for a model of ordinary photos.
        photo: Photo with an image.
        camera: Camera that the user states.
        heading_prior: Heading prior that the user states; None takes the narrowest that the photo allows.

    Returns:
        The view; None if the field of view is unknown.

    Raises:
        GenGeoError: A heading is outside 0..360 degrees.
    """
    if camera.bearing is not None:
        check_heading(camera.bearing)
    stated = camera.completed_by(photo.metadata.camera)
    if stated.fov is None:
        return None
    known = stated.bearing
    one = replace(stated, heading=known)  # "unknown" would give eight rolled panoramas
    picture = pictures(Photo(photo.image), one, canvas, encoder.patch)[0]  # not the heading of its file again
    prior = heading_prior or heading_prior_of(photo, camera)
    if picture.own_size:
        pixels = torch.from_numpy(np.array(picture.image)).permute(2, 0, 1)[None]
        shown, flat = 360.0 * picture.image.width / canvas.width, False  # type: ignore[union-attr]  # own_size
    else:
        pixels = resize_images(encoder.processor, [picture.image], "ground")
        shown, flat = stated.fov, not stated.is_panorama and stated.projection in (None, "perspective")
    rolled = picture.heading if stated.is_panorama and canvas is not None else 0.0
    columns = grid_of(encoder, *pixels.shape[-2:])[1]
    azimuths = column_azimuths(columns, shown, flat and shown < 180)
    return GroundView(pixels, azimuths, (known or 0.0) - rolled, rolled, prior, stated.is_panorama)
