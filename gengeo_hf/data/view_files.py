"""View transforms applied to image files, for example by `gengeo data export --aerial-view polar:112x616`.

Models that use polar tiles or bird's-eye views can be trained on such an export, as their authors do. Training and
encoding can also transform images when they are read: `data.ground_view` and `data.aerial_view` of a configuration.
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

QUALITY = 95  # JPEG quality


def view_transform(text: str, view: str) -> Callable[[bytes], bytes]:
    """A function that applies a view transform to the bytes of an image file and returns those of a JPEG file.

    Args:
        text: Name of the transform, see `gengeo_hf.model.view_transforms.parse_view`.
        view: "ground" or "aerial".

    Raises:
        GenGeoError: The name is unknown or belongs to the other view. The returned function raises it for an image
            that cannot be transformed.
    """
    try:
        return functools.partial(_transform_file, change=parse_view(text, view))
    except ValueError as error:
        raise GenGeoError(str(error)) from error


def _transform_file(content: bytes, change: ViewTransform) -> bytes:
    """Decode an image file, transform it and encode it as JPEG."""
    pixels = torch.from_numpy(np.array(open_image(content))).permute(2, 0, 1)[None]
    try:
        changed = change(pixels)[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    except ValueError as error:
        raise GenGeoError(str(error)) from error
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(changed)).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
