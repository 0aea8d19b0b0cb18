"""Kept mass by semantic class: measures of the paper's "semantic preference asymmetry" (section 5.1).

From attributions and the true class of each pixel: how much of each class the head keeps in each view, and how much of
that the position in the image explains.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gengeo_hf.common.errors import GenGeoError


def class_shares(kinds: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Compute the share of each class in each patch.

    Args:
        kinds: Class of each pixel, integers (height, width).
        grid: Number of rows and of columns of patches; height and width must be multiples of them.
        classes: Number of classes.

    Returns:
        float64 (n, classes); each row sums to 1.

    Raises:
        GenGeoError: The map cannot be divided into such patches.
    """
    height, width = kinds.shape
    rows, columns = grid
    if height % rows or width % columns:
        raise GenGeoError(f"a class map of {height} x {width} pixels cannot be divided into {rows} x {columns} patches")
    blocks = kinds.reshape(rows, height // rows, columns, width // columns).swapaxes(1, 2).reshape(rows * columns, -1)
    shares: np.ndarray = (blocks[:, :, None] == np.arange(classes)).mean(axis=1)
    return shares


@dataclass(frozen=True)
class ClassPreference:
    """Kept mass of one view by class. All arrays are float64 (classes,); NaN where a class does not occur.

    Args:
        area: Share of the class in all pixels.
        kept: Share of the class in all kept mass.
        preference: kept / area: 1 means no preference, 0 that the dustbin takes all mass of the class.
        low: Lower end of the 95 % interval of `preference`, from resamples of the images in which the class occurs.
        high: Upper end of that interval.
        beyond_position: Kept mass of the class over what the same positions in the image keep on average. 1 means that
            the kept mass depends only on where in the image the class is.
        position_share: Share of the variance of kept mass, over patches and images, that the position in the image
            explains, 0 to 1.
    """

    area: np.ndarray
    kept: np.ndarray
    preference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    beyond_position: np.ndarray
    position_share: float


def class_preference(kept: Sequence[np.ndarray], shares: Sequence[np.ndarray], resamples: int = 500) -> ClassPreference:
    """Measure what the head keeps of each class in one view.

    Args:
        kept: Kept share of the patches of each image, 1 - w, (n,).
        shares: Shares of the classes in the patches of each image, (n, classes), see `class_shares`.
        resamples: Number of resamples of the images for the interval.

    Raises:
        GenGeoError: There are fewer than two images.
    """
    if len(kept) < 2:
        raise GenGeoError(f"{len(kept)} images are too few to measure a preference")
    mass, classes = np.stack(kept).astype(np.float64), np.stack(shares)
    by_image = np.einsum("bn,bnc->bc", mass, classes)  # kept mass of each class in each image
    area_by_image = classes.mean(axis=1)
    by_position = mass.mean(axis=0)
    expected = np.einsum("n,bnc->c", by_position, classes)
    total = by_image.sum(axis=0)
    draws = np.random.default_rng(0).integers(0, len(mass), (resamples, len(mass)))
    resampled = np.stack([_preference(by_image[rows], area_by_image[rows]) for rows in draws])
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # of classes that are in no image
        beyond_position = np.where(expected > 0, total / expected, np.nan)
        low, high = np.nanpercentile(resampled, [2.5, 97.5], axis=0)
    variance = float(mass.var())
    return ClassPreference(
        area=area_by_image.mean(axis=0),
        kept=total / total.sum(),
        preference=_preference(by_image, area_by_image),
        low=low,
        high=high,
        beyond_position=beyond_position,
        position_share=float(by_position.var() / variance) if variance > 0 else 1.0,
    )


def asymmetry(ground: ClassPreference, aerial: ClassPreference, left_out: Sequence[int] = ()) -> tuple[float, float]:
    """Measure how differently the two views distribute kept mass over classes: total variation distance, 0 to 1.

    Args:
        ground: Preference of the ground view.
        aerial: Preference of the aerial view.
        left_out: Indices of classes that only one view can show, such as the sky; the others are scaled to sum 1.

    Returns:
        Distance of the kept mass, and distance of the areas, which a head without preference would have.
    """
    use = np.setdiff1d(np.arange(len(ground.area)), np.asarray(left_out, int))
    return _distance(ground.kept[use], aerial.kept[use]), _distance(ground.area[use], aerial.area[use])


def _preference(mass: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Share of the mass over share of the area of each class; both arguments are (images, classes)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        kept, areas = mass.sum(axis=0) / mass.sum(), area.sum(axis=0) / area.sum()
        ratio: np.ndarray = np.where(areas > 0, kept / areas, np.nan)
    return ratio


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Total variation distance of two arrays, each scaled to sum 1."""
    return 0.5 * float(np.abs(first / first.sum() - second / second.sum()).sum())
