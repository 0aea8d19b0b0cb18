"""A baseline without learning: ranks tiles by colour histograms.

If its recall were high in a synthetic world, that world could be solved without a model.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset

BINS = 8


def colour_histogram(image: Image.Image, lower_half: bool = False) -> np.ndarray:
    """Joint RGB histogram, 8 x 8 x 8 bins, of unit length.

    Args:
        image: Image in any mode; it is converted to RGB.
        lower_half: Leave out the upper half, which in a panorama is mostly sky.

    Returns:
        float64 (512,), square roots of the share of pixels in each bin.
    """
    pixels = np.asarray(image.convert("RGB"))
    if lower_half:
        pixels = pixels[len(pixels) // 2 :]
    levels = (pixels // (256 // BINS)).reshape(-1, 3).astype(np.int64)
    counts = np.bincount(levels @ (BINS**2, BINS, 1), minlength=BINS**3).astype(np.float64)
    histogram: np.ndarray = np.sqrt(counts / counts.sum())  # their dot product is the Bhattacharyya coefficient
    return histogram


def histogram_ranks(world: "CrossViewDataset", lower_half: bool = False) -> np.ndarray:
    """Rank all tiles for each photo by the similarity of colours.

    Args:
        world: Data set with queries and gallery.
        lower_half: Leave out the upper half of each photo (not of tiles).

    Returns:
        int64 (queries,) rank of each true tile, 0 is the best. Ties count against it.
    """
    from gengeo_hf.data.loading import AerialImages, GroundImages
    from gengeo_hf.evaluation import rank_of_positives

    ground = _histograms(GroundImages(world), lower_half)
    return rank_of_positives(ground, _histograms(AerialImages(world)), world.positive_rows())


def _histograms(images: Iterable[Image.Image], lower_half: bool = False) -> np.ndarray:
    return np.stack([colour_histogram(image, lower_half) for image in images]).astype(np.float32)
