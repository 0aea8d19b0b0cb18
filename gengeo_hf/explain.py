"""What the head kept of an image: the share of each patch that did not go to the dustbin.

Before: a checkpoint and an image. After: a map of the patches, and the image with the map laid over it (the right
columns of the paper's Figures 4-6).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from gengeo_hf.data.images import open_image
from gengeo_hf.encoder import Encoder, View
from gengeo_hf.errors import GenGeoError

SCALE_NOTE = (
    "Scaled for each image by itself, from its least to its most kept patch: the dustbin's total share is fixed by "
    "SALAD's marginals, so the brightness of two images must not be compared."
)


@torch.inference_mode()
def kept_map(encoder: Encoder, image: Any, view: View) -> np.ndarray:
    """Share of each patch's mass that reaches the clusters, 1 - w (GenGeo, section 5.1).

    Its mean over an image is close to clusters / patches on any image (`rejected_share` is fixed), so only
    differences within one image carry meaning.

    Args:
        encoder: a model with a SALAD head and a dustbin.
        image: a path or a PIL image.
        view: "ground" or "aerial".

    Returns:
        float32 (patch rows, patch columns), each value in 0..1.

    Raises:
        GenGeoError: the model has no dustbin, or the image cannot be read.
    """
    config = encoder.model.config
    if config.aggregator != "salad" or not config.use_dustbin:
        raise GenGeoError(f"a {config.aggregator} head without dustbin keeps every patch: there is no map to draw")
    inputs = encoder.processor([_opened(image)], view=view, return_tensors="pt")  # type: ignore[call-arg]  # valid_kwargs
    pixels = inputs["pixel_values"]
    output = encoder.model(pixels.to(encoder.device), view=view, output_assignment=True)
    kept = 1 - output.assignment[0, -1]
    return kept.reshape(output.token_grid).float().cpu().numpy()


def stretch(values: np.ndarray) -> np.ndarray:
    """Scale one map from its 2nd to its 98th percentile to 0..1: one odd patch must not darken all others."""
    low, high = np.percentile(values, [2, 98])
    scaled: np.ndarray = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return scaled


def overlay(image: Any, values: np.ndarray, opacity: float = 0.55) -> Image.Image:
    """Lay a map of patches over an image: dark violet is least, yellow most.

    Args:
        image: a path or a PIL image.
        values: (rows, columns) in 0..1, see `stretch`.
        opacity: weight of the colours, 0 to 1.

    Returns:
        A picture of the image's size, at least 392 pixels high or wide so that patches can be told apart.
    """
    picture = _opened(image)
    factor = max(1, -(-392 // max(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(_viridis(values)).resize(size, Image.Resampling.BILINEAR)
    return Image.blend(picture, colours, opacity)


def _opened(image: Any) -> Image.Image:
    opened: Image.Image = image.convert("RGB") if isinstance(image, Image.Image) else open_image(image)
    return opened


def _viridis(values: np.ndarray) -> np.ndarray:
    """Five anchors of matplotlib's viridis, interpolated: the map is needed where matplotlib is not installed."""
    anchors = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])
    position = np.clip(values, 0, 1) * (len(anchors) - 1)
    channels = [np.interp(position, np.arange(len(anchors)), anchors[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
