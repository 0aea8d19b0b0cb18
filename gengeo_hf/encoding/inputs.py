"""Types of image arguments: paths, addresses, bytes, PIL images, arrays and tensors; one or many."""

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
    """Whether the argument is one image and not a collection of images.

    A string is one path or address. An array or tensor of two or three axes is one image,
    one of four axes is a batch.
    """
    if isinstance(images, str | Path | bytes | bytearray | Image.Image | Mapping):
        return True
    if _is_array(images):
        return bool(images.ndim < 4)
    is_collection = isinstance(images, Iterable) or hasattr(images, "__getitem__")
    return hasattr(images, "read") or not is_collection


def load_image(image: Any) -> Any:
    """Open files and PIL images as upright RGB images; arrays and tensors are returned unchanged.

    Args:
        image: Path, bytes of a file, open binary file, row of `datasets.Image(decode=False)` (a dict with
            `bytes` or `path`), PIL image, array or tensor.

    Returns:
        An image for the image processor.

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
        return open_image(image)  # an `Image.open` photo must have the same descriptor as its file
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 4:
        return open_image(Image.fromarray(image))  # not all image processors support an alpha channel
    if _is_array(image):
        return image
    raise GenGeoError(
        f"an image is a {type(image).__name__}; expected a path, an http(s) address, bytes, a PIL image, an array or "
        "a tensor"
    )


def _is_array(image: Any) -> bool:
    """Whether this is an array or a tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return isinstance(image, np.ndarray) or (torch is not None and isinstance(image, torch.Tensor))


def is_address(image: Any) -> bool:
    """Whether this is an http(s) address."""
    return isinstance(image, str) and image.lower().startswith(_SCHEMES)


def fetch_image(address: str) -> bytes:
    """Download the file at an http(s) address. Use only for trusted addresses, not for those of a web client.

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
    """Check the name of a view.

    Raises:
        GenGeoError: `view` is neither "ground" nor "aerial".
    """
    if not isinstance(view, str) or view not in ("ground", "aerial"):
        raise GenGeoError(f'view is {view!r}: expected "ground" for photos or "aerial" for tiles')


def prepare(processor: Any, images: list[Any], view: str, *, resize: bool, tensors: str) -> Any:
    """Compute pixel values (B, 3, H, W) of images.

    Args:
        processor: Image processor of the model.
        images: Loaded images.
        view: "ground" or "aerial".
        resize: Resize to the size of the view.
        tensors: "pt" or "np".

    Raises:
        GenGeoError: The model transforms images to another view, and this is not possible for an image, or not without
            resizing.
        ValueError: The processor cannot take an image.
    """
    changed = (processor.view_transforms or {}).get(view)
    if changed and not resize:
        raise GenGeoError(
            f"this model transforms {view} images to the view {changed}, which needs full panoramas or tiles: images "
            "of their own size, such as photos with a smaller field of view, cannot be encoded"
        )
    options: dict[str, Any] = {} if resize else {"do_resize": False}
    try:
        return processor(images, view=view, return_tensors=tensors, **options)["pixel_values"]
    except ValueError as error:
        if changed:
            raise GenGeoError(str(error)) from error
        raise


__all__ = ["check_view", "fetch_image", "is_address", "is_single_image", "load_image", "prepare"]
