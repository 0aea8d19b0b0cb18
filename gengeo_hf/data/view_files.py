"""View transforms by name, applied to image files: what `gengeo data export --aerial-view polar:112x616` means.

Models of the polar or bird's-eye kind can be trained on such exports, as their authors do it: offline, once. Training
and encoding can also transform views as they are read: `data.ground_view` and `data.aerial_view` of a configuration.
"""

import functools
import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import open_image
from gengeo_hf.model.view_transforms import ViewTransform, parse_view

QUALITY = 95  # of the JPEG files that are written


def view_transform(text: str, view: str) -> Callable[[bytes], bytes]:
    """The transform of a name, from the bytes of an image file to those of a JPEG.

    Args:
        text: See `gengeo_hf.model.view_transforms.parse_view`.
        view: "ground" or "aerial".

    Raises:
        GenGeoError: An unknown name, or one of the other view; later, an image that has no such view.
    """
    try:
        return functools.partial(_encoded, change=parse_view(text, view))
    except ValueError as error:
        raise GenGeoError(str(error)) from error


def _encoded(content: bytes, change: ViewTransform) -> bytes:
    """Decode, change, encode."""
    pixels = torch.from_numpy(np.array(open_image(content))).permute(2, 0, 1)[None]
    try:
        changed = change(pixels)[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    except ValueError as error:
        raise GenGeoError(str(error)) from error
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(changed)).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
