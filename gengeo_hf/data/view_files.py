"""View transforms by name, applied to image files: what `gengeo data export --aerial-view polar:112x616` means.

Before: an upright RGB image. After: the same place in another view, encoded again. Models of the polar or bird's-eye
kind are trained on such exports, as their authors do it: offline, once.
"""

import functools
import io
import re
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import open_image
from gengeo_hf.data.views import downward_view, ground_bev, padded_sphere, polar_tile

NUMBER = r"(\d*\.?\d+)"
FORMS = {
    "polar": r"([1-9]\d*)x([1-9]\d*)",  # height x width
    # side, metres per pixel, metres from the ground to the camera, vertical field of view in degrees
    "bev": rf"([1-9]\d*)(?::{NUMBER}(?::{NUMBER}(?::{NUMBER})?)?)?",
    # height x width, field of view in degrees, vertical field of view of the panorama in degrees
    "downward": rf"([1-9]\d*)x([1-9]\d*)(?::{NUMBER}(?::{NUMBER})?)?",
}
EXAMPLES = {"aerial": ("polar:112x616",), "ground": ("bev:512:0.06:1.5:70", "downward:512x512:170:70")}
QUALITY = 95  # of the JPEG files that are written


def view_transform(text: str, view: str) -> Callable[[bytes], bytes]:
    """The transform of a name, from the bytes of an image file to those of a JPEG.

    Args:
        text: For tiles `polar:HxW`; for panoramas `bev:SIDE[:METRES_PER_PIXEL[:CAMERA_HEIGHT[:VERTICAL_FOV]]]` or
            `downward:HxW[:FOV[:VERTICAL_FOV]]`. Without VERTICAL_FOV, panoramas that are not twice as wide as high are
            padded with black to the whole sphere, the horizon in the middle: right only where a row covers as many
            degrees as a column.
        view: "ground" or "aerial".

    Raises:
        GenGeoError: an unknown name, or one of the other view.
    """
    kind, _, rest = text.partition(":")
    match = re.fullmatch(FORMS.get(kind, "(?!)"), rest)
    if match is None or not any(example.startswith(f"{kind}:") for example in EXAMPLES[view]):
        raise GenGeoError(f"{text!r} is no {view} view: write it as {' or '.join(EXAMPLES[view])}")
    if kind == "polar":
        change = functools.partial(polar_tile, size=(int(match[1]), int(match[2])))
    elif kind == "bev":
        rows = float(match[4]) if match[4] else None
        change = functools.partial(
            ground_bev,
            side=int(match[1]),
            metres_per_pixel=float(match[2] or 0.06),
            camera_height_m=float(match[3] or 1.5),
            vertical_fov=rows,
        )
    else:
        size, rows = (int(match[1]), int(match[2])), float(match[4]) if match[4] else None
        change = functools.partial(downward_view, size=size, fov=float(match[3] or 170.0), vertical_fov=rows)
    return functools.partial(_encoded, change=change, sphere=view == "ground" and rows is None)


def _encoded(content: bytes, change: Callable[[torch.Tensor], torch.Tensor], sphere: bool) -> bytes:
    """Decode, change, encode."""
    pixels = torch.from_numpy(np.array(open_image(content))).permute(2, 0, 1)[None]
    if sphere and pixels.shape[-1] != 2 * pixels.shape[-2]:
        pixels = padded_sphere(pixels)
    changed = change(pixels)[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(changed)).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
