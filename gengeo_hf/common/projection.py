"""Projections of photos and panoramas: align with north, level, and resample at the scale of a model.

A model of panoramas has learned one scale: the width is 360 degrees of azimuth, the height a range of elevations with
the horizon in the middle. Both axes are linear in the angle (equirectangular), but with different scales: full spheres
(CVACT, VIGOR) and cropped panoramas (CVUSA, the synthetic world) are resized to the input size of the model. A photo is
therefore resampled at the horizontal and the vertical scale of the panoramas that the model was trained on.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.images import BACKGROUND

WIDEST_PLANE = 170.0  # degrees: a perspective image cannot have a field of view of 180
STEEPEST = 60.0  # degrees of pitch or roll up to which photos are levelled; above, too little horizon is visible
SAME_SHAPE = 0.01  # relative difference below which two aspect ratios are equal
LEVELLED_WIDTH = 2048  # pixels: width limit of levelled panoramas; inputs of models are smaller


class PanoramaCanvas(NamedTuple):
    """Geometry of the panoramas that a model was trained with.

    Args:
        height: Height in pixels.
        width: Width in pixels, for 360 degrees.
        vertical_fov: Degrees of elevation from the bottom to the top; None if the checkpoint does not state it.
    """

    height: int
    width: int
    vertical_fov: float | None = None

    @property
    def pixel(self) -> tuple[float, float]:
        """Height and width of a pixel in radians; equal if the vertical field of view is unknown."""
        wide = 2 * math.pi / self.width
        high = wide if self.vertical_fov is None else math.radians(self.vertical_fov) / self.height
        return high, wide


def align_with_north(image: Image.Image, camera: CameraView) -> Image.Image:
    """Level a whole panorama and roll it so that its centre column faces north; return other images unchanged.

    A panorama without a heading is assumed to be aligned, as those of the published benchmarks are.

    Args:
        image: RGB image.
        camera: How the image was taken.
    """
    if not camera.is_panorama:
        return image
    return roll_to_north(level_panorama(image, camera), camera.bearing or 0.0)


def roll_to_north(panorama: Image.Image, heading: float) -> Image.Image:
    """Roll a panorama whose centre column faces `heading` (degrees) so that its centre column faces north."""
    shift = round(heading / 360 * panorama.width) % panorama.width
    if shift == 0:
        return panorama
    return Image.fromarray(np.roll(np.asarray(panorama), shift, axis=1))


def level_panorama(panorama: Image.Image, camera: CameraView) -> Image.Image:
    """Resample a whole panorama to equirectangular with zero pitch and roll, at the same heading.

    Pixels outside the panorama have the colour `BACKGROUND`.
    """
    if camera.is_level and camera.projection != "cylindrical" and not camera.middle_elevation:
        return panorama
    width = min(panorama.width, LEVELLED_WIDTH)
    rise = math.radians(vertical_extent(panorama, camera))
    height = max(1, round(width * panorama.height / panorama.width))
    azimuth = ((np.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    elevation = (0.5 - (np.arange(height) + 0.5) / height) * rise
    return _resample(panorama, camera, azimuth, elevation[:, None])


def crop_or_pad_rows(panorama: Image.Image, canvas: PanoramaCanvas, vertical_fov: float | None = None) -> Image.Image:
    """Crop or pad the top and bottom of a level whole panorama to the elevations of the model.

    Args:
        panorama: RGB image, equirectangular, with the horizon in the middle.
        canvas: Panoramas of the model.
        vertical_fov: Degrees of elevation that the panorama covers. None assumes square pixels, and returns a panorama
            of the aspect ratio of the model unchanged, since it probably has the format of the training data.
    """
    width, height = panorama.size
    if canvas.vertical_fov is None:
        return panorama
    if vertical_fov is None:
        if abs(width * canvas.height / (height * canvas.width) - 1) <= SAME_SHAPE:
            return panorama
        vertical_fov = 360 * height / width
    rows = max(1, round(height * canvas.vertical_fov / vertical_fov))
    if abs(rows - height) <= SAME_SHAPE * height:
        return panorama
    top = (height - rows) // 2
    if top >= 0:
        return panorama.crop((0, top, width, top + rows))
    filled = Image.new("RGB", (width, rows), BACKGROUND)
    filled.paste(panorama, (0, -top))
    return filled


def project_photo(photo: Image.Image, camera: CameraView, canvas: PanoramaCanvas, patch: int = 1) -> Image.Image:
    """Resample a photo, or a part of a panorama, to the scale of the model: its height, and the width of the photo.

    Pixels outside the photo have the colour `BACKGROUND`. Pitch and roll up to 60 degrees are levelled.

    Args:
        photo: RGB image.
        camera: How the photo was taken; its field of view must be known and below 360 degrees.
        canvas: Panoramas of the model.
        patch: Number of pixels of which the width is a multiple. The scale is kept: the sides are cropped or padded.
    """
    assert camera.fov is not None
    high, wide = canvas.pixel
    width = min(canvas.width // patch, max(1, round(canvas.width * camera.fov / 360 / patch))) * patch
    azimuth = (np.arange(width) + 0.5 - width / 2) * wide
    elevation = ((canvas.height / 2 - np.arange(canvas.height) - 0.5) * high)[:, None]
    # Reduce to the resolution of the canvas first: the interpolation does not average.
    half, rise = _half_extents(photo.size, camera)
    sharp = max(1, round(2 * half / wide)), max(1, round(2 * rise / high))
    small = photo.resize((min(photo.width, sharp[0]), min(photo.height, sharp[1])))
    return _resample(small, camera, azimuth, elevation, shape=photo.size)


def is_steep(camera: CameraView) -> bool:
    """Whether pitch or roll of a photo are too large for levelling."""
    return not camera.is_panorama and max(abs(camera.pitch or 0.0), abs(camera.roll or 0.0)) > STEEPEST


def vertical_extent(panorama: Image.Image, camera: CameraView) -> float:
    """Degrees of elevation from the bottom to the top of `level_panorama(panorama, camera)`."""
    rise = _half_extents(panorama.size, camera)[1]
    return math.degrees(2 * (math.atan(rise) if camera.projection == "cylindrical" else rise))


def _resample(
    image: Image.Image,
    camera: CameraView,
    azimuth: np.ndarray,
    elevation: np.ndarray,
    shape: tuple[int, int] | None = None,
) -> Image.Image:
    """Sample the image in directions relative to its heading and the horizon.

    Args:
        image: RGB image; it may have been resized from `shape`.
        camera: How the image was taken.
        azimuth: Radians to the right of the heading, shape (width,).
        elevation: Radians above the horizon, shape (height, 1).
        shape: Width and height of the image before it was resized; None for an image that was not resized.
    """
    from scipy.ndimage import map_coordinates

    u, v = _plane(camera, azimuth, elevation)
    half, rise = _half_extents(shape or image.size, camera)
    middle = math.radians(camera.middle_elevation or 0.0)
    v = v - (math.tan(middle) if camera.projection == "cylindrical" else middle)
    whole = camera.is_panorama
    shown = (np.isfinite(u) if whole else np.abs(u) <= half) & (np.abs(v) <= rise)
    columns = image.width / 2 * (1 + np.where(np.isfinite(u), u, 0) / half) - 0.5
    rows = image.height / 2 * (1 - np.where(np.isfinite(v), v, 0) / rise) - 0.5
    pixels = np.asarray(image, dtype=np.float32)
    if whole:  # interpolate between the last and the first column
        columns = columns % image.width
        pixels = np.concatenate([pixels, pixels[:, :1]], axis=1)
    bands = [map_coordinates(pixels[..., band], (rows, columns), order=1, mode="nearest") for band in range(3)]
    seen = np.where(shown[..., None], np.stack(bands, axis=-1), np.array(BACKGROUND, np.float32))
    return Image.fromarray(np.clip(np.rint(seen), 0, 255).astype(np.uint8))


def _plane(camera: CameraView, azimuth: np.ndarray, elevation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project directions to image coordinates right and up, (height, width); infinite behind a perspective camera."""
    azimuth, elevation = np.broadcast_arrays(azimuth, elevation)
    right, ahead, up = np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)
    if not camera.is_level and not is_steep(camera):
        pitch, roll = math.radians(camera.pitch or 0.0), math.radians(camera.roll or 0.0)
        forward = ahead * math.cos(pitch) + up * math.sin(pitch)
        above = up * math.cos(pitch) - ahead * math.sin(pitch)
        right, ahead, up = (
            right * math.cos(roll) - above * math.sin(roll),
            forward,
            right * math.sin(roll) + above * math.cos(roll),
        )
    if _is_flat(camera):
        with np.errstate(divide="ignore", invalid="ignore"):
            before = ahead > 1e-3
            return np.where(before, right / ahead, np.inf), np.where(before, up / ahead, np.inf)
    u, distance = np.arctan2(right, ahead), np.hypot(right, ahead)
    if camera.projection == "cylindrical":
        with np.errstate(divide="ignore"):
            return u, up / distance
    return u, np.arctan2(up, distance)


def _is_flat(camera: CameraView) -> bool:
    """Whether the image is perspective: stated, or not stated and compatible with its field of view."""
    return camera.projection in (None, "perspective") and (camera.fov or 0.0) <= WIDEST_PLANE


def _half_extents(shape: tuple[int, int], camera: CameraView) -> tuple[float, float]:
    """Return half the width and height of the image in the units of `_plane`: focal lengths or radians."""
    assert camera.fov is not None
    half = math.radians(camera.fov) / 2
    square = shape[1] / shape[0]  # square pixels
    if _is_flat(camera):
        half = math.tan(half)
        return half, half * square
    if camera.projection == "cylindrical":
        return half, half * square
    return half, math.radians(camera.vertical_fov) / 2 if camera.vertical_fov else min(half * square, math.pi / 2)
