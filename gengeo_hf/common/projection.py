"""Photos and panoramas brought to one geometry: aligned with north, levelled, and at the scale of a model.

A model of panoramas has learned one scale: its width is 360 degrees of azimuth, its height some degrees of elevation,
the horizon in the middle. Both are equirectangular, linear in their angle, but a pixel need not be as many degrees
high as wide: whole spheres (CVACT, VIGOR) and cropped ones (CVUSA, the synthetic world) are squeezed into the model's
size. So a photo is drawn at the horizontal and the vertical scale of the panoramas that the model was trained on.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.images import BACKGROUND

WIDEST_PLANE = 170.0  # degrees: a plane cannot show 180
STEEPEST = 60.0  # degrees of pitch or roll up to which photos are levelled; beyond, too little of the horizon is left
SAME_SHAPE = 0.01  # shapes that differ by less are one shape
LEVELLED_WIDTH = 2048  # pixels: a panorama is not resampled at more; models look at less


class PanoramaCanvas(NamedTuple):
    """The panoramas that a model was trained with.

    Args:
        height: Pixels.
        width: Pixels, for 360 degrees.
        vertical_fov: Degrees of elevation from the bottom row to the top row; None where the checkpoint does not say.
    """

    height: int
    width: int
    vertical_fov: float | None = None

    @property
    def pixel(self) -> tuple[float, float]:
        """Radians that a pixel is high and wide; as high as wide where nothing is known."""
        wide = 2 * math.pi / self.width
        high = wide if self.vertical_fov is None else math.radians(self.vertical_fov) / self.height
        return high, wide


def north_aligned(image: Image.Image, camera: CameraView) -> Image.Image:
    """A whole panorama, level, with its centre column looking north; any other image as it is.

    Without a heading the panorama is taken as aligned already, as the published benchmarks are.

    Args:
        image: RGB.
        camera: How it was taken.
    """
    if not camera.is_panorama:
        return image
    return rolled(levelled(image, camera), camera.bearing or 0.0)


def rolled(panorama: Image.Image, heading: float) -> Image.Image:
    """Roll a panorama whose centre looks at `heading` degrees so that its centre looks north."""
    shift = round(heading / 360 * panorama.width) % panorama.width
    if shift == 0:
        return panorama
    return Image.fromarray(np.roll(np.asarray(panorama), shift, axis=1))


def levelled(panorama: Image.Image, camera: CameraView) -> Image.Image:
    """A whole panorama as an upright camera would have taken it at the same heading, equirectangular.

    Rows that the panorama does not show are the ImageNet mean.
    """
    if camera.is_level and camera.projection != "cylindrical" and not camera.middle_elevation:
        return panorama
    width = min(panorama.width, LEVELLED_WIDTH)
    rise = math.radians(vertical_extent(panorama, camera))
    height = max(1, round(width * panorama.height / panorama.width))
    azimuth = ((np.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    elevation = (0.5 - (np.arange(height) + 0.5) / height) * rise
    return _resampled(panorama, camera, azimuth, elevation[:, None])


def fitted(panorama: Image.Image, canvas: PanoramaCanvas, vertical_fov: float | None = None) -> Image.Image:
    """A level whole panorama with the rows that the model expects: cropped about its middle, or padded.

    Args:
        panorama: RGB, equirectangular, the horizon in its middle.
        canvas: Of the model.
        vertical_fov: Degrees that the panorama shows; None takes a pixel as as many degrees high as wide, and leaves a
            panorama of the model's own shape alone, since it comes from where the model's data came from.
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


def unrolled(photo: Image.Image, camera: CameraView, canvas: PanoramaCanvas, patch: int = 1) -> Image.Image:
    """A photo, or a part of a panorama, as the model would see it: the model's height, as wide as the field of view.

    What the photo does not show is the ImageNet mean. Pitch and roll up to 60 degrees are levelled.

    Args:
        photo: RGB.
        camera: With a field of view below 360 degrees.
        canvas: Of the model.
        patch: The width is a multiple of this; the scale stays exact, so the sides are cropped or padded.
    """
    assert camera.fov is not None
    high, wide = canvas.pixel
    width = min(canvas.width // patch, max(1, round(canvas.width * camera.fov / 360 / patch))) * patch
    azimuth = (np.arange(width) + 0.5 - width / 2) * wide
    elevation = ((canvas.height / 2 - np.arange(canvas.height) - 0.5) * high)[:, None]
    # As many pixels as the canvas has in the middle, no more: the interpolation does not average.
    half, rise = _half_extents(photo.size, camera)
    sharp = max(1, round(2 * half / wide)), max(1, round(2 * rise / high))
    small = photo.resize((min(photo.width, sharp[0]), min(photo.height, sharp[1])))
    return _resampled(small, camera, azimuth, elevation, shape=photo.size)


def is_steep(camera: CameraView) -> bool:
    """Whether pitch or roll of a photo are too large to be levelled."""
    return not camera.is_panorama and max(abs(camera.pitch or 0.0), abs(camera.roll or 0.0)) > STEEPEST


def vertical_extent(panorama: Image.Image, camera: CameraView) -> float:
    """Degrees of elevation from the bottom to the top row of `levelled(panorama, camera)`."""
    rise = _half_extents(panorama.size, camera)[1]
    return math.degrees(2 * (math.atan(rise) if camera.projection == "cylindrical" else rise))


def _resampled(
    image: Image.Image,
    camera: CameraView,
    azimuth: np.ndarray,
    elevation: np.ndarray,
    shape: tuple[int, int] | None = None,
) -> Image.Image:
    """The image in directions of a level camera of the same heading.

    Args:
        image: RGB; it may have been resized from `shape`.
        camera: How it was taken.
        azimuth: Radians to the right of its heading, (width,).
        elevation: Radians above the horizon, (height, 1).
        shape: Width and height of the image before it was resized.
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
    if whole:  # the first column follows the last
        columns = columns % image.width
        pixels = np.concatenate([pixels, pixels[:, :1]], axis=1)
    bands = [map_coordinates(pixels[..., band], (rows, columns), order=1, mode="nearest") for band in range(3)]
    seen = np.where(shown[..., None], np.stack(bands, axis=-1), np.array(BACKGROUND, np.float32))
    return Image.fromarray(np.clip(np.rint(seen), 0, 255).astype(np.uint8))


def _plane(camera: CameraView, azimuth: np.ndarray, elevation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in the image plane of directions: right and up, (height, width); infinite behind an ordinary lens."""
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
    """Whether the image is a plane: it is said so, or nothing is said and its field of view allows it."""
    return camera.projection in (None, "perspective") and (camera.fov or 0.0) <= WIDEST_PLANE


def _half_extents(shape: tuple[int, int], camera: CameraView) -> tuple[float, float]:
    """Half the width and height of the image in the units of `_plane`: focal lengths or radians."""
    assert camera.fov is not None
    half = math.radians(camera.fov) / 2
    square = shape[1] / shape[0]  # pixels as high as wide
    if _is_flat(camera):
        half = math.tan(half)
        return half, half * square
    if camera.projection == "cylindrical":
        return half, half * square
    return half, math.radians(camera.vertical_fov) / 2 if camera.vertical_fov else min(half * square, math.pi / 2)
