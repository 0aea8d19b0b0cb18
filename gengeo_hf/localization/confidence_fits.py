"""Fits of `Calibration` (regressions, conditional logit, quantiles) and their quality measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gengeo_hf.localization.answers import tiles_overlap

if TYPE_CHECKING:
    from gengeo_hf.localization.answers import Place

MIN_PHOTOS = 20
CANDIDATES = 10  # places among which the probability of a photo is divided, independent of how many are shown
ABSENT = 4.0  # multiple of `within_m`: without the tiles nearer to a photo, it counts as absent from the index
RIDGE = 1e-2  # keeps the weights finite when held-out photos are perfectly separable


@dataclass(frozen=True)
class HeldOutPhoto:
    """Scores and outcome of one held-out photo.

    Args:
        scores: Scores of its places that do not overlap, descending.
        right: Index of the right place in `scores`; None if none is right.
        absent_scores: `scores` without the places near the true position.
        ratio: Distance from the right place to the true position, divided by its `uncertainty_m`; None where unknown.
    """

    scores: np.ndarray
    right: int | None
    absent_scores: np.ndarray
    ratio: float | None

    @classmethod
    def of(cls, places: Sequence["Place"], lat: float, lon: float, within_m: float) -> "HeldOutPhoto":
        """Create one from the places of a photo and its true position in degrees."""
        from gengeo_hf.common.geo import great_circle_m

        firsts = list(dict.fromkeys(place_groups(places)))[:CANDIDATES]
        found = [places[row] for row in firsts]
        scores = np.array([place.score for place in found])
        away = great_circle_m([p.lat for p in found], [p.lon for p in found], lat, lon)
        near = np.flatnonzero(away <= within_m)
        right = int(near[np.argmin(away[near])]) if len(near) else None
        place = found[right] if right is not None else None
        ratio = float(away[right]) / place.uncertainty_m if place is not None and place.uncertainty_m else None
        return cls(scores, right, scores[away > ABSENT * within_m], ratio)


def place_groups(places: Sequence["Place"]) -> list[int]:
    """For each place, row of the first place whose tile overlaps its own."""
    groups: list[int] = []
    for row, place in enumerate(places):
        earlier = (other for other in dict.fromkeys(groups) if tiles_overlap(place, places[other]))
        groups.append(next(earlier, row))
    return groups


def score_and_lead(scores: np.ndarray) -> tuple[float, float]:
    """Best score, and its lead over the next score (0 if there is none)."""
    return float(scores[0]), float(scores[0] - scores[1]) if len(scores) > 1 else 0.0


def rest_probabilities(weights: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Probability of each further place, given that the first is wrong; the rest up to 1 is "none of them"."""
    utility = weights[0] + weights[1] * (scores[1:] - scores[0])
    found: np.ndarray = np.exp(utility - np.logaddexp.reduce(utility, initial=0.0))
    return found


def fit_best(photos: Sequence[HeldOutPhoto]) -> tuple[float, float, float]:
    """Fit bias, score weight and lead weight of the best place."""
    features = np.array([score_and_lead(photo.scores) for photo in photos])
    weights = fit_logistic(features, np.array([photo.right == 0 for photo in photos], dtype=float))
    return float(weights[0]), float(weights[1]), float(weights[2])


def fit_rest(photos: Sequence[HeldOutPhoto]) -> tuple[float, float]:
    """Fit a conditional logit over further places by maximum likelihood, on photos whose best place is wrong."""
    from scipy.optimize import minimize

    wrong = [photo for photo in photos if photo.right != 0 and len(photo.scores) > 1]
    if not wrong:
        return -2.0, 0.0
    shape = len(wrong), max(len(photo.scores) for photo in wrong) - 1
    behind, known = np.zeros(shape), np.zeros(shape, dtype=bool)
    for row, photo in enumerate(wrong):
        further = photo.scores[1:] - photo.scores[0]
        behind[row, : len(further)], known[row, : len(further)] = further, True
    scale = float(behind[known].std()) + 1e-6
    behind /= scale
    outcome = np.array([-1 if photo.right is None else photo.right - 1 for photo in wrong])
    rows = np.arange(len(wrong))

    def loss(weights: np.ndarray) -> float:
        utility = np.where(known, weights[0] + weights[1] * behind, -np.inf)
        total = np.logaddexp.reduce(utility, axis=1, initial=0.0)
        chosen = np.where(outcome < 0, 0.0, utility[rows, outcome])
        return float((total - chosen).mean() + RIDGE * weights @ weights / 2)

    found = minimize(loss, np.array([-2.0, 0.0]), method="Nelder-Mead", options={"maxiter": 300}).x
    return float(found[0]), float(found[1] / scale)


def fit_absence(photos: Sequence[HeldOutPhoto]) -> tuple[float, ...]:
    """Fit a regression that separates photos from the same photos without the tiles near their true position."""
    absent = [photo.absent_scores for photo in photos if len(photo.absent_scores)]
    if len(absent) < MIN_PHOTOS:
        return ()
    features = np.array([score_and_lead(scores) for scores in [*(photo.scores for photo in photos), *absent]])
    gone = np.concatenate([np.zeros(len(photos)), np.ones(len(absent))])
    return tuple(map(float, fit_logistic(features, gone, counts=np.where(gone > 0, len(photos) / len(absent), 1.0))))


def radius_factors(photos: Sequence[HeldOutPhoto]) -> tuple[float, ...]:
    """68 % and 95 % quantiles of distance / uncertainty of right places, one rank up (split conformal)."""
    ratios = np.sort([photo.ratio for photo in photos if photo.right == 0 and photo.ratio is not None])
    if len(ratios) < MIN_PHOTOS:
        return ()
    ranks = [int(np.ceil(share * (len(ratios) + 1))) for share in (0.68, 0.95)]  # at most the number of ratios
    return tuple(float(ratios[rank - 1]) for rank in ranks)


def held_out(photos: Sequence[HeldOutPhoto]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities by two-fold cross-validation.

    Returns:
        Probability of each photo's best place; probabilities of places 2 to 5; 1 for each of the latter that is right.
    """
    best = np.empty(len(photos))
    further: list[float] = []
    further_right: list[float] = []
    for half in (0, 1):
        fitted, unseen = photos[1 - half :: 2], photos[half::2]
        weights, rest = np.array(fit_best(fitted)), np.array(fit_rest(fitted))
        best[half::2] = logistic(weights, np.array([score_and_lead(photo.scores) for photo in unseen]))
        for photo, confidence in zip(unseen, best[half::2], strict=True):
            stated = (1 - confidence) * rest_probabilities(rest, photo.scores)[:4]
            further += stated.tolist()
            further_right += [float(photo.right == row + 1) for row in range(len(stated))]
    return best, np.array(further), np.array(further_right)


def brier_skill(stated: np.ndarray, right: np.ndarray) -> float:
    """1 - Brier score / Brier score of always stating the share of right answers; 0 where that is exact."""
    base = float(right.mean() * (1 - right.mean())) if len(right) else 0.0
    return 0.0 if base == 0 else 1 - float(((stated - right) ** 2).mean()) / base


def auroc(stated: np.ndarray, right: np.ndarray) -> float:
    """Area under the ROC curve (Mann and Whitney 1947); ties count half."""
    from scipy.stats import rankdata

    ranks, good = rankdata(stated), right > 0
    count = int(good.sum())
    return float((ranks[good].sum() - count * (count + 1) / 2) / (count * (len(right) - count)))


def logistic(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Probability of each row of features, from bias and weights."""
    logits = weights[0] + features @ weights[1:]
    probability: np.ndarray = np.exp(-np.logaddexp(0.0, -logits))
    return probability


def fit_logistic(features: np.ndarray, right: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Ridge logistic regression by Newton steps on standardised features; (bias, score weight, lead weight).

    Args:
        features: (photos, 2) score and lead.
        right: (photos,) outcome, 0 or 1.
        counts: (photos,) weight of each row; None is 1.
    """
    counts = np.ones(len(right)) if counts is None else counts
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    design = np.column_stack([np.ones(len(right)), (features - mean) / scale])
    penalty = np.diag([0.0, 1.0, 1.0]) * RIDGE * len(right)
    weights = np.zeros(3)
    for _ in range(50):
        confidence = logistic(weights, design[:, 1:])
        slope = design.T @ (counts * (confidence - right)) + penalty @ weights
        curvature = design.T @ (design * (counts * confidence * (1 - confidence))[:, None]) + penalty + 1e-9 * np.eye(3)
        step = np.linalg.solve(curvature, slope)
        weights = weights - step * min(1.0, 5.0 / (np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return np.array([weights[0] - (weights[1:] / scale * mean).sum(), *(weights[1:] / scale)])
