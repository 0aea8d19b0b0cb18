"""Decode the content of map tiles and recognise what is not imagery of the ground.

Servers send HTML pages with status 200, pictures with the text "access blocked", and tiles of one colour where they
have no imagery. None of these may become a tile of an index. Each is refused with one of the reasons below, which are
counted.
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
LASTING = frozenset({MISSING, ONE_COLOUR, TRANSPARENT})  # reasons that are remembered, because a retry is useless
MAX_SIDE = 4096  # pixels of a map tile


class NotAPictureError(GenGeoError):
    """A source tile that cannot be used.

    Args:
        reason: One of the constants of this module, the same for all tiles of a kind, so that they can be counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_tile(content: bytes, keep_one_colour: bool = False) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Decode a map tile.

    Args:
        content: An image file.
        keep_one_colour: Accept an image of one colour.

    Returns:
        RGB of shape (height, width, 3) uint8; a mask (height, width) uint8 that is 0 where there is no data, or None
        if all pixels hold data; and the suffix of the file name, such as ".jpg".

    Raises:
        NotAPictureError: It is not imagery of the ground.
    """
    if not content:
        raise NotAPictureError(EMPTY)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if max(image.size) > MAX_SIDE:  # before any pixel is decoded
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
    """RGB and mask of RGB or RGBA pixels.

    Raises:
        NotAPictureError: Every pixel is transparent.
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
    """Whether all pixels that hold data are equal; also true where none does.

    Args:
        pixels: (height, width, 3).
        mask: (height, width), 0 where there is no data; None if all pixels hold data.
    """
    if mask is not None:
        pixels = pixels[mask > 0][None]
    sample = pixels[::16, ::16]  # suffices for nearly all tiles
    return not pixels.size or bool((sample == sample[0, 0]).all() and (pixels == pixels[0, 0]).all())


def _kind_of_text(content: bytes) -> str:
    """The reason for a file that is not a picture."""
    head = content[:2048].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")) or b"<html" in head:
        return PAGE
    if head.startswith((b"<", b"{", b"[")):
        return MESSAGE
    return NO_PICTURE


class Repetitions:
    """Detects one picture that a server sends for many tiles.

    Two tiles of aerial imagery are never equal in every byte, so the second occurrence is enough.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: dict[bytes, tuple[int, int, int]] = {}

    def check(self, content: bytes, index: tuple[int, int, int]) -> tuple[int, int, int] | None:
        """Compare a picture with those before.

        Args:
            content: Its bytes.
            index: Zoom, column and row.

        Returns:
            Zoom, column and row of the first tile with the same bytes; None if there was none.
        """
        digest = hashlib.blake2b(content, digest_size=16).digest()
        with self._lock:
            first = self._first.setdefault(digest, index)
            return None if first == index else first
