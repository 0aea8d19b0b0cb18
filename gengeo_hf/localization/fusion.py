"""Fuses the posteriors of several tiles into one map in metres, and fits the weights.

Overlapping tiles show the same ground, so their posteriors agree at the true position of a photo. Tile weights are
softmax(a x scale x cosine + b x evidence), where the evidence is the log-sum-exp of the scores of a tile. The weights
a and b are fitted on photos of the same kind; fusion is disabled if it does not improve the results on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gengeo_hf.common.geo import great_circle_m, metres_per_degree, offset

CELL_M = 3.0  # side of the cells in which the mode is searched
BLUR_M = 3.0  # standard deviation of the smoothing of cells
NEAR_M = 6.0  # the answer is the mean within this distance of the mode
MODE_M = 8.0  # mass within this distance of the mode is its probability
LEAST_MASS = 1e-6  # positions of less probability are dropped
COSINE_WEIGHTS = (0.25, 0.5, 1.0, 2.0)
EVIDENCE_WEIGHTS = (0.0, 0.25, 0.5, 1.0)
STRIDE = np.iinfo(np.int32).max  # more than the number of cells from south to north


@dataclass(frozen=True)
class FusionWeights:
    """Weights of similarity and evidence.

    Args:
        cosine: Factor a of the cosine times the model's scale.
        evidence: Factor b of the log-evidence of the pose head.
        scale: InfoNCE scale of the model.
        tiles: Number of most similar tiles that are fused.
        enabled: False if fusion did not improve the results on validation photos; the pose in the best tile is then the
            answer.
        gain_percent: Share of validation photos within 10 m, fused minus best tile, in percentage points.
        photos: Number of validation photos.
    """

    cosine: float = 1.0
    evidence: float = 0.0
    scale: float = 1.0
    tiles: int = 40
    enabled: bool = False
    gain_percent: float = 0.0
    photos: int = 0

    def log_weights(self, cosines: np.ndarray, evidence: np.ndarray) -> np.ndarray:
        """Normalised log-weights of the tiles of one photo.

        Args:
            cosines: (T,) similarities of the tiles.
            evidence: (T,) log-evidence of the tiles.

        Returns:
            (T,); the exponentials sum to 1.
        """
        logits = self.cosine * self.scale * cosines + self.evidence * evidence
        top = logits.max()
        normalised: np.ndarray = logits - top - np.log(np.exp(logits - top).sum())
        return normalised


@dataclass(frozen=True)
class TilePosterior:
    """One candidate tile of a photo.

    Args:
        lat, lon: Centre of the tile, degrees.
        cosine: Similarity of tile and photo.
        evidence: Log-evidence of the pose head.
        positions: (P, 2) positions in metres east and north of the centre.
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
    """One peak of the fused map.

    Args:
        lat, lon: Mean position near the peak, degrees.
        probability: Mass within `MODE_M` of the peak.
        spread_m: Root-mean-square distance in metres from this position, of the mass within 5 x `MODE_M`.
        tile: Index of the tile with most mass near the peak.
    """

    lat: float
    lon: float
    probability: float
    spread_m: float
    tile: int


def fuse(tiles: Sequence[TilePosterior], log_weights: np.ndarray, count: int = 1) -> list[Mode]:
    """Fuse the posteriors of the tiles of one photo and find the peaks of the map.

    Args:
        tiles: T candidate tiles.
        log_weights: (T,) log-weights, see `FusionWeights.log_weights`.
        count: Maximum number of peaks. The mass near a peak is removed before the next is searched.

    Returns:
        Peaks, most probable first.
    """
    lat, lon = tiles[0].lat, tiles[0].lon
    points, mass, owner = _points(tiles, log_weights, lat, lon)
    modes = []
    for _ in range(count):
        if not len(mass):
            break
        peak = _peak(points, mass)
        distance = np.hypot(*(points - peak).T)
        near, inside, around = distance <= NEAR_M, distance <= MODE_M, distance <= 5 * MODE_M
        answer = mass[near] @ points[near] / mass[near].sum()
        square = ((points[around] - answer) ** 2).sum(axis=1)
        spread = float(np.sqrt(mass[around] @ square / mass[around].sum()))
        best = int(np.bincount(owner[inside], mass[inside]).argmax())
        position = offset(lat, lon, *answer)
        modes.append(Mode(float(position[0]), float(position[1]), float(mass[inside].sum()), spread, best))
        points, mass, owner = points[~around], mass[~around], owner[~around]
    return modes


def _points(
    tiles: Sequence[TilePosterior], log_weights: np.ndarray, lat: float, lon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of all tiles in metres from (lat, lon), their mass, and the index of their tile."""
    per_lat, per_lon = (float(value) for value in metres_per_degree(lat))
    points, mass, owner = [], [], []
    for number, tile in enumerate(tiles):
        east = ((tile.lon - lon + 180) % 360 - 180) * per_lon
        points.append(tile.positions + np.array([east, (tile.lat - lat) * per_lat]))
        mass.append(tile.mass * np.exp(log_weights[number]))
        owner.append(np.full(len(tile.mass), number))
    positions, weights, owners = np.concatenate(points), np.concatenate(mass), np.concatenate(owner)
    kept = weights > LEAST_MASS
    return positions[kept], weights[kept], owners[kept]


def _peak(points: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Centre of the cell with the most mass after smoothing: (2,) metres."""
    cells = np.floor(points / CELL_M).astype(np.int64)
    keys, first, inverse = np.unique(cells[:, 0] * STRIDE + cells[:, 1], return_index=True, return_inverse=True)
    total = np.bincount(inverse, mass)
    smooth = np.zeros(len(keys))
    for east, north in itertools.product(range(-3, 4), repeat=2):
        weight = np.exp(-0.5 * (east**2 + north**2) * (CELL_M / BLUR_M) ** 2)
        wanted = keys + east * STRIDE + north
        adjacent = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        smooth += weight * np.where(keys[adjacent] == wanted, total[adjacent], 0.0)
    centre: np.ndarray = (cells[first[int(smooth.argmax())]] + 0.5) * CELL_M
    return centre


def fit_weights(
    photos: Sequence[Sequence[TilePosterior]],
    answers: Sequence[tuple[float, float]],
    truth: np.ndarray,
    scale: float,
    tiles: int = 40,
    within_m: float = 10.0,
) -> FusionWeights:
    """Choose the weights with the largest share of validation photos whose fused answer is right.

    Args:
        photos: Candidate tiles of each photo, best first.
        answers: Latitude and longitude of the pose in the best tile of each photo, the baseline.
        truth: (N, 2) true latitude and longitude of the photos.
        scale: InfoNCE scale of the model.
        tiles: Number of candidates that are fused.
        within_m: Largest distance of a right answer, metres.

    Returns:
        The best weights; `enabled` only if they gain more than one standard error over the baseline.
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
    enabled = gain > np.sqrt(changed) / len(plain)
    return FusionWeights(best.cosine, best.evidence, scale, tiles, bool(enabled), 100 * gain, len(plain))


def _best(candidates: Sequence[TilePosterior], weights: FusionWeights) -> tuple[float, float]:
    cosines, evidence = (np.array([getattr(tile, name) for tile in candidates]) for name in ("cosine", "evidence"))
    mode = fuse(candidates, weights.log_weights(cosines, evidence))[0]
    return mode.lat, mode.lon
