"""Posteriors of several tiles joined into one map in metres, and the weights of that.

Overlapping tiles show the same ground, so their posteriors agree where a photo really stands, and nowhere else. Each
tile weighs softmax(a x scale x cosine + b x evidence), where the evidence is the log-sum-exp of its scores. Weights
are fitted on photos of the same kind, and switched off where they do not gain.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gengeo_hf.common.geo import great_circle_m, metres_per_degree, offset

CELL_M = 3.0  # of the map in which the mode is looked for
BLUR_M = 3.0  # standard deviation of its smoothing
NEAR_M = 6.0  # the answer is the mean within this distance of the mode
MODE_M = 8.0  # mass within this distance of the mode is its probability
LEAST_MASS = 1e-6  # points of less probability are left out
COSINE_WEIGHTS = (0.25, 0.5, 1.0, 2.0)
EVIDENCE_WEIGHTS = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class FusionWeights:
    """How much similarity and evidence count.

    Args:
        cosine: Factor of the cosine times the model's scale.
        evidence: Factor of the log-evidence of the pose head.
        scale: The model's InfoNCE scale.
        tiles: Most similar tiles that are joined.
        enabled: False where joining did not gain on the validation photos: the best tile's pose is the answer.
        gain_percent: Share of validation photos within 10 m, joined minus best tile, in percent.
        photos: Validation photos.
    """

    cosine: float = 1.0
    evidence: float = 0.0
    scale: float = 1.0
    tiles: int = 40
    enabled: bool = False
    gain_percent: float = 0.0
    photos: int = 0

    def log_weights(self, cosines: np.ndarray, evidence: np.ndarray) -> np.ndarray:
        """Log-weights of the tiles of one photo, normalised: (T,)."""
        logits = self.cosine * self.scale * cosines + self.evidence * evidence
        top = logits.max()
        normalised: np.ndarray = logits - top - np.log(np.exp(logits - top).sum())
        return normalised


@dataclass(frozen=True)
class TilePosterior:
    """One candidate tile of a photo.

    Args:
        lat, lon: Degrees of the tile's centre.
        cosine: Similarity to the photo.
        evidence: Log-evidence of the pose head.
        positions: (P, 2) metres east and north of the centre.
        mass: (P,) probability of each position, given the tile.
    """

    lat: float
    lon: float
    cosine: float
    evidence: float
    positions: np.ndarray
    mass: np.ndarray


@dataclass(frozen=True)
class Mode:
    """One peak of the joined map.

    Args:
        lat, lon: Degrees, the mean near the peak.
        probability: Mass within `MODE_M` of the peak.
        spread_m: Root-mean-square distance of the mass within 5 x `MODE_M` from the answer.
        tile: Number of the tile that adds most near the peak.
    """

    lat: float
    lon: float
    probability: float
    spread_m: float
    tile: int


def fuse(tiles: Sequence[TilePosterior], log_weights: np.ndarray, count: int = 1) -> list[Mode]:
    """Peaks of the joined map of one photo, most probable first.

    Args:
        tiles: Candidates.
        log_weights: (T,), see `FusionWeights.log_weights`.
        count: Peaks at most. Each takes the mass near it away, so that peaks are different places.
    """
    lat, lon = tiles[0].lat, tiles[0].lon
    points, mass, owner = _points(tiles, log_weights, lat, lon)
    modes = []
    for _ in range(count):
        if not len(mass) or mass.sum() < LEAST_MASS:
            break
        peak = _peak(points, mass)
        distance = np.hypot(*(points - peak).T)
        near, inside, around = distance <= NEAR_M, distance <= MODE_M, distance <= 5 * MODE_M
        answer = mass[near] @ points[near] / mass[near].sum()
        square = ((points[around] - answer) ** 2).sum(axis=1)
        spread = float(np.sqrt(mass[around] @ square / mass[around].sum()))
        best = int(np.bincount(owner[inside], mass[inside]).argmax())
        where = offset(lat, lon, *answer)
        modes.append(Mode(float(where[0]), float(where[1]), float(mass[inside].sum()), spread, best))
        points, mass, owner = points[~around], mass[~around], owner[~around]
    return modes


def _points(
    tiles: Sequence[TilePosterior], log_weights: np.ndarray, lat: float, lon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All positions of all tiles in metres from (lat, lon), their mass, and which tile they come from."""
    per_lat, per_lon = (float(value) for value in metres_per_degree(lat))
    points, mass, owner = [], [], []
    for number, tile in enumerate(tiles):
        east = ((tile.lon - lon + 180) % 360 - 180) * per_lon
        points.append(tile.positions + np.array([east, (tile.lat - lat) * per_lat]))
        mass.append(tile.mass * np.exp(log_weights[number]))
        owner.append(np.full(len(tile.mass), number))
    joined, weights, owners = np.concatenate(points), np.concatenate(mass), np.concatenate(owner)
    kept = weights > LEAST_MASS
    return joined[kept], weights[kept], owners[kept]


def _peak(points: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Centre of the cell with the most mass after smoothing: (2,) metres."""
    cells, inverse = np.unique(np.floor(points / CELL_M).astype(np.int64), axis=0, return_inverse=True)
    total = np.bincount(inverse.ravel(), mass)
    base = cells.min(axis=0) - 3
    stride = int(cells[:, 1].max() - base[1]) + 8
    keys = (cells[:, 0] - base[0]) * stride + cells[:, 1] - base[1]  # sorted, as `np.unique` sorts rows
    smooth = np.zeros(len(keys))
    for east, north in itertools.product(range(-3, 4), repeat=2):
        weight = np.exp(-0.5 * (east**2 + north**2) * (CELL_M / BLUR_M) ** 2)
        beside = np.searchsorted(keys, keys + east * stride + north).clip(max=len(keys) - 1)
        smooth += weight * np.where(keys[beside] == keys + east * stride + north, total[beside], 0.0)
    centre: np.ndarray = (cells[int(smooth.argmax())] + 0.5) * CELL_M
    return centre


def fit_weights(
    photos: Sequence[Sequence[TilePosterior]],
    answers: Sequence[tuple[float, float]],
    truth: np.ndarray,
    scale: float,
    tiles: int = 40,
    within_m: float = 10.0,
) -> FusionWeights:
    """Choose weights by the share of validation photos whose joined answer lies within some metres.

    Args:
        photos: Candidates of each photo, best first.
        answers: lat and lon of the pose in the best tile of each photo, to compare with.
        truth: (N, 2) lat and lon of the photos.
        scale: The model's InfoNCE scale.
        tiles: How many candidates are joined.
        within_m: What counts as right.

    Returns:
        The best weights; `enabled` only where they gain more than one standard error over the best tile.
    """
    plain = np.array([great_circle_m(*answer, *true) <= within_m for answer, true in zip(answers, truth, strict=True)])
    best, best_right = FusionWeights(scale=scale, tiles=tiles), plain & False
    for cosine, evidence in itertools.product(COSINE_WEIGHTS, EVIDENCE_WEIGHTS):
        weights = FusionWeights(cosine, evidence, scale, tiles)
        right = np.array(
            [
                great_circle_m(*_best(candidates[:tiles], weights), *true) <= within_m
                for candidates, true in zip(photos, truth, strict=True)
            ]
        )
        if right.mean() > best_right.mean():
            best, best_right = weights, right
    changed = int((best_right != plain).sum())
    gain = float(best_right.mean() - plain.mean())
    enabled = gain > np.sqrt(max(changed, 1)) / len(plain)
    return FusionWeights(best.cosine, best.evidence, scale, tiles, bool(enabled), 100 * gain, len(plain))


def _best(candidates: Sequence[TilePosterior], weights: FusionWeights) -> tuple[float, float]:
    cosines, evidence = (np.array([getattr(tile, name) for tile in candidates]) for name in ("cosine", "evidence"))
    mode = fuse(candidates, weights.log_weights(cosines, evidence))[0]
    return mode.lat, mode.lon
