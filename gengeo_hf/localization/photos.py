"""Reads photos and prepares the images that the model encodes.

A model trained on panoramas expects one scale in degrees per pixel (`gengeo_hf.common.projection`). An ordinary photo
is projected to this scale, with a width that corresponds to its field of view, as in training with a limited field of
view (`limited_fov`). A panorama is rolled to north by its heading; without a heading it is assumed to be aligned.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from gengeo_hf.common.camera import UNKNOWN_HEADING, CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import IMAGE_SUFFIXES, MIN_SIDE, ImageFile, find_images, read_image
from gengeo_hf.common.metadata import PhotoMetadata, PhotoPosition
from gengeo_hf.common.projection import (
    PanoramaCanvas,
    crop_or_pad_rows,
    is_steep,
    level_panorama,
    project_photo,
    roll_to_north,
    vertical_extent,
)
from gengeo_hf.common.video import BrokenFrame

if TYPE_CHECKING:
    from gengeo_hf.encoding.protocol import EncoderProtocol

TURNS = 8  # headings tried for a panorama of unknown heading: at most 22.5 degrees from the true one
PANORAMA, PHOTO = "panorama", "photo"  # values of `GenGeoConfig.ground_camera`
WIDEST = 3  # maximum factor by which a narrow photo is widened


class TooNarrowError(GenGeoError):
    """The field of view of one photo is too narrow for the model; other photos of the batch are not affected."""


class Picture(NamedTuple):
    """An image that is encoded for a photo.

    Args:
        image: RGB image.
        heading: Degrees by which the panorama was rolled.
        own_size: Whether the image is encoded at its own size instead of that of the ground view.
    """

    image: Image.Image
    heading: float = 0.0
    own_size: bool = False


@dataclass
class Photo:
    """A photo with its metadata.

    Args:
        image: Upright RGB image; None if it could not be read.
        metadata: Position, time and camera in its file.
        error: Why it could not be read; empty if it was.
        note: Note of the search or pose for the answer; empty if there is none.
        not_in_index: Probability that it was taken outside of the index; None without a calibration.
        refused: Why a requested pose could not be estimated; None if it was, or was not requested.
    """

    image: Image.Image | None
    metadata: PhotoMetadata = field(default_factory=PhotoMetadata)
    error: str = ""
    note: str = ""
    not_in_index: float | None = None
    refused: GenGeoError | None = None

    @property
    def position(self) -> PhotoPosition | None:
        """Position in the EXIF data; None if there is none."""
        return self.metadata.position

    @property
    def time(self) -> datetime | None:
        """Time in the EXIF data (local time of the camera); None if there is none."""
        return self.metadata.time


def find_photos(paths: Iterable[str | Path]) -> list[Path]:
    """List given photos, and the photos in given directories in the order of their names.

    Missing files are listed; their answers have an error.

    Args:
        paths: Files and directories.

    Raises:
        GenGeoError: A directory contains no photos.
    """
    photos: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            photos.append(path)
            continue
        inside = find_images(path)
        if not inside:
            raise GenGeoError(f"{path} holds no photo ({', '.join(IMAGE_SUFFIXES)})")
        photos.extend(inside)
    return photos


def read_photo(photo: Any) -> Photo:
    """Read a photo; a photo that cannot be read has an `error`.

    Large JPEG files are decoded at full size, so a photo has the same descriptor as from `Encoder`.

    Args:
        photo: Path, bytes, open file, PIL image, frame of a video, or result of `read_image`.
    """
    if isinstance(photo, BrokenFrame):
        return Photo(None, error=photo.error)
    try:
        found = photo if isinstance(photo, ImageFile) else read_image(photo)
    except GenGeoError as error:
        return Photo(None, error=str(error))
    return Photo(found.image, found.metadata)


def pictures(photo: Photo, camera: CameraView, canvas: PanoramaCanvas | None, patch: int = 1) -> list[Picture]:
    """Prepare the images to encode for one photo.

    Args:
        photo: Photo with an image.
        camera: Camera stated by the user or a table; missing values are taken from the file of the photo.
        canvas: Canvas of the model's panoramas; None (a model of ordinary photos) keeps the photo unchanged.
        patch: Widths of projected photos are multiples of this number of pixels.

    Returns:
        One picture; eight rolled panoramas if the heading is `UNKNOWN_HEADING`.

    Raises:
        GenGeoError: The part of the photo that lies on the canvas has a side of fewer than 8 pixels.
    """
    assert photo.image is not None
    found = _prepare(photo.image, camera.completed_by(photo.metadata.camera), canvas, patch)
    width, height = found[0].image.size
    if min(width, height) < MIN_SIDE:
        raise GenGeoError(
            f"the part of the photo within the model's field of view has {width} x {height} pixels; expected at least "
            f"{MIN_SIDE} on each side: give a larger photo, or state its field of view (--fov)"
        )
    return found


def _prepare(image: Image.Image, view: CameraView, canvas: PanoramaCanvas | None, patch: int) -> list[Picture]:
    """`pictures` of an image and its camera, of any size."""
    if canvas is None or view.fov is None:
        return [Picture(image)]
    if not view.is_panorama:
        return [Picture(project_photo(image, view, canvas, patch), own_size=True)]
    level = level_panorama(image, view)
    extent = view.vertical_fov if level is image else vertical_extent(image, view)
    panorama = crop_or_pad_rows(level, canvas, extent)
    if view.heading == UNKNOWN_HEADING:
        return [Picture(roll_to_north(panorama, turn * 360 / TURNS), turn * 360 / TURNS) for turn in range(TURNS)]
    heading = view.bearing or 0.0
    return [Picture(roll_to_north(panorama, heading), heading)]


def camera_notes(photo: Photo, camera: CameraView, canvas: PanoramaCanvas | None) -> list[str]:
    """Notes on assumptions about the camera of a photo; empty if there are none."""
    if photo.image is None:
        return []
    view = camera.completed_by(photo.metadata.camera)
    notes = list(photo.metadata.notes)
    if canvas is not None and view.fov is None:
        notes.append("field of view unknown: assumed to be a panorama; state it (--fov DEGREES)")
    elif canvas is not None and view.is_panorama and view.heading is None:
        notes.append("no heading in the file: assumed to be aligned with north")
    if canvas is None and not view.is_level:
        notes.append("pitch and roll are not used: this model was trained with ordinary photos")
    elif is_steep(view):
        notes.append(f"pitch {view.pitch or 0:g} and roll {view.roll or 0:g} are too large to be levelled: not used")
    elif not view.is_level and view.fov is not None:
        notes.append(f"levelled by pitch {view.pitch or 0:g} and roll {view.roll or 0:g} degrees")
    return notes


def panorama_canvas(encoder: "EncoderProtocol") -> PanoramaCanvas | None:
    """Canvas of the panoramas that a model was trained on, from its configuration; None for other models."""
    if encoder.ground_camera != PANORAMA:
        return None
    return PanoramaCanvas(*ground_size(encoder), encoder.ground_vertical_fov)


def ground_size(encoder: "EncoderProtocol") -> tuple[int, int]:
    """(height, width) of the model's ground images, pixels."""
    size = encoder.view_sizes["ground"]
    return int(size["height"]), int(size["width"])


def encode_pictures(encoder: "EncoderProtocol", images: Sequence[Picture]) -> tuple[np.ndarray, dict[int, float]]:
    """Encode ground pictures.

    Args:
        encoder: Encoder of the model.
        images: Pictures of `pictures`.

    Returns:
        Descriptors, float32 (pictures, dim), and the factor of each picture that was widened by its mirror image, by
        row.

    Raises:
        TooNarrowError: A projected photo is too narrow for the model.
    """
    out = np.empty((len(images), encoder.dim), np.float32)
    widened: dict[int, float] = {}
    whole = [row for row, picture in enumerate(images) if not picture.own_size]
    if whole:
        out[whole] = encoder.encode([images[row].image for row in whole], "ground")
    for width in sorted({picture.image.width for picture in images if picture.own_size}):
        rows = [row for row, picture in enumerate(images) if picture.own_size and picture.image.width == width]
        out[rows], wider = _encode_unrolled(encoder, [images[row].image for row in rows])
        if wider > width:
            widened |= dict.fromkeys(rows, wider / width)
    return out, widened


def widened_note(times: float) -> str:
    """Note for a photo that was widened by a factor."""
    return (
        f"narrow view: the photo was widened to {times:.1f} times its width by its mirror image, because the model "
        "needs more tokens; a wider photo gives a better answer"
    )


def _encode_unrolled(encoder: "EncoderProtocol", images: Sequence[Image.Image]) -> tuple[np.ndarray, int]:
    """Encode projected photos of one width; returns descriptors and the width at which they were encoded.

    The aggregator needs more tokens than it has clusters. A photo with fewer tokens is widened by its mirror image, up
    to `WIDEST` times its width; the scale stays the same.
    """
    width = images[0].width
    refused: ValueError | None = None
    for wider in range(width, WIDEST * width + 1, encoder.patch):
        try:
            return encoder.encode([_widened(image, wider) for image in images], "ground", resize=False), wider
        except GenGeoError:
            raise
        except ValueError as error:  # the model cannot take this size
            refused = refused or error
    raise TooNarrowError(
        "the field of view is too narrow for this model: take a photo with a wider view (less zoom, or a panorama)"
    ) from refused


def _widened(image: Image.Image, width: int) -> Image.Image:
    """Pad an image to a width with its mirror image on both sides."""
    left = (width - image.width) // 2
    pixels = np.pad(np.asarray(image), ((0, 0), (left, width - image.width - left), (0, 0)), mode="symmetric")
    return Image.fromarray(pixels)
