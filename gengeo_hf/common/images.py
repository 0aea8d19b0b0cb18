"""Read photos and tiles as upright RGB images: the only module that opens image files.

`read_image` returns the pixels and the metadata of the EXIF and XMP data, `open_image` only the pixels. Both open the
file once.
"""

import contextlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.metadata import PhotoMetadata, parse_metadata

BACKGROUND = (124, 116, 104)  # the ImageNet mean, behind transparent pixels: zero after normalisation
LARGE = 12_000_000  # pixels; larger images are reduced where the target size is known
MIN_SIDE = 8  # pixels
# Formats of photos and tiles. Other formats of Pillow are excluded: EPS, for example, would start Ghostscript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
# File name suffixes of these formats in lower case, for directories, archives and tables.
IMAGE_SUFFIXES = tuple(
    ".jpg .jpeg .jpe .jfif .png .webp .tif .tiff .bmp .gif .avif .heic .heif .jp2 .j2k .ppm .pgm".split()
)
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

Source = str | Path | bytes | BinaryIO | Image.Image


@dataclass(frozen=True)
class ImageFile:
    """An image that was read from a file.

    Args:
        image: Upright RGB image, 8 bits per channel.
        metadata: Position, time and camera that the file states.
        size: Width and height in pixels of the upright image, before any reduced decoding.
    """

    image: Image.Image
    metadata: PhotoMetadata
    size: tuple[int, int]


def open_image(
    source: Source, background: tuple[int, int, int] = BACKGROUND, target_size: tuple[int, int] | None = None
) -> Image.Image:
    """Decode an image completely: RGB, upright, 8 bits per channel.

    EXIF orientation is applied. Transparent images are composed over `background`. Values of more than 8 bits, of one
    or three bands, are scaled from the smallest number of bits that contains their maximum (12-bit sensor data stay
    bright). The fourth band of a TIFF is dropped unless it is a mask of 0 and 255: aerial RGB+NIR files declare near
    infrared as alpha. Of an animation, the first frame is used.

    Args:
        source: A path, the file's bytes, a file object opened in binary mode, or an image that PIL has opened.
        background: Colour behind transparent pixels: red, green, blue, 0..255.
        target_size: (height, width) in pixels to which the caller will resize the upright image. A JPEG of at least
            four times this height and width is decoded at 1/2, 1/4 or 1/8 of its size, never below twice the target,
            which takes half the time. An image that still has more than 12 million pixels is averaged over blocks of
            2, 4 or 8 pixels by the same rule. None decodes all pixels.

    Returns:
        An image of mode RGB.

    Raises:
        GenGeoError: The file is missing, not an image, damaged or truncated, smaller than 8 pixels, or has more than
            twice `PIL.Image.MAX_IMAGE_PIXELS` (179 million) pixels to decode: a protection against decompression
            bombs.
        MissingExtraError: The photo is HEIC and pillow-heif is not installed.
    """
    return _read(source, background, target_size)[0]


def read_image(
    source: Source, background: tuple[int, int, int] = BACKGROUND, target_size: tuple[int, int] | None = None
) -> ImageFile:
    """Decode an image and read its position, time and camera. Arguments and errors are those of `open_image`."""
    image, tags, xmp, size, notes = _read(source, background, target_size)
    found = parse_metadata(_directory(tags, ExifTags.IFD.GPSInfo), _directory(tags, ExifTags.IFD.Exif), xmp, size)
    if notes:
        found = PhotoMetadata(found.position, found.time, found.camera, (*notes, *found.notes))
    return ImageFile(image, found, size)


def read_metadata(source: Source) -> PhotoMetadata:
    """Read the position, time and camera of an image file; pixels are decoded only where the format requires it.

    Raises:
        GenGeoError: The file is missing or not an image.
    """
    name = _name(source)
    opened = _open(source, name)
    try:
        with _closing(source, opened):
            if opened.format == "PNG":  # EXIF data may follow the pixels
                opened.load()
            tags, notes = _exif(opened)
            xmp, size = _xmp(opened), _upright_size(opened, tags)
    except Exception as error:
        raise GenGeoError(f"{name} is damaged or cut off ({str(error) or type(error).__name__})") from error
    found = parse_metadata(_directory(tags, ExifTags.IFD.GPSInfo), _directory(tags, ExifTags.IFD.Exif), xmp, size)
    return PhotoMetadata(found.position, found.time, found.camera, (*notes, *found.notes))


def image_header(source: str | Path | bytes | BinaryIO) -> Image.Image:
    """Open an image of one of `FORMATS` with Pillow, which reads only its header.

    Raises:
        PIL.UnidentifiedImageError: The file has another format or is not an image.
    """
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # HEIF only after its opener is registered
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=known)


def find_images(folder: str | Path) -> list[Path]:
    """List the image files in a directory and its subdirectories, sorted by path.

    Hidden files and directories, and the files that macOS adds for attributes (`._name`, `__MACOSX`), are skipped.

    Args:
        folder: Directory to search.
    """
    folder = Path(folder)
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return sorted(path for path in found if not is_hidden(path.relative_to(folder)))


def is_hidden(path: Path) -> bool:
    """Whether a part of a relative path is hidden or was added by macOS."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _read(
    source: Source, background: tuple[int, int, int], target_size: tuple[int, int] | None
) -> tuple[Image.Image, Any, bytes, tuple[int, int], list[str]]:
    """Return the upright RGB image, its EXIF and XMP data, its upright size, and notes on unreadable EXIF data."""
    name = _name(source)
    try:
        opened = _open(source, name)
        with _closing(source, opened):
            width, height = opened.size
            if min(width, height) < MIN_SIDE:
                raise GenGeoError(f"{name} has {width} x {height} pixels; expected at least {MIN_SIDE} on each side")
            if target_size is not None and opened is not source:  # an image of the caller is not changed
                _reduce(opened, target_size)
            _check_pixels(opened, name)
            deep = _deep_bands(source, opened)
            if deep is None:
                opened.load()
            tags, notes = _exif(opened)
            rgb = _rgb(opened, background) if deep is None else deep
            orientation = tags.get(ExifTags.Base.Orientation, 1)
            size = (height, width) if orientation in range(5, 9) else (width, height)
            upright = _upright(rgb, orientation)
            if target_size is not None and opened is not source:
                upright = _average_blocks(upright, target_size)
            return upright, tags, _xmp(opened), size, notes
    except GenGeoError:
        raise
    except Exception as error:  # decoders raise many kinds of error for damaged files
        raise GenGeoError(
            f"{name} is damaged or cut off ({str(error) or type(error).__name__}); copy or download it again"
        ) from error


def _closing(source: Source, opened: Image.Image) -> contextlib.AbstractContextManager[Any]:
    """Return a context that closes the file and keeps the pixels; an image of the caller stays open."""
    return contextlib.nullcontext() if opened is source else opened


def _name(source: Source) -> str:
    """Name of the source in messages."""
    if isinstance(source, bytes):
        return f"the image of {len(source)} bytes"
    if isinstance(source, str | Path):
        return str(source)
    return str(getattr(source, "filename", "") or getattr(source, "name", "") or "the image")


def _open(source: Source, name: str) -> Image.Image:
    """Open an image, reading only its header."""
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise GenGeoError(f"{name} is a web address: download the image and give its path")
    if isinstance(source, str | Path):
        if Path(source).is_dir():
            raise GenGeoError(f"{name} is a directory, expected an image file")
        if not Path(source).is_file():
            raise GenGeoError(f"there is no image {name}; check the path")
    elif not isinstance(source, bytes):
        source.seek(0)
    try:
        return image_header(source)
    except Image.DecompressionBombError as error:
        if _head(source)[:3] == b"\xff\xd8\xff":  # a JPEG may be decoded at a smaller size: see `_check_pixels`
            return JpegImagePlugin.JpegImageFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        raise GenGeoError(f"{name}: {_too_many(str(error).split(', could be')[0])}") from error
    except UnidentifiedImageError as error:
        head = _head(source)
        if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
            return _open_heif(source, name)
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and (image := _open_tiff(source, name)) is not None:
            return image  # a TIFF with a compression or bands that Pillow does not support
        found = "is empty" if not head else f"is not an image of a known kind (it starts with {head[:8]!r})"
        raise GenGeoError(f"{name} {found}; expected a JPEG, PNG, WebP, TIFF, AVIF or HEIC file") from error
    except Exception as error:
        raise GenGeoError(f"{name} cannot be opened ({error}); copy or download it again") from error


def _too_many(found: str) -> str:
    return f"{found}; make it smaller, or index imagery as a GeoTIFF, which is read in windows"


def _check_pixels(image: Image.Image, name: str) -> None:
    """Refuse to decode more pixels than Pillow allows, for JPEGs that `_open` opened without this check."""
    limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if limit is not None and pixels > 2 * limit and isinstance(image, JpegImagePlugin.JpegImageFile):
        raise GenGeoError(f"{name}: {_too_many(f'Image size ({pixels} pixels) exceeds limit of {2 * limit} pixels')}")


def _head(source: str | Path | bytes | BinaryIO) -> bytes:
    """Return the first 16 bytes of the source."""
    if isinstance(source, bytes):
        return source[:16]
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return file.read(16)
    source.seek(0)
    head = source.read(16)
    source.seek(0)
    return head


def _open_heif(source: str | Path | bytes | BinaryIO, name: str) -> Image.Image:
    """Open a HEIC photo with pillow-heif."""
    try:
        import pillow_heif
    except ImportError as error:
        raise MissingExtraError("pillow-heif", "heic", f"open {name}, a HEIC photo") from error
    pillow_heif.register_heif_opener()
    try:
        return image_header(source)
    except Exception as error:
        raise GenGeoError(f"{name} is a damaged HEIC photo ({error}); copy or download it again") from error


def _open_tiff(source: str | Path | bytes | BinaryIO, name: str) -> Image.Image | None:
    """Read a TIFF with GDAL; None if rasterio is not installed."""
    try:
        return _gdal_image(source)
    except GenGeoError:
        raise
    except Exception as error:
        raise GenGeoError(f"{name} is a damaged TIFF ({error}); copy or download it again") from error


def _deep_bands(source: Source, image: Image.Image) -> Image.Image | None:
    """Return the RGB image of a file with several bands of more than 8 bits, of which Pillow keeps only the high byte.

    None if the file is not of this kind or rasterio is not installed.
    """
    if isinstance(source, Image.Image):
        return None
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, (8,))
        is_deep = len(bits) >= 3 and max(bits) > 8
    elif image.format == "PNG":
        head = source[:26] if isinstance(source, bytes) else _leading(source, 26)
        is_deep = head[24:25] == b"\x10" and head[25:26] in (b"\x02", b"\x06")
    else:
        return None
    return _gdal_image(source) if is_deep else None


def _leading(source: str | Path | BinaryIO, count: int) -> bytes:
    """Return the first bytes of a file, all of them for -1; the position of an open file stays."""
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return file.read(count)
    position = source.tell()
    source.seek(0)
    head = source.read(count)
    source.seek(position)
    return head


def _gdal_image(source: str | Path | bytes | BinaryIO) -> Image.Image | None:
    """Read the first three bands (or the only one) of a TIFF or PNG as 8-bit RGB; None if rasterio is not installed."""
    try:
        import rasterio
    except ImportError:
        return None
    import warnings

    content = source if isinstance(source, bytes) else _leading(source, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rasterio warns about a missing georeference
        with rasterio.MemoryFile(content) as memory, memory.open(driver=_driver(content)) as dataset:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and dataset.width * dataset.height > 2 * limit:
                raise GenGeoError(_too_many(f"the image has {dataset.width} x {dataset.height} pixels"))
            bands = dataset.read([1, 2, 3] if dataset.count >= 3 else [1])
    levels = bands if bands.dtype == np.uint8 else _eight_bits(bands)
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(np.broadcast_to(levels, (3, *levels.shape[1:])), 0, -1)))


def _driver(content: bytes) -> str:
    """Choose the GDAL driver by the first bytes, so that GDAL does not try its other drivers on an untrusted file."""
    return "PNG" if content[:4] == b"\x89PNG" else "GTiff"


def _exif(image: Image.Image) -> tuple[Any, list[str]]:
    """Return the EXIF data and notes; unreadable EXIF data become empty, since the pixels may be valid."""
    try:
        tags = image.getexif()
        tags.get_ifd(ExifTags.IFD.GPSInfo), tags.get_ifd(ExifTags.IFD.Exif)
        return tags, []
    except Exception as error:  # Pillow raises many kinds of error for damaged tags
        return Image.Exif(), [f"its EXIF data cannot be read ({str(error) or type(error).__name__}): not used"]


def _directory(tags: Any, which: int) -> dict[int, Any]:
    """Return one directory of EXIF tags."""
    return dict(tags.get_ifd(which))


def _xmp(image: Image.Image) -> bytes:
    """Return the XMP packet, empty if there is none."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    packet = packet.encode("utf-8", "replace") if isinstance(packet, str) else packet
    return packet if isinstance(packet, bytes) else b""


def _upright_size(image: Image.Image, tags: Any) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if tags.get(ExifTags.Base.Orientation, 1) in range(5, 9) else (width, height)


def _reduce(image: Image.Image, target_size: tuple[int, int]) -> None:
    """Make Pillow decode a JPEG at a reduced size, at least twice the target; other formats do not support this."""
    if image.format not in ("JPEG", "MPO") or not isinstance(image, JpegImagePlugin.JpegImageFile):
        return
    height, width = target_size
    if _exif(image)[0].get(ExifTags.Base.Orientation, 1) in range(5, 9):  # rotated by 90 degrees
        height, width = width, height
    image.draft(None, (2 * width, 2 * height))


def _average_blocks(image: Image.Image, target_size: tuple[int, int]) -> Image.Image:
    """Average an image of more than `LARGE` pixels over square blocks, to at least twice the target."""
    if image.width * image.height <= LARGE:
        return image
    ratio = min(image.height / target_size[0], image.width / target_size[1]) / 2
    factor = next((factor for factor in (8, 4, 2) if ratio >= factor), 1)
    return image.reduce(factor) if factor > 1 else image


def _rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Convert an image to RGB; transparent pixels show the background."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # its pixels are loaded and stay valid after the file is closed
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
    """Scale integers of more than 8 bits, or fractions of 1, to uint8."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(values.max(initial=0.0))
    if peak <= 1.0 and np.any(values % 1):
        full = 1.0  # fractions: 1 is white
    else:
        full = 2.0 ** max(8, math.ceil(math.log2(peak + 1))) - 1 if peak > 0 else 255.0
    return np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8)


def _upright(rgb: Image.Image, orientation: Any) -> Image.Image:
    """Apply the EXIF orientation."""
    if orientation not in range(2, 9):
        return rgb
    rgb.getexif()[ExifTags.Base.Orientation] = orientation  # a conversion may have dropped it
    return ImageOps.exif_transpose(rgb)
