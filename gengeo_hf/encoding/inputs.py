"""What may be given as an image: one or many, a path, an address, bytes, a PIL image, an array, a tensor."""

import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import open_image

FETCH_TIMEOUT_S = 30.0
FETCH_LIMIT_BYTES = 100_000_000  # a photo of 100 megapixels has 30 to 60 MB
_SCHEMES = ("http://", "https://")


def is_single_image(images: Any) -> bool:
    """Whether this is one image, not a collection of images.

    A text is a path or an address, never a sequence of letters. An array or tensor of two or three axes is one image,
    one of four axes is a batch.
    """
    if isinstance(images, str | Path | bytes | bytearray | Image.Image | Mapping):
        return True
    if _is_array(images):
        return bool(images.ndim < 4)
    is_collection = isinstance(images, Iterable) or hasattr(images, "__getitem__")
    return hasattr(images, "read") or not is_collection


def load_image(image: Any) -> Any:
    """Open what is a file or a PIL image as an upright RGB image, and pass arrays and tensors on.

    Args:
        image: A path, the bytes of a file, an open binary file, a row of `datasets.Image(decode=False)` (a dict with
            `bytes` or `path`), a PIL image, an array or a tensor.

    Returns:
        What the image processor takes.

    Raises:
        GenGeoError: The image is missing or broken, or is an address.
    """
    if isinstance(image, Mapping):  # a row of `datasets.Image(decode=False)`
        if image.get("bytes") is None and image.get("path") is None:
            raise GenGeoError(f"an image is a dict with the keys {sorted(map(str, image))}; expected bytes or path")
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    if isinstance(image, bytearray):
        image = bytes(image)
    if isinstance(image, str | Path | bytes | Image.Image) or hasattr(image, "read"):
        return open_image(image)  # a photo from `Image.open` must have the descriptor of its file
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 4:
        return open_image(Image.fromarray(image))  # with alpha, which the library's processors do not all know
    if _is_array(image):
        return image
    raise GenGeoError(
        f"an image is a {type(image).__name__}; expected a path, an http(s) address, bytes, a PIL image, an array or "
        "a tensor"
    )


def _is_array(image: Any) -> bool:
    """Whether this is an array or a tensor; torch is not imported to find that out."""
    torch = sys.modules.get("torch")
    return isinstance(image, np.ndarray) or (torch is not None and isinstance(image, torch.Tensor))


def is_address(image: Any) -> bool:
    """Whether this is an http(s) address."""
    return isinstance(image, str) and image.lower().startswith(_SCHEMES)


def fetch_image(address: str) -> bytes:
    """The file at an http(s) address. Only for addresses that the caller of Python code has written.

    Raises:
        GenGeoError: The server cannot be reached or refuses, or the file has more than `FETCH_LIMIT_BYTES` bytes.
    """
    from gengeo_hf import __version__

    request = urllib.request.Request(address, headers={"User-Agent": f"gengeo_hf/{__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=FETCH_TIMEOUT_S) as response:
            content: bytes = response.read(FETCH_LIMIT_BYTES + 1)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise GenGeoError(f"{address} cannot be fetched ({error}): check the address and the network") from error
    if len(content) > FETCH_LIMIT_BYTES:
        raise GenGeoError(f"{address} has more than {FETCH_LIMIT_BYTES // 1_000_000} MB: give a smaller image")
    return content


def check_view(view: object) -> None:
    """Refuse a word that is not a view.

    Raises:
        GenGeoError: It is neither "ground" nor "aerial".
    """
    if not isinstance(view, str) or view not in ("ground", "aerial"):
        raise GenGeoError(f'view is {view!r}: expected "ground" for photos or "aerial" for tiles')


def prepare(processor: Any, images: list[Any], view: str, *, resize: bool, tensors: str) -> Any:
    """Pixel values (B, 3, H, W) of images.

    Args:
        processor: The model's image processor.
        images: Loaded images.
        view: "ground" or "aerial".
        resize: Resize to the view's size.
        tensors: "pt" or "np".

    Raises:
        GenGeoError: The model changes images to another view, which an image does not have, or which cannot be made of
            images of their own size.
        ValueError: An image that the processor cannot take.
    """
    changed = (processor.view_transforms or {}).get(view)
    if changed and not resize:
        raise GenGeoError(
            f"this model changes {view} images to the view {changed}, which needs whole ones: images of their own "
            "size, such as photos with a smaller field of view, cannot be encoded"
        )
    options: dict[str, Any] = {} if resize else {"do_resize": False}
    try:
        return processor(images, view=view, return_tensors=tensors, **options)["pixel_values"]
    except ValueError as error:
        if changed:
            raise GenGeoError(str(error)) from error
        raise


__all__ = ["check_view", "fetch_image", "is_address", "is_single_image", "load_image", "prepare"]
