"""One photo or tile from anywhere, as an upright RGB image.

Before: a path, bytes or an open file, from a phone, a drone, a scanner, a GIS. After: whatever resizes and encodes it.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from gengeo_hf.common.errors import GenGeoError, MissingExtraError

BACKGROUND = (124, 116, 104)  # the ImageNet mean: what is see-through says nothing to the model
MIN_SIDE = 8  # pixels; below, there is nothing to recognise
# What photos and tiles come as. Not everything that Pillow knows: EPS, for one, would start Ghostscript on the file.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

Source = str | Path | bytes | BinaryIO


@dataclass(frozen=True)
class PhotoPosition:
    """Where a photo's EXIF says that it was taken.

    Args:
        lat: degrees, WGS84.
        lon: degrees, WGS84.
        heading: degrees clockwise from north of the image's centre column, or None.
        error_m: the receiver's own horizontal error in metres, or None.
        heading_is_magnetic: the heading counts from magnetic north, which is some degrees off.
    """

    lat: float
    lon: float
    heading: float | None = None
    error_m: float | None = None
    heading_is_magnetic: bool = False


def open_image(
    source: Source, background: tuple[int, int, int] = BACKGROUND, enough: tuple[int, int] | None = None
) -> Image.Image:
    """Decode an image completely: RGB, upright, 8 bits per channel.

    EXIF orientation is applied. Transparency is laid over `background`. 16-bit grey is scaled from the least number
    of bits that holds its maximum (12-bit sensor data stay bright). The fourth band of a TIFF is dropped unless it is
    a mask of 0 and 255: aerial RGB+NIR files call near infrared "alpha". Of an animation the first frame is taken.

    Args:
        source: a path, the file's bytes, or a file object opened in binary mode.
        background: grey levels of red, green, blue behind what is transparent.
        enough: (height, width) in pixels that the upright image will be made smaller to. A JPEG with at least four
            times as many each way comes back at 1/2, 1/4 or 1/8 of its size, never below twice what is enough: the
            decoder leaves the finest part of the cosine transform out, which takes half the time. None decodes all.

    Returns:
        An image of mode RGB.

    Raises:
        GenGeoError: nothing is there, it is no image, it is damaged or cut off, smaller than 8 pixels, or larger than
            twice `PIL.Image.MAX_IMAGE_PIXELS` (179 million: against files that unpack to fill the memory).
        MissingExtraError: a HEIC photo, and pillow-heif is not installed.
    """
    name = _name(source)
    try:
        with _opened(source, name) as image:
            if min(image.size) < MIN_SIDE:
                width, height = image.size
                raise GenGeoError(f"{name} has {width} x {height} pixels; expected at least {MIN_SIDE} on each side")
            if enough is not None:
                _reduce(image, enough)
            image.load()
            return _upright(_rgb(image, background), image)
    except GenGeoError:
        raise
    except Exception as error:  # decoders meet damaged files in many ways; all mean the same to who gave the file
        raise GenGeoError(
            f"{name} is damaged or cut off ({str(error) or type(error).__name__}); copy or download it again"
        ) from error


def image_header(source: str | Path | bytes | BinaryIO) -> Image.Image:
    """Pillow's image with only its header read, if it is of one of `FORMATS`.

    Raises:
        PIL.UnidentifiedImageError: it is of another format, or none.
    """
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # HEIF only once its opener is registered
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=known)


def photo_position(source: Source | Image.Image) -> PhotoPosition | None:
    """Read where and in which direction a photo was taken from its EXIF.

    Args:
        source: as in `open_image`, or an image that PIL has opened (before any conversion: that drops the EXIF).

    Returns:
        The position, or None where there is none, or one that no receiver gives: NaN, (0, 0), out of range.

    Raises:
        GenGeoError: the file is missing or no image.
    """
    try:
        if isinstance(source, Image.Image):
            tags = source.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        else:
            with _opened(source, _name(source)) as image:
                tags = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    except GenGeoError:
        raise
    except Exception as error:  # a PNG is decoded to its end for its EXIF
        name = "the image" if isinstance(source, Image.Image) else _name(source)
        raise GenGeoError(f"{name} is damaged or cut off ({str(error) or type(error).__name__})") from error
    lat = _degrees(tags.get(ExifTags.GPS.GPSLatitude), tags.get(ExifTags.GPS.GPSLatitudeRef), "N", "S")
    lon = _degrees(tags.get(ExifTags.GPS.GPSLongitude), tags.get(ExifTags.GPS.GPSLongitudeRef), "E", "W")
    if lat is None or lon is None or abs(lat) > 90 or abs(lon) > 180 or (lat == 0 and lon == 0):
        return None
    heading = _number(tags.get(ExifTags.GPS.GPSImgDirection))
    error_m = _number(tags.get(ExifTags.GPS.GPSHPositioningError))
    return PhotoPosition(
        lat,
        lon,
        None if heading is None else heading % 360.0,
        error_m if error_m is not None and error_m >= 0 else None,
        _text(tags.get(ExifTags.GPS.GPSImgDirectionRef)) == "M",
    )


def _name(source: Source) -> str:
    """How messages call the source."""
    if isinstance(source, bytes):
        return f"the image of {len(source)} bytes"
    return str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "the image"))


def _opened(source: Source, name: str) -> Image.Image:
    """The image with only its header read."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise GenGeoError(f"{name} is a web address: download the image and give its path")
    if isinstance(source, str | Path):
        if Path(source).is_dir():
            raise GenGeoError(f"{name} is a folder, expected an image file")
        if not Path(source).is_file():
            raise GenGeoError(f"there is no image {name}; check the path")
    try:
        return image_header(source)
    except Image.DecompressionBombError as error:
        first = str(error).split(", could be")[0]
        raise GenGeoError(
            f"{name}: {first}; make it smaller, or index imagery as a GeoTIFF, which is read in windows"
        ) from error
    except UnidentifiedImageError as error:
        head = _head(source)
        if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
            return _open_heif(source, name)
        found = "is empty" if not head else f"is no image of a known kind (it starts with {head[:8]!r})"
        raise GenGeoError(f"{name} {found}; expected a JPEG, PNG, WebP, TIFF or HEIC file") from error
    except Exception as error:
        raise GenGeoError(f"{name} cannot be opened ({error}); copy or download it again") from error


def _head(source: Source) -> bytes:
    """The first bytes of the source."""
    if isinstance(source, bytes):
        return source[:16]
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return file.read(16)
    source.seek(0)
    return source.read(16)


def _open_heif(source: Source, name: str) -> Image.Image:
    """Open a HEIC photo, as telephones make them, with pillow-heif."""
    try:
        import pillow_heif
    except ImportError as error:
        raise MissingExtraError("pillow-heif", "heic", f"open {name}, a HEIC photo") from error
    pillow_heif.register_heif_opener()
    if not isinstance(source, str | Path | bytes):
        source.seek(0)
    try:
        return image_header(source)
    except Exception as error:
        raise GenGeoError(f"{name} is a damaged HEIC photo ({error}); copy or download it again") from error


def _reduce(image: Image.Image, enough: tuple[int, int]) -> None:
    """Let a JPEG be decoded smaller, to not less than twice what is enough; other files know no such way."""
    height, width = enough
    if image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9):  # it lies on its side
        height, width = width, height
    if image.format in ("JPEG", "MPO"):
        image.draft(None, (2 * width, 2 * height))


def _rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The image in RGB; what is transparent shows the background."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # it is loaded: its pixels outlive the file
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.format == "TIFF" and image.mode in ("RGBA", "RGBX"):
        bands = np.asarray(image)
        if image.mode == "RGBX" or np.any((bands[..., 3] != 0) & (bands[..., 3] != 255)):
            return Image.fromarray(np.ascontiguousarray(bands[..., :3]))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        behind = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey levels of more than 8 bits, or of fractions, scaled to 0..255."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(values.max(initial=0.0))
    if peak <= 1.0 and np.any(values % 1):
        full = 1.0  # fractions of white
    else:
        full = 2.0 ** max(8, math.ceil(math.log2(peak + 1))) - 1 if peak > 0 else 255.0
    return np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8)


def _upright(rgb: Image.Image, original: Image.Image) -> Image.Image:
    """Turn the image as its EXIF says."""
    orientation = original.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation not in range(2, 9):
        return rgb
    rgb.getexif()[ExifTags.Base.Orientation] = orientation  # a conversion may have dropped it
    return ImageOps.exif_transpose(rgb)


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    """A short EXIF text, which some cameras store as bytes or with zero bytes behind it."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return str(value or "").strip("\0 ").upper()


def _degrees(parts: Any, reference: Any, positive: str, negative: str) -> float | None:
    """Degrees, minutes, seconds as signed degrees; None without the hemisphere, whose sign cannot be guessed."""
    try:
        values = [_number(part) for part in parts]
    except TypeError:
        return None
    sign = {positive: 1.0, negative: -1.0}.get(_text(reference))
    if sign is None or not 1 <= len(values) <= 3 or any(value is None for value in values):
        return None
    return sign * sum(value / 60.0**place for place, value in enumerate(values) if value is not None)
