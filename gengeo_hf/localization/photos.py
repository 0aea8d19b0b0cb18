"""From a photo to the images that the model encodes: its camera, its time, its position.

A model of panoramas has learned one scale (`gengeo_hf.common.projection`). An ordinary photo is brought to it: unrolled
as the model's panoramas are, and as wide as its field of view, which is what training with a limited field of view
shows (`limited_fov`). A panorama is aligned with north by its heading; without one it is taken as aligned already.
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
from gengeo_hf.common.images import IMAGE_SUFFIXES, ImageFile, find_images, read_image
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

TURNS = 8  # headings tried for a panorama whose heading is unknown: at most 22.5 degrees from the true one
PANORAMA, PHOTO = "panorama", "photo"  # what `GenGeoConfig.ground_camera` may say


WIDEST = 3  # times its own width that a narrow photo is widened to


class TooNarrowError(GenGeoError):
    """What a photo shows is too narrow for the model: it concerns this photo, not the others in its batch."""


class Picture(NamedTuple):
    """What is encoded.

    Args:
        image: RGB.
        heading: Degrees that its panorama was rolled by.
        own_size: Whether it is encoded at its own size instead of the ground view's.
    """

    image: Image.Image
    heading: float = 0.0
    own_size: bool = False


@dataclass
class Photo:
    """One photo, read.

    Args:
        image: Upright RGB; None where it could not be read.
        metadata: What its file says about position, time and camera.
        error: Why it could not be read.
        note: What could not be found out while it was located; empty where nothing was left open.
        not_in_index: Probability that it was taken outside of the index; None without a calibration.
        refused: Why it has no pose, where one was wanted.
    """

    image: Image.Image | None
    metadata: PhotoMetadata = field(default_factory=PhotoMetadata)
    error: str = ""
    note: str = ""
    not_in_index: float | None = None
    refused: GenGeoError | None = None

    @property
    def position(self) -> PhotoPosition | None:
        """Position of its EXIF data."""
        return self.metadata.position

    @property
    def time(self) -> datetime | None:
        """When it was taken, as its EXIF data say (local time of the camera)."""
        return self.metadata.time


def find_photos(paths: Iterable[str | Path]) -> list[Path]:
    """Photos that are named, and those in folders that are named, in name order.

    Raises:
        GenGeoError: A folder without photos. A missing file is left for the answer to say.
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
    """Read a path, bytes, an open file, a PIL image, a frame or what `read_image` gave; `error` says what is wrong.

    All pixels are decoded, also of a large JPEG: a photo has the same descriptor here as from `Encoder`.
    """
    if isinstance(photo, BrokenFrame):
        return Photo(None, error=photo.error)
    try:
        found = photo if isinstance(photo, ImageFile) else read_image(photo)
    except GenGeoError as error:
        return Photo(None, error=str(error))
    return Photo(found.image, found.metadata)


def pictures(photo: Photo, camera: CameraView, canvas: PanoramaCanvas | None, patch: int = 1) -> list[Picture]:
    """The images to encode for one photo.

    Args:
        photo: With an image.
        camera: What the user or a table states; what it leaves open is taken from the photo's file.
        canvas: Of the model's panoramas; None, for a model of ordinary photos, leaves the photo as it is.
        patch: Widths of unrolled photos are multiples of this.
    """
    assert photo.image is not None
    view = camera.completed_by(photo.metadata.camera)
    if canvas is None or view.fov is None:
        return [Picture(photo.image)]
    if not view.is_panorama:
        return [Picture(project_photo(photo.image, view, canvas, patch), own_size=True)]
    level = level_panorama(photo.image, view)
    extent = view.vertical_fov if level is photo.image else vertical_extent(photo.image, view)
    panorama = crop_or_pad_rows(level, canvas, extent)
    if view.heading == UNKNOWN_HEADING:
        return [Picture(roll_to_north(panorama, turn * 360 / TURNS), turn * 360 / TURNS) for turn in range(TURNS)]
    heading = view.bearing or 0.0
    return [Picture(roll_to_north(panorama, heading), heading)]


def camera_notes(photo: Photo, camera: CameraView, canvas: PanoramaCanvas | None) -> list[str]:
    """What was assumed about how a photo was taken, or left out; empty where nothing was."""
    if photo.image is None:
        return []
    view = camera.completed_by(photo.metadata.camera)
    notes = list(photo.metadata.notes)
    if canvas is not None and view.fov is None:
        notes.append("field of view unknown, so the whole photo was taken for a panorama: state it (--fov DEGREES)")
    elif canvas is not None and view.is_panorama and view.heading is None:
        notes.append("its file states no heading: taken as north-aligned")
    if canvas is None and not view.is_level:
        notes.append("pitch and roll are not used: this model was trained with ordinary photos")
    elif is_steep(view):
        notes.append(f"pitch {view.pitch or 0:g} and roll {view.roll or 0:g} are too large to be levelled: not used")
    elif not view.is_level and view.fov is not None:
        notes.append(f"levelled by pitch {view.pitch or 0:g} and roll {view.roll or 0:g} degrees")
    return notes


def panorama_canvas(encoder: "EncoderProtocol") -> PanoramaCanvas | None:
    """The panoramas that a model was trained with, as its configuration states; None for any other model."""
    if encoder.ground_camera != PANORAMA:
        return None
    return PanoramaCanvas(*ground_size(encoder), encoder.ground_vertical_fov)


def ground_size(encoder: "EncoderProtocol") -> tuple[int, int]:
    """(height, width) in pixels at which a model encodes photos."""
    size = encoder.view_sizes["ground"]
    return int(size["height"]), int(size["width"])


def encode_pictures(encoder: "EncoderProtocol", asked: Sequence[Picture]) -> tuple[np.ndarray, dict[int, float]]:
    """Encode ground pictures.

    Returns:
        Descriptors, float32 (pictures, dim), and for each picture that was widened by its mirror image its row and how
        many times its own width it was encoded at.

    Raises:
        TooNarrowError: An unrolled photo is too narrow for the model.
    """
    out = np.empty((len(asked), encoder.dim), np.float32)
    widened: dict[int, float] = {}
    whole = [row for row, picture in enumerate(asked) if not picture.own_size]
    if whole:
        out[whole] = encoder.encode([asked[row].image for row in whole], "ground")
    for width in sorted({picture.image.width for picture in asked if picture.own_size}):
        rows = [row for row, picture in enumerate(asked) if picture.own_size and picture.image.width == width]
        out[rows], wider = _encode_unrolled(encoder, [asked[row].image for row in rows])
        if wider > width:
            widened |= dict.fromkeys(rows, wider / width)
    return out, widened


def widened_note(times: float) -> str:
    """What to say about a photo that was widened to so many times its width."""
    return (
        f"narrow view: the model needs more of it, so the photo was widened to {times:.1f} times its width by its own "
        "mirror image; a wider photo gives a better answer"
    )


def _encode_unrolled(encoder: "EncoderProtocol", images: Sequence[Image.Image]) -> tuple[np.ndarray, int]:
    """Descriptors of unrolled photos of one width, and the width at which they were encoded.

    A head needs more tokens than it has clusters. A photo that gives fewer is widened by its own mirror image, up to
    three times its width, which keeps its scale.
    """
    width = images[0].width
    refused: ValueError | None = None
    for wider in range(width, WIDEST * width + 1, encoder.patch):
        try:
            return encoder.encode([_widened(image, wider) for image in images], "ground", resize=False), wider
        except GenGeoError:
            raise
        except ValueError as error:  # the model names the sizes that it cannot take
            refused = refused or error
    raise TooNarrowError(
        "the field of view is too narrow for this model: take a photo with a wider view (less zoom, or a panorama)"
    ) from refused


def _widened(image: Image.Image, width: int) -> Image.Image:
    """The image in the middle of its mirror images."""
    left = (width - image.width) // 2
    pixels = np.pad(np.asarray(image), ((0, 0), (left, width - image.width - left), (0, 0)), mode="symmetric")
    return Image.fromarray(pixels)
