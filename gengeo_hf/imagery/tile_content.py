"""Decoding of map tiles, and recognition of content that is not imagery of the ground.

Servers send HTML pages with status 200, images with the text "access blocked", and tiles of one colour if they have no
imagery. These must not become tiles of an index: each is refused with one of the reasons below, which are counted.
"""

import hashlib
import io
import threading

import numpy as np
from PIL import Image, UnidentifiedImageError

from gengeo_hf.common.errors import GenGeoError

MISSING = "no tile on the server (404)"
PAGE = "a web page instead of a picture"
MESSAGE = "an error message (XML or JSON) instead of a picture"
NO_PICTURE = "a file that is not a picture"
EMPTY = "an empty answer"
DAMAGED = "a damaged picture"
ONE_COLOUR = "every pixel has the same colour"
TRANSPARENT = "every pixel is transparent"
WRONG_SIZE = "a picture of another size than its neighbours"
REPEATED = "one picture at many positions (access blocked?)"
REFUSED = "refused by the server"
NO_ANSWER = "no answer from the server; --retry-missing asks again"

REASONS = frozenset(
    {
        MISSING,
        PAGE,
        MESSAGE,
        NO_PICTURE,
        EMPTY,
        DAMAGED,
        ONE_COLOUR,
        TRANSPARENT,
        WRONG_SIZE,
        REPEATED,
        REFUSED,
        NO_ANSWER,
    }
)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "BMP")
SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "BMP": ".bmp",
}
LASTING = frozenset({MISSING, ONE_COLOUR, TRANSPARENT})  # reasons that are recorded, since a retry would fail too
MAX_SIDE = 4096  # maximum side of a map tile in pixels


class NotAPictureError(GenGeoError):
    """A source tile that cannot be used.

    Args:
        reason: One of `REASONS`, or another text that is equal for all tiles of a kind, so that they can be counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_tile(content: bytes, keep_one_colour: bool = False) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Decode a map tile.

    Args:
        content: Bytes of an image file.
        keep_one_colour: Whether to accept an image of one colour.

    Returns:
        RGB, uint8 (height, width, 3); mask, uint8 (height, width), 0 for pixels without data, or None if all pixels
        have data; and the suffix of the file format, for example ".jpg".

    Raises:
        NotAPictureError: The content is not imagery of the ground.
    """
    if not content:
        raise NotAPictureError(EMPTY)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if max(image.size) > MAX_SIDE:  # checked before pixels are decoded
                raise NotAPictureError(WRONG_SIZE)
            image.load()
            suffix = SUFFIXES.get(image.format or "", ".img")
            has_mask = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            pixels = np.asarray(image.convert("RGBA" if has_mask else "RGB"))
    except NotAPictureError:
        raise
    except UnidentifiedImageError:
        raise NotAPictureError(_kind_of_text(content)) from None
    except Exception:  # decoders raise exceptions of many types for damaged files
        raise NotAPictureError(DAMAGED) from None
    pixels, mask = _masked(pixels)
    if not keep_one_colour and is_one_colour(pixels, mask):
        raise NotAPictureError(ONE_COLOUR)
    return pixels, mask, suffix


def _masked(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert RGB or RGBA pixels to RGB and a mask, which is None if no pixel is transparent.

    Raises:
        NotAPictureError: All pixels are transparent.
    """
    mask = None
    if pixels.shape[2] == 4:
        if not pixels[..., 3].any():
            raise NotAPictureError(TRANSPARENT)
        mask = np.where(pixels[..., 3] > 0, 255, 0).astype(np.uint8)
        pixels = np.ascontiguousarray(pixels[..., :3])
        if mask.all():
            mask = None
    return pixels, mask


def is_one_colour(pixels: np.ndarray, mask: np.ndarray | None = None) -> bool:
    """Whether all pixels with data are equal; also true without any such pixel.

    Args:
        pixels: Image, (height, width, 3).
        mask: (height, width), 0 for pixels without data; None if all pixels have data.
    """
    if mask is not None:
        pixels = pixels[mask > 0][None]
    sample = pixels[::16, ::16]  # decides nearly all tiles at low cost
    return not pixels.size or bool((sample == sample[0, 0]).all() and (pixels == pixels[0, 0]).all())


def _kind_of_text(content: bytes) -> str:
    """The reason for a file that is not an image."""
    head = content[:2048].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")) or b"<html" in head:
        return PAGE
    if head.startswith((b"<", b"{", b"[")):
        return MESSAGE
    return NO_PICTURE


class Repetitions:
    """Detects an image that a server sends for many tiles.

    Two tiles of aerial imagery practically never have equal bytes, so the second occurrence suffices.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: dict[bytes, tuple[int, int, int]] = {}

    def check(self, content: bytes, index: tuple[int, int, int]) -> tuple[int, int, int] | None:
        """Compare an image with all earlier ones.

        Args:
            content: Bytes of the file.
            index: Zoom, column and row of the tile.

        Returns:
            Index of the first tile with the same bytes, None without one.
        """
        digest = hashlib.blake2b(content, digest_size=16).digest()
        with self._lock:
            first = self._first.setdefault(digest, index)
            return None if first == index else first
