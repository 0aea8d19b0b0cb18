"""People's photos and tiles, opened the same way everywhere.

Before: a path, bytes or an open file. After: an upright 8-bit RGB picture, or one line that says what is wrong.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from gengeo_hf.errors import GenGeoError

MAX_PIXELS = 400_000_000  # a 20,000 x 20,000 scan; beyond it a small file may unpack to more than the memory
BACKGROUND = (127, 127, 127)  # under transparent pixels: grey is nearest to the mean that the models subtract


def open_image(source: str | Path | bytes | IO[bytes]) -> Image.Image:
    """Open, turn upright (EXIF orientation) and convert to 8-bit RGB.

    Transparent pixels are laid over mid-grey, 16-bit images are scaled by their own range's power of two, and of
    four bands without transparency (RGB + near infrared) the first three are taken. HEIC opens if `pillow-heif` is
    installed.

    Args:
        source: a path, the file's bytes, or an open binary file.

    Returns:
        A picture in mode RGB, fully decoded.

    Raises:
        GenGeoError: nothing is there, it is no image, it is truncated, or it has more than 400 million pixels.
    """
    name = source if isinstance(source, str | Path) else "the image"
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            raise GenGeoError(f"{path} is a folder, expected an image file")
        if not path.is_file():
            raise GenGeoError(f"no image at {path}")
        if path.suffix.lower() in {".heic", ".heif"}:
            _register_heif(path)
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit speaks below
            with Image.open(opened) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise GenGeoError(
                        f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: cut it into "
                        "tiles first (gengeo index reads GeoTIFFs window by window)"
                    )
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except GenGeoError:
        raise
    except UnidentifiedImageError as error:
        raise GenGeoError(f"{name} is not an image that can be read: expected JPEG, PNG, TIFF or WebP") from error
    except Image.DecompressionBombError as error:
        raise GenGeoError(f"{name} has more than {MAX_PIXELS:,} pixels: cut it into tiles first") from error
    except Exception as error:  # a damaged file raises whatever its decoder happens to meet
        raise GenGeoError(f"{name} is damaged ({str(error) or type(error).__name__}): fetch it again") from error


def _register_heif(path: Path) -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise GenGeoError(f"{path} is HEIC: pip install pillow-heif, or convert it to JPEG") from error
    pillow_heif.register_heif_opener()


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any mode that Pillow opens."""
    if image.mode == "RGB":
        return image
    if image.mode in {"I;16", "I;16B", "I;16L", "I", "F"}:
        return _from_deep(np.asarray(image))
    if image.mode == "RGBX":
        return Image.merge("RGB", image.split()[:3])
    if "A" in image.getbands() or "transparency" in image.info:
        picture = image.convert("RGBA")
        under = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        return Image.alpha_composite(under, picture).convert("RGB")
    return image.convert("RGB")


def _from_deep(values: np.ndarray) -> Image.Image:
    """Grey values of more than 8 bits, divided by the power of two that holds their maximum."""
    values = np.nan_to_num(values.astype(np.float64))
    top = max(255.0, 2.0 ** math.ceil(math.log2(max(values.max(), 1.0) + 1)) - 1)
    grey = (np.clip(values / top, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(np.repeat(grey[..., None], 3, axis=2))


@dataclass(frozen=True)
class PhotoPosition:
    """Where a camera says that it stood.

    Args:
        lat, lon: degrees, WGS84.
        heading: degrees clockwise from north of the picture's centre, or None.
        error_m: the receiver's own estimate of its horizontal error in metres, or None.
    """

    lat: float
    lon: float
    heading: float | None = None
    error_m: float | None = None


def photo_position(path: str | Path) -> PhotoPosition | None:
    """Position in a photo's EXIF data, or None where there is none that can be believed.

    (0, 0), non-finite values (a 0/0 fraction) and degrees out of range are taken for missing: phones write them when
    the receiver had no fix.

    Raises:
        GenGeoError: the file is missing or no image.
    """
    if not Path(path).is_file():
        raise GenGeoError(f"no image at {path}")
    try:
        with Image.open(path) as image:
            gps = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    except Exception as error:
        raise GenGeoError(f"{path} is not an image that can be read ({error})") from error
    tags = ExifTags.GPS
    lat = _degrees(gps.get(tags.GPSLatitude), gps.get(tags.GPSLatitudeRef), "S")
    lon = _degrees(gps.get(tags.GPSLongitude), gps.get(tags.GPSLongitudeRef), "W")
    if lat is None or lon is None or abs(lat) > 90 or abs(lon) > 180 or (lat == 0 and lon == 0):
        return None
    heading = _number(gps.get(tags.GPSImgDirection))
    return PhotoPosition(
        lat, lon, None if heading is None else heading % 360, _number(gps.get(tags.GPSHPositioningError))
    )


def _number(value: object) -> float | None:
    """A finite float, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]  # a rational, a number or anything else that a camera wrote
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _degrees(parts: object, reference: object, negative: str) -> float | None:
    """Degrees, minutes, seconds to degrees."""
    if not isinstance(parts, tuple) or len(parts) != 3:
        return None
    numbers = [_number(part) for part in parts]
    if any(number is None for number in numbers):
        return None
    value = sum(number / scale for number, scale in zip(numbers, (1, 60, 3600), strict=True) if number is not None)
    return -value if str(reference).strip("\0 ").upper() == negative else value
