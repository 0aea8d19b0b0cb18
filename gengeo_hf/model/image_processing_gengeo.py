# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""The image processor: PIL images, arrays and tensors to `pixel_values` (B, 3, H, W), with one size per view.

This file is copied into published checkpoints and therefore imports only numpy, PIL, torch, transformers and its
siblings.
"""

# No `from __future__ import annotations` here: it would disable the validation of the keyword arguments.
import difflib
import math
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch.nn import functional
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
)
from transformers.processing_utils import ImagesKwargs

from .view_transforms import ViewTransform, parse_view

BACKGROUND = (124, 116, 104)  # the ImageNet mean, behind transparent pixels
# torch resizes uint8 with antialiasing 4-5 times faster than PIL; results differ by at most one grey level.
TORCH_MODES = {PILImageResampling.BICUBIC: "bicubic", PILImageResampling.BILINEAR: "bilinear"}


class GenGeoImageProcessorKwargs(ImagesKwargs, total=False):
    """Keyword arguments of `GenGeoImageProcessor` in addition to those of every image processor.

    Args:
        view: View of the images, "ground" or "aerial", which selects the size.
        view_sizes: Height and width in pixels by view.
        view_transforms: Transform before resizing by view, for example {"ground": "bev:512:0.06"} or
            {"aerial": "polar:112x616"}; see `view_transforms.parse_view`.
    """

    view: Literal["ground", "aerial"] | None
    view_sizes: dict[str, dict[str, int]] | None
    view_transforms: dict[str, str] | None


class GenGeoImageProcessor(PilBackend):
    """Resize images to the size of their view without cropping, scale to 0..1, normalise with the ImageNet statistics.

    Usage: `processor(images, view="aerial", return_tensors="pt")`. An explicit `size` takes precedence over that of the
    view. With `do_rescale=False, do_normalize=False` the result is the resized uint8 images. The result also contains
    `view`, so that `model(**result)` uses the head of the view.

    PIL images, arrays and tensors of the same image give the same result. The EXIF orientation of PIL images is
    applied, transparent images are composed over the ImageNet mean, and values of more than 8 bits are scaled from the
    smallest number of bits that contains their maximum. Arrays and tensors of integers above 255 are scaled in the same
    way; float values must be in 0..1, or in 0..255 if one is above 1.
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
    size = None  # None is the size of the view, resolved per call: a fixed size would override a later `view`
    view = "ground"
    view_sizes = {  # noqa: RUF012
        "ground": {"height": 154, "width": 770},
        "aerial": {"height": 392, "width": 392},
    }
    view_transforms = None  # no transform

    def __init__(self, **kwargs: Any) -> None:
        known = ("view", "view_sizes", "view_transforms", "do_resize", "do_rescale", "do_normalize")
        for name in (
            set(kwargs) - set(ImagesKwargs.__annotations__) - set(known)
        ):  # a config file may contain unused keys
            if near := difflib.get_close_matches(name, known, cutoff=0.75):
                raise TypeError(f"GenGeoImageProcessor has no setting {name!r}; did you mean {near[0]!r}?")
        super().__init__(**kwargs)

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Prepare one image or a list of images; see the class.

        Args:
            images: PIL image, array or tensor, or a list of them.
            args: Not supported; options are keyword-only.
            kwargs: Options, see `GenGeoImageProcessorKwargs` and `ImagesKwargs`.

        Returns:
            `pixel_values` (B, 3, H, W) and `view`.

        Raises:
            ValueError: The view is unknown, cropping or padding is requested, or a transform does not fit an image.
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
            kwargs["size"] = _check_size(sizes[view], view)
        images = [_with_bands(image) for image in images] if isinstance(images, list | tuple) else _with_bands(images)
        features = super().preprocess(images, **kwargs)
        features["view"] = view
        return features

    def process_image(  # type: ignore[override]  # unused arguments stay in kwargs
        self, image: Any, do_convert_rgb: bool | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Convert one image to an array (3, H, W) with its values; a PIL image to uint8."""
        if isinstance(image, Image.Image):
            rgb = upright_rgb(image) if do_convert_rgb else image
            return np.atleast_3d(np.array(rgb)).transpose(2, 0, 1)
        if kwargs.get("input_data_format") is None and image.ndim == 3:  # old transformers refuse 4 bands
            kwargs["input_data_format"] = infer_channel_dimension_format(image, (1, 3, 4))
        # Without the conversion of transformers, which composes transparent arrays over white.
        array = super().process_image(image, do_convert_rgb=False, **kwargs)
        if do_convert_rgb and array.shape[0] in (1, 4):
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
            images = [_apply_transform(image, transform) for image in images]
        if do_resize:
            images = [self._resize_image(image, (size.height, size.width), resample) for image in images]
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
        """Return the transform of a view before resizing; None for no transform.

        Args:
            view: View, "ground" or "aerial".
            given: Transforms by view; None uses `view_transforms` of the processor.

        Raises:
            ValueError: The transform is unknown.
        """
        text = (given or self.view_transforms or {}).get(view)
        return None if text is None else parse_view(text, view)

    def _resize_image(self, image: np.ndarray, size: tuple[int, int], resample: PILImageResampling) -> np.ndarray:
        """Resize an image (3, H, W) to a height and width."""
        if image.shape[1:] == size:
            return image
        mode = TORCH_MODES.get(resample)
        if mode is None:
            return self.resize(image=image, size=SizeDict(height=size[0], width=size[1]), resample=resample)
        # Channels last in memory, as in PIL, for the fast path of torch for uint8.
        channels_last = np.require(image.transpose(1, 2, 0), requirements=["C", "W"])
        pixels = torch.from_numpy(channels_last).permute(2, 0, 1).unsqueeze(0)
        if pixels.dtype != torch.uint8:
            pixels = pixels.float()
        return functional.interpolate(pixels, size=size, mode=mode, antialias=True)[0].numpy()


def _apply_transform(image: np.ndarray, transform: ViewTransform) -> np.ndarray:
    """Transform an image (3, H, W) to another view of the same dtype."""
    changed = transform(torch.from_numpy(np.ascontiguousarray(image))[None])[0]
    return (changed.round().to(torch.uint8) if image.dtype == np.uint8 else changed).numpy()


def _check_size(size: Any, view: str) -> Any:
    """Return the size of a view if both sides are positive integers.

    Raises:
        ValueError: The size is invalid.
    """
    sides = [size.get(side) if isinstance(size, dict) else None for side in ("height", "width")]
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError(f"view_sizes of {view!r} is {size!r}: expected height and width in pixels, at least 1 each")
    return size


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert a PIL image to RGB, 8 bits per channel, and apply its EXIF orientation."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    rgb = _rgb(image)
    if orientation not in range(2, 9):
        return rgb
    rgb.getexif()[ExifTags.Base.Orientation] = orientation  # a conversion may have dropped it
    return ImageOps.exif_transpose(rgb)


def _rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB; transparent pixels show the background."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(eight_bits(np.asarray(image))).convert("RGB")
    if image.format == "TIFF" and image.mode == "RGBA":
        bands = np.asarray(image)  # a fourth band that is not a mask is near infrared
        if np.any((bands[..., 3] != 0) & (bands[..., 3] != 255)):
            return Image.fromarray(np.ascontiguousarray(bands[..., :3]))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        behind = Image.new("RGBA", image.size, BACKGROUND)
        return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale integers of more than 8 bits, or fractions of 1, to uint8."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(values.max(initial=0.0))
    bits = max(8, math.ceil(math.log2(peak + 1)))
    full = 1.0 if peak <= 1.0 and np.any(values % 1) else 2.0**bits - 1  # of fractions, 1 is white
    return np.rint(values * (255.0 / full)).clip(0).astype(np.uint8)


def _with_bands(image: Any) -> Any:
    """Repeat an array or tensor of grey levels (H, W) to three bands; return other images unchanged."""
    if isinstance(image, np.ndarray) and image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    if isinstance(image, torch.Tensor) and image.ndim == 2:
        return image.expand(3, *image.shape)
    return image


def _opaque(array: np.ndarray) -> np.ndarray:
    """Return the first three bands of an array (4, H, W); uint8 images are composed over the background."""
    if array.dtype != np.uint8:
        return array[:3]
    rgba = Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)), "RGBA")
    return np.array(_rgb(rgba)).transpose(2, 0, 1)


def levels(array: np.ndarray, do_rescale: bool = True) -> np.ndarray:
    """Convert the values of an image to grey levels 0..255: uint8, or float32 if they are not integers.

    Args:
        array: Image with values of any dtype.
        do_rescale: Whether float values are converted; False returns them unchanged.

    Raises:
        ValueError: Float values are below 0, above 255 or not finite: the image was normalised already.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.floating):
        return eight_bits(array)
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
    # Float values of an 8-bit image give the descriptor of the 8-bit image.
    return whole.astype(np.uint8) if np.abs(array - whole).max(initial=0.0) < 1e-3 else array


__all__ = ["GenGeoImageProcessor", "GenGeoImageProcessorKwargs"]
