"""A photo as a pose head reads it: at the scale of the model, with the directions of its columns and its heading."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from gengeo_hf.common.camera import CameraView, check_heading
from gengeo_hf.data.loading import resized
from gengeo_hf.localization.photos import Photo, pictures
from gengeo_hf.pose.geometry import column_azimuths
from gengeo_hf.pose.tokens import grid_of

if TYPE_CHECKING:
    from gengeo_hf.common.projection import PanoramaCanvas
    from gengeo_hf.encoding.encoder import Encoder


@dataclass(frozen=True)
class GroundView:
    """A photo as the head reads it.

    Args:
        pixels: uint8 (1, 3, H, W) at the model's scale.
        azimuths: (C,) degrees of the patch columns relative to the centre column.
        stated: Heading of the centre column in degrees, 0 where nothing is known.
        rolled: Degrees that the panorama was rolled by already, to be added to an answer.
        prior: Heading prior.
        panorama: Whether it can be rolled.
    """

    pixels: torch.Tensor
    azimuths: torch.Tensor
    stated: float
    rolled: float
    prior: str
    panorama: bool


def prior_of(photo: Photo, camera: CameraView) -> str:
    """The narrowest heading prior of a photo: stated or true heading, magnetic heading, none."""
    if camera.bearing is not None:
        return "known"
    if camera.heading is not None or photo.metadata.camera.bearing is None:
        return "180"
    return "45" if photo.metadata.heading_is_magnetic else "known"


def ground_view(
    encoder: Encoder, canvas: PanoramaCanvas | None, photo: Photo, camera: CameraView, heading_prior: str | None = None
) -> GroundView | None:
    """The photo at the model's scale with what is known of its camera; None without a field of view.

    Args:
        encoder: The model.
        canvas: Of its panoramas; None for a model of ordinary photos.
        photo: With an image.
        camera: What the user states.
        heading_prior: What the user states; None takes the narrowest that the photo allows.

    Raises:
        GenGeoError: A heading outside 0..360 degrees.
    """
    if camera.bearing is not None:
        check_heading(camera.bearing)
    stated = camera.completed_by(photo.metadata.camera)
    if stated.fov is None:
        return None
    known = stated.bearing
    one = replace(stated, heading=known)  # "unknown" would give eight rolled panoramas
    picture = pictures(photo, one, canvas, encoder.patch)[0]
    prior = heading_prior or prior_of(photo, camera)
    if picture.own_size:
        pixels = torch.from_numpy(np.array(picture.image)).permute(2, 0, 1)[None]
        shown, flat = 360.0 * picture.image.width / canvas.width, False  # type: ignore[union-attr]  # own_size
    else:
        pixels = resized(encoder.processor, [picture.image], "ground")
        shown, flat = stated.fov, not stated.is_panorama and stated.projection in (None, "perspective")
    rolled = picture.heading if stated.is_panorama and canvas is not None else 0.0
    columns = grid_of(encoder, *pixels.shape[-2:])[1]
    azimuths = column_azimuths(columns, shown, flat and shown < 180)
    return GroundView(pixels, azimuths, (known or 0.0) - rolled, rolled, prior, stated.is_panorama)
