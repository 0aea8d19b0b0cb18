"""Errors of position and heading inside the true tile: the protocol `world-pose`, or any data with positions."""

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
    """Errors of every photo of a data set in its true tile.

    Panoramas are rolled by an angle drawn within the prior; the tiles are those of the data set.

    Args:
        encoder: The model.
        dataset: Photos with positions, tiles with bounds.
        prior: "known", "45" or "180".
        head: Fitted head of this prior; None searches without one.
        random_head: The same kind of head fitted on an encoder with random weights, evaluated beside it.
        fov: Panoramas are cut to this many degrees.
        seed: Of the rolls.

    Returns:
        Protocol facts; `median_m`, `mean_m`, `within_<m>_m`, `median_deg`, `mean_deg`, `within_<d>_deg` (percent; null
        degrees where the heading is given), those of the tile's centre, coverage of the conformal radii in percent,
        and under `random_encoder` the figures of an encoder with random weights.

    Raises:
        GenGeoError: A head of another encoder or prior, or data without positions, bounds or fields of view.
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
    """Share of photos inside their conformal radius in percent, and the median radius in metres, by nominal share."""
    return {
        quantile: {
            "covered": 100 * float((errors.error_m <= factor * errors.spread_m).mean()),
            "median_radius_m": float(np.median(factor * errors.spread_m)),
        }
        for quantile, factor in factors.items()
    }


def format_pose(result: dict[str, Any]) -> str:
    """A result as lines for a terminal."""
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
        lines.append("  the synthetic world: both views share colours, which a random-weight encoder uses as well")
    return "\n".join(lines)


def _line(name: str, figures: dict[str, Any]) -> str:
    text = f"  {name:22} median {figures['median_m']:5.2f} m, within 5 m {figures['within_5_m']:5.1f} %"
    if "mean_m" in figures:
        text += f", mean {figures['mean_m']:5.2f} m, within 10 m {figures['within_10_m']:5.1f} %"
    if figures.get("median_deg") is not None:
        text += f"; median {figures['median_deg']:.1f} deg, within 10 deg {figures['within_10_deg']:.1f} %"
    return text
