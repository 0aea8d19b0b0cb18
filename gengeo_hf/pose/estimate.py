"""Estimates positions and headings of photos in their true tiles, and computes the errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.pose.geometry import positions_of
from gengeo_hf.pose.head import PRIORS, PoseHead
from gengeo_hf.pose.posterior import Poses, poses_of, to_posterior, turn_between
from gengeo_hf.pose.samples import PosePairs, Samples, changed, draw_samples, plain_plans
from gengeo_hf.pose.search import SearchSettings, search_pose

if TYPE_CHECKING:
    from gengeo_hf.encoding.encoder import Encoder

PART = 1024  # pairs whose tokens are in memory at a time
SHARES_WITHIN = (1, 3, 5, 10)  # limits of the shares, metres and degrees


@dataclass(frozen=True)
class PoseErrors:
    """Errors of N photos in their true tiles.

    Args:
        error_m: (N,) distance from the estimated to the true position, metres.
        turn_deg: (N,) absolute error of the heading, degrees; None if the heading was given.
        spread_m: (N,) spread of the posterior, see `Poses`.
        centre_m: (N,) distance from the tile's centre to the true position, metres.
    """

    error_m: np.ndarray
    turn_deg: np.ndarray | None
    spread_m: np.ndarray
    centre_m: np.ndarray

    @classmethod
    def join(cls, parts: Iterable[tuple[Poses, np.ndarray, np.ndarray]], heading_known: bool) -> PoseErrors:
        """Create the errors from (poses, true offsets, true headings) of groups."""
        errors, turns, spreads, centres = [], [], [], []
        for found, offset, heading in parts:
            errors.append(np.hypot(*(found.offset_m - offset).T))
            turns.append(np.abs(turn_between(heading, found.heading)))
            spreads.append(found.spread_m)
            centres.append(np.hypot(*offset.T))
        turn = None if heading_known else np.concatenate(turns)
        return cls(np.concatenate(errors), turn, np.concatenate(spreads), np.concatenate(centres))

    def figures(self) -> dict[str, float | int | None]:
        """Mean, median and shares of the errors in metres and degrees; shares in percent; None for given headings."""
        values: dict[str, float | int | None] = {"photos": len(self.error_m)}
        values |= {"centre_median_m": float(np.median(self.centre_m))}
        values |= {"centre_within_5_m": 100 * float((self.centre_m <= 5).mean())}
        for unit, errors in (("m", self.error_m), ("deg", self.turn_deg)):
            values[f"median_{unit}"] = None if errors is None else float(np.median(errors))
            values[f"mean_{unit}"] = None if errors is None else float(errors.mean())
            for limit in SHARES_WITHIN:
                share = None if errors is None else 100 * float((errors <= limit).mean())
                values[f"within_{limit}_{unit}"] = share
        return values


@torch.inference_mode()
def estimate_samples(head: PoseHead, samples: Samples, batch_size: int = 128) -> Poses:
    """Estimate the poses of samples in their true tiles.

    Args:
        head: Fitted head.
        samples: One group of N samples.
        batch_size: Pairs in one matrix product.

    Returns:
        N poses; offsets are metres from the tile's centre.
    """
    found = []
    for start in range(0, len(samples), batch_size):
        rows = slice(start, start + batch_size)
        queries, keys = head.queries(samples.ground[rows].float()), head.keys(samples.aerial[rows].float())
        scores = head.scores(queries, keys, samples.layout, samples.azimuths, samples.headings)
        found.append(poses_of(to_posterior(scores, positions_of(samples.layout), samples.headings)))
    return Poses(*(np.concatenate([getattr(part, name) for part in found]) for name in Poses.__dataclass_fields__))


def errors_of_head(
    encoder: Encoder,
    head: PoseHead,
    pairs: PosePairs,
    rows: np.ndarray,
    rng: np.random.Generator,
    *,
    fov: float = 360.0,
    moved: float = 0.0,
) -> PoseErrors:
    """Errors of a head. Panoramas are rolled within its heading prior; the roll is the heading to estimate.

    Args:
        encoder: Encoder whose tokens the head reads.
        head: Fitted head.
        pairs: Pairs of a data set.
        rows: Rows of the pairs to use, (N,).
        rng: Generator of rolls and moves.
        fov: Field of view in degrees to which panoramas are cropped.
        moved: Share of the tile's sides within which the photo lies after the tile is moved; 0 moves no tile.

    Raises:
        GenGeoError: An image cannot be read.
    """
    parts = []
    for plan in plain_plans(pairs, rows, fov, moved):
        for start in range(0, len(plan.rows), PART):
            part = replace(plan, rows=plan.rows[start : start + PART])
            samples = draw_samples(encoder, head, pairs, part, rng)
            parts.append((estimate_samples(head, samples), samples.offset_m.numpy(), samples.heading.numpy()))
    _check_damaged(pairs)
    return PoseErrors.join(parts, head.config.heading_prior == "known")


def errors_of_search(
    encoder: Encoder, pairs: PosePairs, rows: np.ndarray, prior: str, rng: np.random.Generator
) -> PoseErrors:
    """Errors of the search without a head, on panoramas.

    Args:
        encoder: Encoder whose descriptors are compared.
        pairs: Pairs of a data set.
        rows: Rows of the pairs to use, (N,).
        prior: Heading prior: "known", "45" or "180".
        rng: Generator of rolls.

    Raises:
        GenGeoError: An image cannot be read, or a photo is not a panorama.
    """
    if (pairs.fov[rows] < 360).any():
        raise GenGeoError("the search without a head needs panoramas, and some photos have a smaller field of view")
    parts, settings = [], SearchSettings.for_prior(prior)
    for plan in plain_plans(pairs, rows):
        for row in plan.rows:
            photo, tile, offset, heading = changed(pairs, np.array([row]), plan, prior, rng, encoder.patch)
            found = search_pose(encoder, photo[0], tile[0], pairs.size_m[row], PRIORS[prior], settings)
            parts.append((found, offset, heading))
    _check_damaged(pairs)
    return PoseErrors.join(parts, prior == "known")


def _check_damaged(pairs: PosePairs) -> None:
    """Raise an error if pairs were replaced because of damaged images.

    Raises:
        GenGeoError: There are such pairs.
    """
    if pairs.source.broken:
        raise GenGeoError(
            f"{len(pairs.source.broken)} pairs have a damaged image, first row {pairs.source.broken[0]}: replace or "
            "remove them before an evaluation"
        )
