# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""From photos (PIL images, arrays, tensors) to `pixel_values` (B, 3, H, W), with one size per view.

This file travels with published checkpoints, so it imports only numpy, PIL, torch and transformers.
"""

# No `from __future__ import annotations` here: it turns the validation of the keyword arguments off.
import difflib
import math
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch.nn import functional
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

from .view_transforms import ViewTransform, parse_view

BACKGROUND = (124, 116, 104)  # the ImageNet mean, behind what is transparent
# torch resizes uint8 with antialiasing 4-5 times faster than PIL, and within one grey level of it.
TORCH_MODES = {PILImageResampling.BICUBIC: "bicubic", PILImageResampling.BILINEAR: "bilinear"}


class GenGeoImageProcessorKwargs(ImagesKwargs, total=False):
    """Keyword arguments of `GenGeoImageProcessor` beside those of every image processor.

    Args:
        view: "ground" or "aerial"; picks the size.
        view_sizes: height and width in pixels of each view.
        view_transforms: the view that an image is changed to before it is resized, by "ground" and "aerial"; for
            example {"ground": "bev:512:0.06"} or {"aerial": "polar:112x616"}, see `view_transforms.parse_view`.
    """

    view: Literal["ground", "aerial"] | None
    view_sizes: dict[str, dict[str, int]] | None
    view_transforms: dict[str, str] | None


class GenGeoImageProcessor(PilBackend):
    """Resize to the view's exact size (no crop), scale to 0..1, normalise with the ImageNet mean and deviation.

    `processor(images, view="aerial", return_tensors="pt")`. An explicit `size` goes before the view's. With
    `do_rescale=False, do_normalize=False` it gives the resized uint8 images. The result also holds `view`, so that
    `model(**result)` takes the head of the view.

    An image has one result in every form. A PIL image is turned upright as its EXIF data say, transparency is laid over
    the ImageNet mean, and values of more than 8 bits are scaled from the least number of bits that holds their maximum.
    Arrays and tensors of whole numbers above 255 are scaled alike; those of fractions must lie in 0..1 (or in 0..255
    beyond 1).
    """

    valid_kwargs = GenGeoImageProcessorKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    size = None  # None: the view's. Resolved per call, for one that is set here would win over a later `view`.
    view = "ground"
    view_sizes = {  # noqa: RUF012
        "ground": {"height": 154, "width": 770},
        "aerial": {"height": 392, "width": 392},
    }
    view_transforms = None  # images as they are

    def __init__(self, **kwargs: Any) -> None:
        known = ("view", "view_sizes", "view_transforms", "do_resize", "do_rescale", "do_normalize")
        for name in set(kwargs) - set(ImagesKwargs.__annotations__) - set(known):  # a file may hold what is not used
            if near := difflib.get_close_matches(name, known, n=1, cutoff=0.75):
                raise TypeError(f"GenGeoImageProcessor has no setting {name!r}; did you mean {near[0]!r}?")
        super().__init__(**kwargs)

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Prepare one image or a list of images; see the class.

        Raises:
            ValueError: an unknown view, a crop or padding is asked for, or an image has no view of the kind that
                `view_transforms` asks for.
        """
        if kwargs.get("do_center_crop") or kwargs.get("do_pad"):
            raise ValueError("GenGeoImageProcessor neither crops nor pads: it resizes the whole image")
        if args:
            raise ValueError('give the options of GenGeoImageProcessor by name, for example view="aerial"')
        view = kwargs.get("view") or self.view
        sizes = kwargs.get("view_sizes") or self.view_sizes
        if not isinstance(view, str) or view not in sizes:
            raise ValueError(f"unknown view {view!r}, expected one of {sorted(sizes)}")
        if kwargs.get("size") is None and self.size is None:
            kwargs["size"] = _checked_size(sizes[view], view)
        images = [_with_bands(image) for image in images] if isinstance(images, list | tuple) else _with_bands(images)
        features = super().preprocess(images, **kwargs)
        features["view"] = view
        return features

    def process_image(  # type: ignore[override]  # what it does not look at stays in kwargs
        self, image: Any, do_convert_rgb: bool | None = None, **kwargs: Any
    ) -> np.ndarray:
        """One image as an array (3, H, W) of the values that it holds; a PIL image as uint8."""
        if isinstance(image, Image.Image):
            rgb = upright_rgb(image) if do_convert_rgb else image
            return np.atleast_3d(np.array(rgb)).transpose(2, 0, 1)
        if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.shape[0] > 4:
            array = image.transpose(2, 0, 1)  # the common layout, without the library's slow look at it
        else:
            array = super().process_image(image, do_convert_rgb=do_convert_rgb, **kwargs)
        if do_convert_rgb and array.shape[0] in (1, 4):  # arrays of grey or RGBA images are left alone by transformers
            array = np.repeat(array, 3, axis=0) if array.shape[0] == 1 else _opaque(array)
        return array

    def _preprocess(  # type: ignore[override]  # cropping and padding were refused in preprocess
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: Any,
        resample: PILImageResampling,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float],
        image_std: float | list[float],
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        images = [levels(image, do_rescale) for image in images]
        transform = self.transform_of(kwargs.get("view") or self.view, kwargs.get("view_transforms"))
        if transform is not None:
            images = [_changed(image, transform) for image in images]
        if do_resize:
            images = [self._resized(image, (size.height, size.width), resample) for image in images]
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"images of different sizes {sorted({i.shape for i in images})} need do_resize=True")
        pixels = torch.from_numpy(np.stack(images))
        scale = rescale_factor if do_rescale else 1.0
        if do_normalize:
            mean, std = (torch.tensor(x, dtype=torch.float32).view(-1, 1, 1) for x in (image_mean, image_std))
            pixels = pixels.float().mul_(scale / std).sub_(mean / std)
        elif do_rescale:
            pixels = pixels.float().mul_(scale)
        if kwargs.get("device") is not None:
            pixels = pixels.to(kwargs["device"])
        data: Any = pixels if return_tensors == "pt" else pixels.cpu().numpy()
        if return_tensors is None:
            data = list(data)
        return BatchFeature(data={"pixel_values": data}, tensor_type=return_tensors)

    def transform_of(self, view: str, given: dict[str, str] | None = None) -> ViewTransform | None:
        """What changes the images of a view before they are resized; None where they stay as they are.

        Raises:
            ValueError: the transform is unknown.
        """
        text = (given or self.view_transforms or {}).get(view)
        return None if text is None else parse_view(text, view)

    def _resized(self, image: np.ndarray, size: tuple[int, int], resample: PILImageResampling) -> np.ndarray:
        """The image (3, H, W) at the given height and width."""
        if image.shape[1:] == size:
            return image
        mode = TORCH_MODES.get(resample)
        if mode is None:
            return self.resize(image=image, size=SizeDict(height=size[0], width=size[1]), resample=resample)
        # Channels last in memory, as PIL has it: torch's fast path for uint8.
        channels_last = np.require(image.transpose(1, 2, 0), requirements=["C", "W"])
        pixels = torch.from_numpy(channels_last).permute(2, 0, 1).unsqueeze(0)
        if pixels.dtype != torch.uint8:
            pixels = pixels.float()
        return functional.interpolate(pixels, size=size, mode=mode, antialias=True)[0].numpy()


def _changed(image: np.ndarray, transform: ViewTransform) -> np.ndarray:
    """An image (3, H, W) in another view, of the same type."""
    changed = transform(torch.from_numpy(np.ascontiguousarray(image))[None])[0]
    return (changed.round().clamp(0, 255).to(torch.uint8) if image.dtype == np.uint8 else changed).numpy()


def _checked_size(size: Any, view: str) -> Any:
    """The size of a view, if both sides are whole numbers of pixels.

    Raises:
        ValueError: It is something else.
    """
    sides = [size.get(side) if isinstance(size, dict) else None for side in ("height", "width")]
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError(f"view_sizes of {view!r} is {size!r}: expected height and width in pixels, at least 1 each")
    return size


def upright_rgb(image: Image.Image) -> Image.Image:
    """A PIL image in RGB, 8 bits per channel, turned as its EXIF data say."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    rgb = _rgb(image)
    if orientation not in range(2, 9):
        return rgb
    rgb = rgb.copy() if rgb is image else rgb
    rgb.getexif()[ExifTags.Base.Orientation] = orientation  # a conversion may have dropped it
    return ImageOps.exif_transpose(rgb)


def _rgb(image: Image.Image) -> Image.Image:
    """The image in RGB; what is transparent shows the background."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(eight_bits(np.asarray(image))).convert("RGB")
    if image.format == "TIFF" and image.mode in ("RGBA", "RGBX"):
        bands = np.asarray(image)  # a fourth band that is not a mask is near infrared
        if image.mode == "RGBX" or np.any((bands[..., 3] != 0) & (bands[..., 3] != 255)):
            return Image.fromarray(np.ascontiguousarray(bands[..., :3]))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        behind = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey levels of more than 8 bits, or of fractions, scaled to 0..255."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(values.max(initial=0.0))
    if peak <= 1.0 and np.any(values % 1):
        full = 1.0  # fractions of white
    else:
        full = 2.0 ** max(8, math.ceil(math.log2(peak + 1))) - 1 if peak > 0 else 255.0
    return np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8)


def _with_bands(image: Any) -> Any:
    """An array or tensor of grey levels (H, W) with three bands (H, W, 3); anything else as it is."""
    if isinstance(image, np.ndarray) and image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    if isinstance(image, torch.Tensor) and image.ndim == 2:
        return image.expand(3, *image.shape)
    return image


def _opaque(array: np.ndarray) -> np.ndarray:
    """The first three bands of an array (4, H, W); uint8 ones over the background where the fourth is transparent."""
    if array.dtype != np.uint8:
        return array[:3]
    rgba = Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)), "RGBA")
    return np.array(_rgb(rgba)).transpose(2, 0, 1)


def levels(array: np.ndarray, do_rescale: bool = True) -> np.ndarray:
    """Values of an array or tensor as grey levels 0..255: uint8, or float32 where they are fractions.

    Args:
        array: Any numbers.
        do_rescale: False leaves float values as they are: they are on the scale of the model already.

    Raises:
        ValueError: Float values below 0 or above 255, or not finite: the image was normalised already.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.floating):
        return array.astype(np.uint8) if array.size and array.min() >= 0 and array.max() <= 255 else eight_bits(array)
    if not do_rescale:
        return array
    array = array.astype(np.float32)
    low, high = float(array.min(initial=0.0)), float(array.max(initial=0.0))
    if not (low >= 0.0 and high <= 255.0):
        raise ValueError(
            f"an image of float values holds {low:g} to {high:g}: expected 0 to 1, or 0 to 255; give the image before "
            "it is normalised, or its pixel values to the model"
        )
    array = array * np.float32(255.0) if high <= 1.0 else array
    whole = np.rint(array)
    # Values that came from 8 bits have the descriptor of their 8 bits.
    return whole.astype(np.uint8) if np.abs(array - whole).max(initial=0.0) < 1e-3 else array


__all__ = ["GenGeoImageProcessor", "GenGeoImageProcessorKwargs"]
