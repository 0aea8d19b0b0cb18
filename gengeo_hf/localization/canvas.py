"""The panorama that a model has learned, and photos and panoramas brought to its scale.

Before: photos.py, which knows what a photo shows. After: pictures whose pixels show what the model expects.

A model of panoramas has learned one scale: its width is 360 degrees of azimuth, its height some degrees of elevation,
the horizon in the middle. Both are equirectangular, linear in their angle, but a pixel need not be as many degrees
high as wide: whole spheres (CVACT, VIGOR) and cropped ones (CVUSA, the synthetic world) are squeezed into the model's
size. So a photo is drawn at the horizontal and the vertical scale of the data that the model was trained on.
"""

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from gengeo_hf.encoding.protocol import EncoderProtocol

# Degrees of elevation that panoramas show, by the first word of what a model was trained on. CVUSA's are crops of
# 224 x 1232 pixels of a sphere, CVACT's and VIGOR's are whole, those of the synthetic world are drawn so.
RISE = {"cvusa": 360 * 224 / 1232, "cvact": 180.0, "vigor": 180.0, "world": 70.0}
WIDEST_PLANE = 170.0  # degrees: a plane cannot show 180
SAME = 0.01  # shapes that differ by less are one shape


class Canvas(NamedTuple):
    """How a model sees panoramas.

    Args:
        height, width: in pixels.
        rise: degrees of elevation from the bottom row to the top row; None where the model's data do not tell.
    """

    height: int
    width: int
    rise: float | None = None

    @property
    def pixel(self) -> tuple[float, float]:
        """Radians that a pixel is high and wide; as high as wide where nothing is known."""
        wide = 2 * math.pi / self.width
        return (wide if self.rise is None else math.radians(self.rise) / self.height), wide


def ground_size(encoder: "EncoderProtocol") -> tuple[int, int]:
    """(height, width) in pixels at which a model encodes photos."""
    size = encoder.view_sizes["ground"]
    return int(size["height"]), int(size["width"])


def canvas_of(encoder: "EncoderProtocol") -> Canvas | None:
    """The canvas of a model of panoramas (its ground size is at least twice as wide as high); None for any other."""
    size = ground_size(encoder)
    if size[1] < 2 * size[0]:
        return None
    trained_on = str(encoder.training_record.get("trained_on") or "")
    return Canvas(*size, RISE.get(re.split(r"\W", trained_on)[0]))


def fitted(panorama: Image.Image, canvas: Canvas) -> Image.Image:
    """A whole panorama with the rows that the model expects: cut about its middle, or filled up with the ImageNet mean.

    It is taken as equirectangular with the horizon in its middle. One of the model's own shape is left alone: it comes
    from where the model's data came from.
    """
    from gengeo_hf.common.images import BACKGROUND

    width, height = panorama.size
    own = abs(width * canvas.height / (height * canvas.width) - 1) <= SAME
    rows = height if canvas.rise is None else round(width * canvas.rise / 360)
    if own or abs(rows - height) <= SAME * height:
        return panorama
    top = (height - rows) // 2
    if top >= 0:
        return panorama.crop((0, top, width, top + rows))
    filled = Image.new("RGB", (width, rows), BACKGROUND)
    filled.paste(panorama, (0, -top))
    return filled


def turned(panorama: Image.Image, heading: float) -> Image.Image:
    """Roll a panorama whose centre looks at `heading` so that its centre looks north."""
    shift = round(heading / 360 * panorama.width) % panorama.width
    if shift == 0:
        return panorama
    return Image.fromarray(np.roll(np.asarray(panorama), shift, axis=1))


def unrolled(photo: Image.Image, fov: float, canvas: Canvas, patch: int = 1, flat: bool = True) -> Image.Image:
    """A part of a panorama as the model would see it: the model's height, as wide as the field of view.

    What the photo does not show is the ImageNet mean. The camera is taken as level.

    Args:
        photo: RGB.
        fov: horizontal, in degrees.
        canvas: of the model.
        patch: the width is a multiple of this; the scale stays exact, so the sides are cut or filled up.
        flat: a photo of an ordinary lens (a plane); False for a part of an equirectangular panorama.
    """
    from scipy.ndimage import map_coordinates

    from gengeo_hf.common.images import BACKGROUND

    high, wide = canvas.pixel
    width = min(canvas.width // patch, max(1, round(canvas.width * fov / 360 / patch))) * patch
    half = math.radians(min(fov, WIDEST_PLANE) if flat else fov) / 2
    # Half the photo's width and height, in focal lengths of a flat photo or in radians of an unrolled one.
    side = math.tan(half) if flat else half
    rise = side * photo.height / photo.width
    # As many pixels as the canvas has in the middle, no more: the interpolation below does not average.
    sharp = max(1, round(2 * side / wide)), max(1, round(2 * rise / high))
    photo = photo.resize((min(photo.width, sharp[0]), min(photo.height, sharp[1])))
    azimuth = (np.arange(width) + 0.5 - width / 2) * wide
    elevation = ((canvas.height / 2 - np.arange(canvas.height) - 0.5) * high)[:, None]
    if flat:  # the clip keeps what lies behind the camera out of the frame
        azimuth, elevation = np.clip(azimuth, -1.5, 1.5), np.clip(elevation, -1.5, 1.5)
        right, up = np.tan(azimuth), np.tan(elevation) / np.cos(azimuth)
    else:
        right, up = azimuth, np.broadcast_to(elevation, (canvas.height, width))
    columns = np.broadcast_to(photo.width / 2 * (1 + right / side) - 0.5, up.shape)
    rows = photo.height / 2 * (1 - up / rise) - 0.5
    shown = (np.abs(right) <= side) & (np.abs(up) <= rise)
    pixels = np.asarray(photo, dtype=np.float32)
    bands = [map_coordinates(pixels[..., band], (rows, columns), order=1, mode="nearest") for band in range(3)]
    seen = np.where(shown[..., None], np.stack(bands, axis=-1), np.array(BACKGROUND, np.float32))
    return Image.fromarray(np.clip(np.rint(seen), 0, 255).astype(np.uint8))
