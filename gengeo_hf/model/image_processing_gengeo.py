"""From photos to pixel values, with one size per view.

Before: PIL images, arrays or tensors. After: `pixel_values` (B, 3, H, W), ready for `GenGeoModel`.
This file travels with published checkpoints, so it imports only numpy, PIL, torch and transformers.
"""

# No `from __future__ import annotations` here: it turns the validation of the keyword arguments off.
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

# torch resizes uint8 with antialiasing 4-5 times faster than PIL, and within one grey level of it.
TORCH_MODES = {PILImageResampling.BICUBIC: "bicubic", PILImageResampling.BILINEAR: "bilinear"}


class GenGeoImageProcessorKwargs(ImagesKwargs, total=False):
    """Keyword arguments of `GenGeoImageProcessor` beside those of every image processor.

    Args:
        view: "ground" or "aerial"; picks the size.
        view_sizes: height and width in pixels of each view.
    """

    view: Literal["ground", "aerial"] | None
    view_sizes: dict[str, dict[str, int]] | None


class GenGeoImageProcessor(PilBackend):
    """Resize to the view's exact size (no crop), scale to 0..1, normalise with the ImageNet mean and deviation.

    `processor(images, view="aerial", return_tensors="pt")`. An explicit `size` goes before the view's. With
    `do_rescale=False, do_normalize=False` it gives the resized uint8 images.
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

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Prepare one image or a list of images; see the class.

        Raises:
            ValueError: an unknown view, or a crop or padding is asked for.
        """
        if kwargs.get("do_center_crop") or kwargs.get("do_pad"):
            raise ValueError("GenGeoImageProcessor neither crops nor pads: it resizes the whole image")
        if kwargs.get("size") is None and self.size is None:
            sizes, view = kwargs.get("view_sizes") or self.view_sizes, kwargs.get("view") or self.view
            if view not in sizes:
                raise ValueError(f"unknown view {view!r}, expected one of {sorted(sizes)}")
            kwargs["size"] = sizes[view]
        return super().preprocess(images, *args, **kwargs)

    def process_image(  # type: ignore[override]  # what it does not look at stays in kwargs
        self, image: Any, do_convert_rgb: bool | None = None, **kwargs: Any
    ) -> np.ndarray:
        """One image as an array (3, H, W), uint8 where the input is."""
        if isinstance(image, Image.Image):
            rgb = image.convert("RGB") if do_convert_rgb and image.mode != "RGB" else image
            return np.atleast_3d(np.array(rgb)).transpose(2, 0, 1)
        if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.shape[0] > 4:
            return image.transpose(2, 0, 1)  # the common layout, without the library's slow look at it
        array = super().process_image(image, do_convert_rgb=do_convert_rgb, **kwargs)
        if do_convert_rgb and array.shape[0] in (1, 4):  # arrays of grey or RGBA images are left alone by transformers
            array = np.repeat(array, 3, axis=0) if array.shape[0] == 1 else array[:3]
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


__all__ = ["GenGeoImageProcessor", "GenGeoImageProcessorKwargs"]
