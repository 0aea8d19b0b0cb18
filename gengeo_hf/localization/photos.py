"""From a photo to the pictures that the model is asked about: its field of view, its heading, its time.

Before: files from phones, cameras and cars. After: locate.py encodes the pictures and searches with each of them.

A model of panoramas has learned one scale (canvas.py). An ordinary photo is brought to it: unrolled as the model's
panoramas are, and as wide as its field of view, which is what training with a limited field of view shows
(`limited_fov`). A panorama is taken as north-aligned, as in the benchmarks, unless its heading is given or unknown.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.localization.canvas import WIDEST_PLANE, Canvas, fitted, turned, unrolled

if TYPE_CHECKING:
    from gengeo_hf.common.images import PhotoPosition
    from gengeo_hf.encoding.protocol import EncoderProtocol

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif")
FULL_FRAME_DIAGONAL_MM = math.hypot(36, 24)  # what "35 mm equivalent" is equivalent to (CIPA DC-008, FocalLengthIn35mm)
TURNS = 8  # headings tried for a panorama whose heading is unknown: at most 22.5 degrees from the true one
_XMP = {
    "pose": rb"PoseHeadingDegrees[=>\"']+\s*([-0-9.]+)",
    "full": rb"FullPanoWidthPixels[=>\"']+\s*([0-9]+)",
    "part": rb"CroppedAreaImageWidthPixels[=>\"']+\s*([0-9]+)",
}  # GPano, as attribute or as element: https://developers.google.com/streetview/spherical-metadata


class TooNarrowError(GenGeoError):
    """What a photo shows is too narrow for the model: a word about this photo, and not about the others with it."""


@dataclass(frozen=True)
class Look:
    """How photos look at the world, where the user knows better than their files.

    Args:
        fov: horizontal field of view in degrees; None takes it from the file (focal length in EXIF, GPano in XMP, a
            panorama by its shape), and where that does not tell, photos go to the model whole.
        heading: of a panorama's centre column, degrees clockwise from north; "exif" takes the file's; "unknown" tries
            eight directions and keeps the best for each tile. An ordinary photo needs none.

    Raises:
        GenGeoError: a field of view outside 1..360 degrees, or an unknown word.
    """

    fov: float | None = None
    heading: float | str = 0.0

    def __post_init__(self) -> None:
        if self.fov is not None and not 1 <= self.fov <= 360:
            raise GenGeoError(f"a field of view lies in 1..360 degrees, found {self.fov:g}")
        words = ("exif", "unknown")
        if self.heading not in words and not (isinstance(self.heading, int | float) and math.isfinite(self.heading)):
            raise GenGeoError(f"a heading is a number of degrees, exif or unknown, found {self.heading!r}")


class Picture(NamedTuple):
    """What is encoded.

    Args:
        image: RGB.
        heading: degrees that its panorama was turned by.
        own_size: encode it at its own size instead of the ground view's.
    """

    image: Image.Image
    heading: float = 0.0
    own_size: bool = False


@dataclass
class Photo:
    """One photo, read.

    Args:
        image: upright RGB; None where it could not be read.
        fov: horizontal degrees that its file tells; None where it does not.
        heading: of its centre column, that its file tells.
        position: of its EXIF data.
        time: when it was taken, as its EXIF data say (local time of the camera).
        error: why it could not be read.
        flat: the picture of an ordinary lens; False for a part of an equirectangular panorama, as its file says.
    """

    image: Image.Image | None
    fov: float | None = None
    heading: float | None = None
    position: "PhotoPosition | None" = None
    time: datetime | None = None
    error: str = ""
    flat: bool = True


def look_of(fov: float | None, heading: str) -> Look:
    """A `Look` from what people write.

    Args:
        fov: see `Look`.
        heading: a number of degrees, `exif` or `unknown`.

    Raises:
        GenGeoError: see `Look`.
    """
    try:
        degrees = float(heading)
    except ValueError:
        return Look(fov, heading)
    return Look(fov, degrees)


def find_photos(paths: Iterable[str | Path]) -> list[Path]:
    """Photos that are named, and those in folders that are named, in name order.

    Raises:
        GenGeoError: a folder without photos. A missing file is left for the answer to say.
    """
    photos: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            photos.append(path)
            continue
        inside = sorted(child for child in path.rglob("*") if child.suffix.lower() in PHOTO_SUFFIXES)
        if not inside:
            raise GenGeoError(f"{path} holds no photo ({', '.join(PHOTO_SUFFIXES)})")
        photos.extend(inside)
    return photos


def opened(photo: Any, enough: tuple[int, int] | None = None) -> Image.Image:
    """An upright PIL image from a path, bytes, an open file or an image; see `open_image`."""
    from gengeo_hf.common.images import open_image
    from gengeo_hf.encoding.inputs import load_image

    return load_image(photo) if isinstance(photo, Image.Image) else open_image(photo, enough=enough)


def read_photo(photo: Any, enough: tuple[int, int] | None = None) -> Photo:
    """Read a path, bytes, an open file or a PIL image; what is wrong with it is in `error`.

    Args:
        photo: what is read.
        enough: (height, width) in pixels that the model looks at, see `open_image`.
    """
    from gengeo_hf.common.images import photo_position

    try:
        image = opened(photo, enough)
        position = photo_position(photo)
    except GenGeoError as error:
        return Photo(None, error=str(error))
    with _header(photo) as header:
        fov, heading, time, flat = _told(header, image)
    if heading is None and position is not None:
        heading = position.heading
    return Photo(image, fov, heading, position, time, flat=flat)


def pictures(photo: Photo, look: Look, canvas: Canvas | None, patch: int = 1) -> list[Picture]:
    """The pictures to encode for one photo.

    Args:
        photo: with an image.
        look: what the user knows.
        canvas: of the model's panoramas; None, for a model of ordinary photos, leaves the photo as it is.
        patch: widths of cut-outs are multiples of this.
    """
    assert photo.image is not None
    fov = look.fov or photo.fov
    if canvas is None or fov is None:
        return [Picture(photo.image)]
    if fov < 360:
        flat = photo.flat and fov <= WIDEST_PLANE
        return [Picture(unrolled(photo.image, fov, canvas, patch, flat), own_size=True)]
    panorama = fitted(photo.image, canvas)
    if look.heading == "unknown":
        return [Picture(turned(panorama, turn * 360 / TURNS), turn * 360 / TURNS) for turn in range(TURNS)]
    heading = (photo.heading or 0.0) if look.heading == "exif" else float(look.heading)
    return [Picture(turned(panorama, heading), heading)]


def note_of(photo: Photo, look: Look, canvas: Canvas | None) -> str:
    """What the user should know about how a photo was looked at; empty where nothing was guessed."""
    fov = look.fov or photo.fov
    if photo.image is None or canvas is None:
        return ""
    if fov is None:
        return "field of view unknown, so the whole photo was taken for a panorama: give --fov"
    if fov == 360 and look.heading == "exif" and photo.heading is None:
        return "its file tells no heading: taken as north-aligned"
    return ""


def encode_pictures(encoder: "EncoderProtocol", asked: Sequence[Picture]) -> np.ndarray:
    """Descriptors of ground pictures: float32 (pictures, dim).

    Raises:
        TooNarrowError: a cut-out is too narrow for the model.
    """
    out = np.empty((len(asked), encoder.dim), np.float32)
    whole = [number for number, picture in enumerate(asked) if not picture.own_size]
    if whole:
        out[whole] = encoder.encode([asked[number].image for number in whole], "ground")
    for width in sorted({picture.image.width for picture in asked if picture.own_size}):
        rows = [n for n, picture in enumerate(asked) if picture.own_size and picture.image.width == width]
        try:
            out[rows] = encoder.encode([asked[row].image for row in rows], "ground", resize=False)
        except GenGeoError:
            raise
        except ValueError as error:  # the model's message about sizes that it cannot take
            raise TooNarrowError(f"the field of view is too narrow for this model: {error}") from error
    return out


def _header(photo: Any) -> Image.Image:
    """The file with only its header read: pixels that were converted have lost their EXIF."""
    from gengeo_hf.common.images import image_header

    if isinstance(photo, Image.Image):
        return photo.copy()  # closing the copy leaves the caller's image open
    if isinstance(photo, str | Path):
        return image_header(photo)
    if not isinstance(photo, bytes):
        photo.seek(0)
        return image_header(photo.read())
    return image_header(photo)


def _told(header: Image.Image, image: Image.Image) -> tuple[float | None, float | None, datetime | None, bool]:
    """Field of view, heading and time that a file tells, and whether it is the picture of an ordinary lens."""
    try:
        exif = header.getexif().get_ifd(ExifTags.IFD.Exif)
    except Exception:  # damaged EXIF raises whatever its parser meets; the pixels are fine
        exif = {}
    xmp = _xmp(header)
    fov = _field_of_view(exif.get(ExifTags.Base.FocalLengthIn35mmFilm), image.size)
    full, part = xmp.get("full"), xmp.get("part")
    flat = not (full and part)
    if full and part:
        fov = min(360.0, max(1.0, 360.0 * part / full))
    elif fov is None and abs(image.width - 2 * image.height) <= 0.01 * image.width:
        fov = 360.0  # equirectangular: nothing else is exactly twice as wide as high
    return fov, xmp.get("pose"), _time(exif), flat


def _xmp(header: Image.Image) -> dict[str, float]:
    """The numbers of `_XMP` that a file tells; anyone can write anything there, so what is no number is not told."""
    text = header.info.get("xmp") or b""
    text = text.encode() if isinstance(text, str) else text
    numbers: dict[str, float] = {}
    for name, pattern in _XMP.items():
        found = re.search(pattern, text) if isinstance(text, bytes) else None
        with contextlib.suppress(ValueError):
            if found and math.isfinite(number := float(found[1])):
                numbers[name] = number
    return numbers


def _field_of_view(focal_35mm: Any, size: tuple[int, int]) -> float | None:
    """Horizontal degrees of a lens whose 35 mm equivalent is by the diagonal, on an image of (width, height)."""
    try:
        focal = float(focal_35mm)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not (math.isfinite(focal) and focal > 0):
        return None
    width_mm = FULL_FRAME_DIAGONAL_MM * size[0] / math.hypot(*size)
    return math.degrees(2 * math.atan(width_mm / 2 / focal))


def _time(exif: Any) -> datetime | None:
    """DateTimeOriginal with its fraction of a second."""
    text = str(exif.get(ExifTags.Base.DateTimeOriginal, "")).strip("\0 ")
    try:
        time = datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    fraction = re.fullmatch(r"\d{1,9}", str(exif.get(ExifTags.Base.SubsecTimeOriginal, "")).strip("\0 "))
    return time + timedelta(seconds=float(f"0.{fraction[0]}")) if fraction else time
