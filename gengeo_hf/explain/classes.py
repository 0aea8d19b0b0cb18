"""What is kept, by class of what is seen: the "semantic preference asymmetry" of the paper's section 5.1 as numbers.

From attributions and the true class of each pixel: how much of each class the head keeps in each view, and how much of
that is explained by the position in the image alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gengeo_hf.common.errors import GenGeoError


def class_shares(kinds: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Share of each class in each patch.

    Args:
        kinds: integers (height, width), the class of each pixel.
        grid: rows and columns of patches; the sides of `kinds` must be multiples of them.
        classes: number of classes.

    Returns:
        float64 (n, classes); each row sums to 1.

    Raises:
        GenGeoError: the map cannot be cut into such patches.
    """
    height, width = kinds.shape
    rows, columns = grid
    if height % rows or width % columns:
        raise GenGeoError(f"a class map of {height} x {width} pixels cannot be cut into {rows} x {columns} patches")
    blocks = kinds.reshape(rows, height // rows, columns, width // columns).swapaxes(1, 2).reshape(rows * columns, -1)
    shares: np.ndarray = (blocks[:, :, None] == np.arange(classes)).mean(axis=1)
    return shares


@dataclass(frozen=True)
class ClassPreference:
    """What one view keeps, by class. All arrays are float64 (classes,); NaN where a class does not occur.

    Args:
        area: share of all pixels.
        kept: share of all kept mass.
        preference: kept / area: 1 is indifference, 0 means that the dustbin takes all of it.
        low, high: 95 % interval of `preference`, from resampling images; of the resamples in which the class occurs.
        beyond_place: kept mass over what the same places in the image keep on average. 1 means that a class is kept
            only as far as it lies where the head always looks.
        place_share: how much of the variance of what is kept, over patches and images, the place in the image explains
            alone, 0 to 1.
    """

    area: np.ndarray
    kept: np.ndarray
    preference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    beyond_place: np.ndarray
    place_share: float


def class_preference(kept: Sequence[np.ndarray], shares: Sequence[np.ndarray], resamples: int = 500) -> ClassPreference:
    """Measure what a view keeps of each class.

    Args:
        kept: for each image, 1 - w of its patches, (n,).
        shares: for each image, `class_shares`, (n, classes).
        resamples: of images, for the interval.

    Raises:
        GenGeoError: there are fewer than two images.
    """
    if len(kept) < 2:
        raise GenGeoError(f"{len(kept)} images are too few to measure a preference")
    mass, classes = np.stack(kept).astype(np.float64), np.stack(shares)
    by_image = np.einsum("bn,bnc->bc", mass, classes)  # kept mass of each class in each image
    area_by_image = classes.mean(axis=1)
    habit = mass.mean(axis=0)
    expected = np.einsum("n,bnc->c", habit, classes)
    total = by_image.sum(axis=0)
    draws = np.random.default_rng(0).integers(0, len(mass), (resamples, len(mass)))
    spread = np.stack([_preference(by_image[rows], area_by_image[rows]) for rows in draws])
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # a class that no image shows
        beyond = np.where(expected > 0, total / expected, np.nan)
        low, high = np.nanpercentile(spread, [2.5, 97.5], axis=0)
    variance = float(mass.var())
    return ClassPreference(
        area=area_by_image.mean(axis=0),
        kept=total / total.sum(),
        preference=_preference(by_image, area_by_image),
        low=low,
        high=high,
        beyond_place=beyond,
        place_share=float(habit.var() / variance) if variance > 0 else 1.0,
    )


def asymmetry(ground: ClassPreference, aerial: ClassPreference, left_out: Sequence[int] = ()) -> tuple[float, float]:
    """How differently the two views spread their kept mass over classes, as a total variation distance, 0 to 1.

    Args:
        ground, aerial: preferences of the two views.
        left_out: classes that only one view can show, such as the sky; the others are scaled to sum 1.

    Returns:
        The distance of the kept mass, and that of the mere areas: what a head without any preference would show.
    """
    use = np.setdiff1d(np.arange(len(ground.area)), np.asarray(left_out, int))
    return _distance(ground.kept[use], aerial.kept[use]), _distance(ground.area[use], aerial.area[use])


def _preference(mass: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Share of mass over share of area, from (images, classes)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        kept, seen = mass.sum(axis=0) / mass.sum(), area.sum(axis=0) / area.sum()
        ratio: np.ndarray = np.where(seen > 0, kept / seen, np.nan)
    return ratio


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Total variation distance of two lists of masses."""
    return 0.5 * float(np.abs(first / first.sum() - second / second.sum()).sum())
