"""Preprocessing with Pillow and numpy instead of torch, for exported graphs.

`GenGeoImageProcessor` resizes with torch, which takes seconds to import. Here upright RGB images are resized by Pillow,
whose bicubic and bilinear kernels agree within one grey level. Other input (arrays, uncommon options) is passed to
`GenGeoImageProcessor`, which is loaded on first use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError

CONFIG = "preprocessor_config.json"
# Defaults of `GenGeoImageProcessor`.
DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "size": None,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "view_sizes": {"ground": {"height": 154, "width": 770}, "aerial": {"height": 392, "width": 392}},
}
FAST_SCALE = 0.75  # 1.8 times as fast with ViT-B/14 on a CPU with only AVX2 (benchmarks/README.md)
COMMON = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "rescale_factor", "size")


class FileProcessor:
    """Image processor with the settings of a checkpoint directory.

    Args:
        folder: Directory with preprocessor_config.json.

    Raises:
        GenGeoError: The file is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, path = Path(folder), Path(folder) / CONFIG
        try:
            stored = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise GenGeoError(f"{path} cannot be read ({error}): fetch or export the model again") from error
        self._settings = DEFAULTS | stored
        self.view_sizes: dict[str, dict[str, int]] = self._settings["view_sizes"]
        if not isinstance(self.view_sizes, dict) or not all(map(_is_size, self.view_sizes.values())):
            raise GenGeoError(f"{path}: view_sizes is {self.view_sizes!r:.100}; fetch or export the model again")
        self.view_transforms: dict[str, str] | None = self._settings.get("view_transforms")
        self._whole: Any = None

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {**self._settings, "view_sizes": self.view_sizes}

    def __getattr__(self, name: str) -> Any:
        """Other attributes of `GenGeoImageProcessor`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole, name)

    @property
    def whole(self) -> Any:
        """`GenGeoImageProcessor` of the same directory."""
        if self._whole is None:
            from gengeo_hf.model import GenGeoImageProcessor

            self._whole = GenGeoImageProcessor.from_pretrained(self.folder)
        return self._whole

    def __call__(self, images: Any, *, view: str, **options: Any) -> dict[str, Any]:
        """Compute pixel values (B, 3, H, W): float32 arrays, or tensors with `return_tensors="pt"`."""
        several = images if isinstance(images, list | tuple) else [images]
        plain = not (set(options) - {"return_tensors", "do_resize"}) and options.get("return_tensors") == "np"
        usual = all(self._settings[name] == DEFAULTS[name] for name in COMMON) and view not in (
            self.view_transforms or {}
        )
        if not (plain and usual and all(isinstance(image, Image.Image) and image.mode == "RGB" for image in several)):
            found: dict[str, Any] = self.whole(images, view=view, **{"view_sizes": self.view_sizes, **options})
            return found
        size = self.view_sizes[view] if options.get("do_resize", True) else None
        if size is None and len({image.size for image in several}) > 1:
            raise ValueError(f"images of different sizes {sorted({i.size for i in several})} need do_resize=True")
        return {"pixel_values": np.stack([self._pixels(image, size) for image in several]), "view": view}

    def _pixels(self, image: Image.Image, size: dict[str, int] | None) -> np.ndarray:
        """Normalised values of one upright RGB image, float32 (3, H, W)."""
        if size is not None and image.size != (size["width"], size["height"]):
            image = image.resize((size["width"], size["height"]), Image.Resampling(self._settings["resample"]))
        mean, std = (np.array(self._settings[name], np.float32) for name in ("image_mean", "image_std"))
        scale = np.float32(self._settings["rescale_factor"])
        values: np.ndarray = np.asarray(image, np.float32) * (scale / std) - mean / std
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def scaled_sizes(
    sizes: Mapping[str, Mapping[str, int]], scale: float, patches: tuple[int, int], fewest_tokens: int = 1
) -> dict[str, dict[str, int]]:
    """Multiply image sizes by a scale and round each side to whole patches.

    Args:
        sizes: `height` and `width` in pixels, by view.
        scale: Factor, 0.1 to 1.
        patches: Height and width of a patch in pixels.
        fewest_tokens: Minimum number of patches of an image.

    Returns:
        New sizes by view.

    Raises:
        GenGeoError: The scale is out of range, or leaves too few patches.
    """
    if not 0.1 <= scale <= 1:
        raise GenGeoError(f"the input scale is {scale:g}: expected 0.1 to 1, a factor of the model's image size")
    found = {}
    for view, size in sizes.items():
        high, wide = (
            max(1, round(size[side] * scale / patch)) for side, patch in zip(("height", "width"), patches, strict=True)
        )
        if high * wide < fewest_tokens:
            raise GenGeoError(
                f"at input scale {scale:g} {view} images have {high * wide} tokens, the model needs at least "
                f"{fewest_tokens}: give a larger scale"
            )
        found[view] = {"height": high * patches[0], "width": wide * patches[1]}
    return found


def fast_scale(record: Mapping[str, Any]) -> float:
    """Input scale of "fast": `FAST_SCALE`, if the model was trained with images of such sizes.

    Args:
        record: Training record of the model.

    Raises:
        GenGeoError: By its record, the model was not trained with images of this scale.
    """
    augment = (record.get("settings") or {}).get("augment") or {}
    scales = (augment.get("options") or {}).get("input_scales") or [1.0]
    if not augment.get("enabled", True) or min(scales) > FAST_SCALE:
        raise GenGeoError(
            f"fast is input scale {FAST_SCALE:g}, and this model was not trained with images of several sizes "
            f"(augment.options.input_scales): measure its effect with benchmarks/input_scale.py, and give "
            f"{FAST_SCALE:g} instead of fast if you accept it"
        )
    return FAST_SCALE


def _is_size(size: Any) -> bool:
    sides = [size.get(side) for side in ("height", "width")] if isinstance(size, dict) else [None]
    return all(type(side) is int and side > 0 for side in sides)


__all__ = ["FileProcessor", "fast_scale", "scaled_sizes"]
