"""Errors of position and heading inside the true tile, for any data set with positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.pose.estimate import PoseErrors, errors_of_head, errors_of_search
from gengeo_hf.pose.head import PRIORS, PoseHead
from gengeo_hf.pose.random_encoder import random_encoder
from gengeo_hf.pose.samples import PosePairs
from gengeo_hf.pose.search import is_rough
from gengeo_hf.pose.tokens import check_head

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset
    from gengeo_hf.encoding.encoder import Encoder

METHODS = ("fitted", "search")


def evaluate_pose(
    encoder: Encoder,
    dataset: CrossViewDataset,
    prior: str = "known",
    *,
    head: PoseHead | None = None,
    random_head: PoseHead | None = None,
    fov: float = 360.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Estimate position and heading of every photo in its true tile, and compute the errors.

    Panoramas are rolled by a random angle within the prior; the tiles are those of the data set.

    Args:
        encoder: Encoder of the model.
        dataset: Photos with positions, tiles with bounds.
        prior: What is known about the heading: "known", "45" or "180" (largest error in degrees).
        head: Fitted head of this prior; None uses the search without a head.
        random_head: Head fitted on an encoder with random weights, evaluated as a control.
        fov: Horizontal field of view in degrees to which panoramas are cropped; 360 keeps them.
        seed: Seed of the rolls.

    Returns:
        Facts of the protocol; `median_m`, `mean_m`, `within_<m>_m`, `median_deg`, `mean_deg`, `within_<d>_deg`
        (percent; degrees are None where the heading is known), the same metres for the tile's centre, coverage of the
        conformal radii in percent, and under `random_encoder` the errors with random weights.

    Raises:
        GenGeoError: The head belongs to another encoder or prior, or the data lack positions, bounds or fields of view.
    """
    if prior not in PRIORS:
        raise GenGeoError(f"--heading-prior must be one of {', '.join(PRIORS)}, found {prior!r}")
    pairs = PosePairs.of(dataset, encoder.processor)
    rows, rng = np.arange(len(pairs)), np.random.default_rng([seed, 6])
    if head is None:
        errors = errors_of_search(encoder, pairs, rows, prior, rng)
    else:
        check_head(head, encoder)
        errors = errors_of_head(encoder, head, pairs, rows, rng, fov=fov)
    result: dict[str, Any] = {
        "dataset": dataset.name,
        "synthetic": dataset.synthetic,
        "heading_prior": prior,
        "method": METHODS[head is None],
        "fitted_on": None if head is None else head.config.record.get("data"),
        "rough": head is None and is_rough(encoder.training_record),
        "fov": fov,
        "seed": seed,
        "shares": "percent",
        **errors.figures(),
    }
    if head is not None:
        result["radii"] = coverage_of(errors, head.config.radius_factors)
    if random_head is not None:
        other = random_encoder(encoder)
        check_head(random_head, other)
        rng = np.random.default_rng([seed, 6])
        result["random_encoder"] = errors_of_head(other, random_head, pairs, rows, rng, fov=fov).figures()
    return result


def coverage_of(errors: PoseErrors, factors: dict[str, float]) -> dict[str, dict[str, float]]:
    """Coverage of the conformal radii.

    Args:
        errors: Errors of the photos, with the spread of each posterior.
        factors: Factor of the spread that gives the radius, by nominal coverage as text.

    Returns:
        For each nominal coverage, the measured coverage in percent and the median radius in metres.
    """
    return {
        quantile: {
            "covered": 100 * float((errors.error_m <= factor * errors.spread_m).mean()),
            "median_radius_m": float(np.median(factor * errors.spread_m)),
        }
        for quantile, factor in factors.items()
    }


def format_pose(result: dict[str, Any]) -> str:
    """Format a result of `evaluate_pose` for a terminal."""
    note = " (rough: the model was not trained on centred tiles)" if result["rough"] else ""
    lines = [
        f"{result['dataset']}: {result['photos']:,} photos in their true tile, heading {result['heading_prior']}, "
        f"{result['method']}{note}",
        _line("centre of the tile", {"median_m": result["centre_median_m"], "within_5_m": result["centre_within_5_m"]}),
        _line("pose", result),
    ]
    if "random_encoder" in result:
        lines.append(_line("random-weight encoder", result["random_encoder"]))
    for quantile, found in result.get("radii", {}).items():
        lines.append(
            f"  radius for {100 * float(quantile):.0f} %: covers {found['covered']:.0f} %, median "
            f"{found['median_radius_m']:.1f} m"
        )
    if result["synthetic"]:
        lines.append(
            "  synthetic world: both views have the same colours, which an encoder with random weights uses as well"
        )
    return "\n".join(lines)


def _line(name: str, figures: dict[str, Any]) -> str:
    text = f"  {name:22} median {figures['median_m']:5.2f} m, within 5 m {figures['within_5_m']:5.1f} %"
    if "mean_m" in figures:
        text += f", mean {figures['mean_m']:5.2f} m, within 10 m {figures['within_10_m']:5.1f} %"
    if figures.get("median_deg") is not None:
        text += f"; median {figures['median_deg']:.1f} deg, within 10 deg {figures['within_10_deg']:.1f} %"
    return text
