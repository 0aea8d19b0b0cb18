"""Converts scores of positions and headings to poses with radii.

The position is the mean of the posterior near its mode, the heading the circular mean near its mode. Radii are
conformal: r = c x root-mean-square distance of the posterior from the estimate, where c is a quantile of error / spread
on held-out pairs (split conformal prediction). In a domain that is not in the fit, radii are too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

NEAR_M = 6.0  # the mean position is taken within this distance of the mode
NEAR_DEG = 25.0  # the mean heading is taken within this angle of the mode
QUANTILES = (0.5, 0.68, 0.9, 0.95)


@dataclass(frozen=True)
class Posterior:
    """Distributions over the positions and headings of one photo in some tiles.

    Args:
        positions: float64 (P, 2) positions in metres east and north of the tile's centre.
        headings: float64 (H,) headings in degrees clockwise from north.
        log_mass: float64 (T, H, P) scores of each tile; their softmax is the posterior in the tile.
    """

    positions: np.ndarray
    headings: np.ndarray
    log_mass: np.ndarray

    @property
    def log_evidence(self) -> np.ndarray:
        """Log-sum-exp of each tile's scores minus the logarithm of their number, (T,)."""
        flat = self.log_mass.reshape(len(self.log_mass), -1)
        top = flat.max(axis=1, keepdims=True)
        total: np.ndarray = (np.log(np.exp(flat - top).sum(axis=1, keepdims=True)) + top)[:, 0]
        return total - np.log(flat.shape[1])

    def position_mass(self) -> np.ndarray:
        """Probability of each position in each tile, (T, P)."""
        mass: np.ndarray = self._mass().sum(axis=1)
        return mass

    def _mass(self) -> np.ndarray:
        mass = np.exp(self.log_mass - self.log_mass.max(axis=(1, 2), keepdims=True))
        scaled: np.ndarray = mass / mass.sum(axis=(1, 2), keepdims=True)
        return scaled


@dataclass(frozen=True)
class Poses:
    """Estimated poses for some photos or tiles.

    Args:
        offset_m: float64 (N, 2) positions in metres east and north of the tile's centre.
        heading: float64 (N,) headings in degrees clockwise from north.
        spread_m: float64 (N,) root-mean-square distance in metres of the posterior from `offset_m`.
        mode_mass: float64 (N,) posterior mass within `NEAR_M` of the mode.
    """

    offset_m: np.ndarray
    heading: np.ndarray
    spread_m: np.ndarray
    mode_mass: np.ndarray

    def radius_m(self, factors: dict[str, float], coverage: float) -> np.ndarray | None:
        """Radius that contains the true position with a given probability, for cases like the held-out ones.

        Args:
            factors: Result of `radius_factors`, by coverage as text.
            coverage: Probability, one of `QUANTILES`.

        Returns:
            (N,) metres; None if there is no factor for this coverage.
        """
        factor = factors.get(f"{coverage:g}")
        return None if factor is None else factor * self.spread_m


def poses_of(posterior: Posterior) -> Poses:
    """Compute the pose in each tile of a posterior."""
    mass = posterior._mass()
    near, _, spread, share = mean_near_mode(mass.sum(axis=1), posterior.positions)
    return Poses(near, _heading(mass.sum(axis=2), posterior.headings), spread, share)


def mean_near_mode(
    mass: np.ndarray, positions: np.ndarray, radius_m: float = NEAR_M
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean of distributions near their modes.

    Args:
        mass: (N, P) distributions; rows sum to 1.
        positions: (P, 2) positions in metres.
        radius_m: Distance from the mode within which the mean is taken, metres.

    Returns:
        Means (N, 2), modes (N, 2), root-mean-square distance from the mean over the whole distribution (N,), and the
        mass near the mode (N,).
    """
    modes = positions[mass.argmax(axis=1)]
    near = np.hypot(*np.moveaxis(positions[None] - modes[:, None], -1, 0)) <= radius_m
    weights = mass * near
    share = weights.sum(axis=1)
    mean = weights @ positions / share[:, None]
    square = ((positions[None] - mean[:, None]) ** 2).sum(axis=-1)
    return mean, modes, np.sqrt((mass * square).sum(axis=1)), share


def _heading(mass: np.ndarray, headings: np.ndarray) -> np.ndarray:
    """Circular mean near the most probable heading: (N,) degrees in 0..360."""
    top = headings[mass.argmax(axis=1)]
    gap = turn_between(top[:, None], headings[None])
    weights = mass * (np.abs(gap) <= NEAR_DEG)
    angle = np.radians(gap)
    mean = np.degrees(np.arctan2((weights * np.sin(angle)).sum(axis=1), (weights * np.cos(angle)).sum(axis=1)))
    heading: np.ndarray = (top + mean) % 360
    return heading


def turn_between(start: Any, end: Any) -> np.ndarray:
    """Degrees from one heading to another, in -180..180; positive is clockwise."""
    turn: np.ndarray = (np.asarray(end, dtype=np.float64) - start + 180) % 360 - 180
    return turn


def radius_factors(error_m: np.ndarray, spread_m: np.ndarray) -> dict[str, float]:
    """Conformal factors: quantiles of error / spread with the finite-sample correction of split conformal prediction.

    Args:
        error_m: (N,) errors of position of held-out pairs, metres.
        spread_m: (N,) spread of `Poses`, metres.

    Returns:
        Factor of each of `QUANTILES`, by the quantile as text; quantiles that need more than N pairs are left out.
    """
    ratio = np.sort(error_m / np.maximum(spread_m, 1e-9))
    ranks = {quantile: int(np.ceil(quantile * (len(ratio) + 1))) for quantile in QUANTILES}
    return {f"{quantile:g}": float(ratio[rank - 1]) for quantile, rank in ranks.items() if rank <= len(ratio)}


def to_posterior(scores: torch.Tensor, positions: torch.Tensor, headings: Any) -> Posterior:
    """Convert scores (T, H, P) of a head to a posterior."""
    return Posterior(
        positions.double().cpu().numpy(),
        np.asarray(headings, dtype=np.float64),
        scores.detach().double().cpu().numpy(),
    )
