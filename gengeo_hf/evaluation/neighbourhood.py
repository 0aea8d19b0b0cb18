"""Recall with distances: a search around an approximate position, and CVACT's rule of 5 metres.

Each function returns the hits of single queries for metrics whose name holds the radius.
"""

from collections.abc import Sequence

import numpy as np
import torch

from gengeo_hf.evaluation.metrics import Rounding, one_percent_k
from gengeo_hf.evaluation.positions import Prior, rows_within
from gengeo_hf.evaluation.ranks import Descriptors, Ties, scan

CVACT_RADIUS_M = 5.0


def prior_outcomes(
    query_descriptors: Descriptors,
    gallery_descriptors: Descriptors,
    positive_rows: np.ndarray,
    *,
    search_centres: np.ndarray,
    gallery_positions: np.ndarray,
    radii_m: Sequence[float],
    ks: Sequence[int] = (1, 5, 10),
    ties: Ties = "pessimistic",
    device: torch.device | str | None = None,
) -> dict[str, np.ndarray]:
    """Recall when only tiles within r metres of an approximate position are searched.

    Args:
        query_descriptors, gallery_descriptors, positive_rows, ties, device: As in `evaluate_descriptors`.
        search_centres: (queries, 2) latitude and longitude in degrees: true positions, or positions with an error.
        gallery_positions: (tiles, 2) tile centres in degrees.
        radii_m: Radius of each search, great-circle metres.
        ks: Values of k for recall@k.

    Returns:
        (queries,) hits of "recall@k|prior_<r>m" for each k and r; the metric is their mean. A true tile whose centre
        is outside the radius is a miss.
    """
    outcomes = {}
    for radius in radii_m:
        prior = Prior(search_centres, gallery_positions, radius)
        found = scan(query_descriptors, gallery_descriptors, positive_rows, prior=prior, device=device)
        # A true tile outside the radius has rank gallery_size: it must be a miss even when k is larger.
        inside, ranks = np.isfinite(found.scores[:, 0]), found.positive_ranks(ties)
        for k in ks:
            outcomes[f"recall@{k}|prior_{radius:g}m"] = (inside & (ranks < k)).astype(np.float64)
    return outcomes


def near_rule_outcomes(
    query_descriptors: Descriptors,
    gallery_descriptors: Descriptors,
    positive_rows: np.ndarray,
    *,
    query_positions: np.ndarray,
    gallery_positions: np.ndarray,
    radius_m: float = CVACT_RADIUS_M,
    ks: Sequence[int] = (1, 5, 10),
    ties: Ties = "pessimistic",
    rounding: Rounding = "floor",
    device: torch.device | str | None = None,
) -> dict[str, np.ndarray]:
    """Recall where any tile within `radius_m` of the query counts as right, the true tile included.

    This is the rule of CVACT's original test script (OriCNN: 5 m). It is more lenient than the match by id of
    recent tables, so these metrics have the radius in their names and never replace "recall@k".

    Args:
        query_positions: (queries, 2) true positions in degrees.
        radius_m: Largest distance of a right tile, great-circle metres.
        query_descriptors, gallery_descriptors, positive_rows, gallery_positions, ks, ties, rounding, device: As in
            `evaluate_descriptors`.

    Returns:
        (queries,) hits of "recall_<r>m@k" for each k and for 1%; the metric is their mean.
    """
    near = rows_within(query_positions, gallery_positions, radius_m, positive_rows)
    found = scan(query_descriptors, gallery_descriptors, positive_rows, semi_positive_rows=near, device=device)
    ranks = found.covering_ranks(ties)
    thresholds = {f"{k}": k for k in ks} | {"1%": one_percent_k(len(gallery_descriptors), rounding)}
    return {f"recall_{radius_m:g}m@{name}": (ranks < k).astype(np.float64) for name, k in thresholds.items()}
