"""Metrics of ranks: recall@k, hit rates, average precision, errors in metres.

Metrics are one flat dict, which also holds the tie rule and the k of recall@1%. Rates are fractions of 1; tables print
percent.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

import numpy as np
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.positions import errors_m
from gengeo_hf.evaluation.ranks import Descriptors, Scan, Ties, scan

Rounding = Literal["floor", "ceil", "round", "floor+1", "round+1"]
ERROR_SHARES_M = (5, 10, 25, 40, 50, 100)  # 40: the limit of Just Zoom In, whose cells are 39 m


def recall_at(ranks: np.ndarray, k: int) -> float:
    """Share of queries whose true tile is among the k best.

    Args:
        ranks: int (queries,), rank of each true tile, 0 is the best.
        k: Number of best tiles, at least 1.

    Raises:
        GenGeoError: There are no queries, or k is below 1.
    """
    if k < 1:
        raise GenGeoError(f"k must be at least 1, found {k}")
    if not len(ranks):
        raise GenGeoError("found no queries: recall needs at least one")
    return float(np.mean(np.asarray(ranks) < k))


def one_percent_k(gallery_size: int, rounding: Rounding = "floor") -> int:
    """The k of recall@1%: one percent of the gallery, at least 1.

    Args:
        gallery_size: Number of tiles.
        rounding: "floor" is floor(N / 100), as in Sample4Geo, TransGeo and the paper's tables (88 of 8,884);
            "floor+1" is the bound of the VIGOR and OriCNN scripts (89); "round+1" that of University-1652 (the
            rounded count plus one); "ceil" and "round" (half up) are other conventions.

    Raises:
        GenGeoError: `rounding` has another value.
    """
    exact, rest = divmod(gallery_size, 100)  # in integers: 0.01 * N is not exact
    half_up = exact + (rest >= 50)
    k = {"floor": exact, "ceil": exact + (rest > 0), "round": half_up, "floor+1": exact + 1, "round+1": half_up + 1}
    return max(1, k[check_rounding(rounding)])


def check_rounding(rounding: str) -> Rounding:
    """Return the rounding rule if it exists.

    Raises:
        GenGeoError: `rounding` is not a rule of `Rounding`.
    """
    if rounding not in get_args(Rounding):
        raise GenGeoError(f"rounding must be one of {', '.join(get_args(Rounding))}; found {rounding!r}")
    return cast(Rounding, rounding)


def average_precision(relevant_ranks: np.ndarray, gallery_size: int) -> np.ndarray:
    """Average precision of each query over all its right tiles.

    Args:
        relevant_ranks: (queries, M) ranks of the right tiles from 0, best first; `gallery_size` where there is none.
        gallery_size: Number of tiles.

    Returns:
        (queries,) mean over the right tiles of (right tiles up to this rank) / (rank + 1).
    """
    found = relevant_ranks < gallery_size
    precision = np.arange(1, relevant_ranks.shape[1] + 1) / (relevant_ranks + 1)
    return np.asarray((precision * found).sum(axis=1) / np.maximum(found.sum(axis=1), 1))


def average_precision_trapezoid(relevant_ranks: np.ndarray, gallery_size: int) -> np.ndarray:
    """Average precision by the trapezoid rule of University-1652's script.

    Args:
        relevant_ranks: (queries, M) ranks, as in `average_precision`.
        gallery_size: Number of tiles.

    Returns:
        (queries,) mean over the right tiles of (precision before + precision at the hit) / 2, where the precision
        before the first rank counts as 1.
    """
    found = relevant_ranks < gallery_size
    hits = np.arange(relevant_ranks.shape[1])
    before = np.where(relevant_ranks > 0, hits / np.maximum(relevant_ranks, 1), 1.0)
    halves = (before + (hits + 1) / (relevant_ranks + 1)) / 2
    return np.asarray((halves * found).sum(axis=1) / np.maximum(found.sum(axis=1), 1))


def evaluate_descriptors(
    query_descriptors: Descriptors,
    gallery_descriptors: Descriptors,
    positive_rows: np.ndarray,
    *,
    ks: Sequence[int] = (1, 5, 10),
    query_positions: np.ndarray | None = None,
    gallery_positions: np.ndarray | None = None,
    semi_positive_rows: np.ndarray | None = None,
    ties: Ties = "pessimistic",
    rounding: Rounding = "floor",
    device: torch.device | str | None = None,
) -> dict[str, float | int | str]:
    """All metrics of one set of queries against one gallery, in one streamed pass.

    Args:
        query_descriptors: (Q, D) descriptors of ground images.
        gallery_descriptors: (N, D) descriptors of aerial tiles.
        positive_rows: (Q,) gallery row of each query's true tile.
        ks: Values of k for recall@k.
        query_positions: (Q, 2) true latitude, longitude in degrees; with `gallery_positions` gives errors in metres.
        gallery_positions: (N, 2) tile centres in degrees.
        semi_positive_rows: (Q, S) rows that also cover the query (VIGOR), -1 for none; gives hit rates.
        ties: Tie rule, see `rank_of_positives`.
        rounding: Rule for recall@1%, see `one_percent_k`.
        device: Device on which blocks are multiplied; None uses that of `query_descriptors`.

    Returns:
        Metrics by name, see `metrics_of_scan`.
    """
    result = scan(
        query_descriptors, gallery_descriptors, positive_rows, semi_positive_rows=semi_positive_rows, device=device
    )
    errors = None
    if query_positions is not None and gallery_positions is not None:
        errors = errors_m(query_positions, gallery_positions, result.top_rows[:, 0])
    return metrics_of_scan(result, ks=ks, ties=ties, rounding=rounding, errors=errors)


def metrics_of_scan(
    result: Scan,
    *,
    ks: Sequence[int] = (1, 5, 10),
    ties: Ties = "pessimistic",
    rounding: Rounding = "floor",
    errors: np.ndarray | None = None,
) -> dict[str, float | int | str]:
    """Compute every metric from the result of one scan.

    Args:
        result: Result of `ranks.scan`.
        ks: Values of k for recall@k.
        ties: Tie rule, see `rank_of_positives`.
        rounding: Rule for recall@1%, see `one_percent_k`.
        errors: (queries,) metres from the true position to the best tile, or None.

    Returns:
        num_queries, gallery_size, ties, one_percent_k; "recall@1", ..., "recall@1%"; "average_precision" over the
        positive and its semi-positives (without any it is the mean reciprocal rank). With semi-positives also
        "hit_rate_code" (no tile outside the semi-positives scores above the positive: the rule of the published
        tables), "hit_rate_wording" (the best tile covers the query: the rule in the text of the papers) and
        "recall_masked@k" (semi-positives taken out of the ranking). With errors (metres) "median_error_m",
        "mean_error_m", "within_5m" ... "within_100m" over the queries whose position is known.
    """
    numbers: dict[str, float | int | str] = {
        "num_queries": len(result.relevant_rows),
        "gallery_size": result.gallery_size,
        "ties": ties,
        "one_percent_k": one_percent_k(result.gallery_size, rounding),
    }
    for name, values in per_query_outcomes(result, ks=ks, ties=ties, rounding=rounding).items():
        numbers[name] = float(values.mean())
    if errors is not None:
        numbers.update(error_metrics(errors))
    return numbers


def per_query_outcomes(
    result: Scan, *, ks: Sequence[int] = (1, 5, 10), ties: Ties = "pessimistic", rounding: Rounding = "floor"
) -> dict[str, np.ndarray]:
    """Outcomes of single queries, from which intervals and breakdowns are computed.

    Args:
        result, ks, ties, rounding: As in `metrics_of_scan`.

    Returns:
        (queries,) float64 by metric name; the metric is the mean of the array.
    """
    thresholds: Mapping[str, int] = {f"{k}": k for k in ks} | {"1%": one_percent_k(result.gallery_size, rounding)}
    ranks = result.positive_ranks(ties)
    outcomes = {f"recall@{name}": (ranks < k).astype(np.float64) for name, k in thresholds.items()}
    if result.relevant_rows.shape[1] > 1:
        masked = result.positive_ranks(ties, mask_semi_positives=True)
        outcomes["hit_rate_code"] = (masked < 1).astype(np.float64)
        outcomes["hit_rate_wording"] = (result.covering_ranks(ties) < 1).astype(np.float64)
        outcomes |= {f"recall_masked@{name}": (masked < k).astype(np.float64) for name, k in thresholds.items()}
    outcomes["average_precision"] = average_precision(result.relevant_ranks(ties), result.gallery_size)
    return outcomes


def within_outcomes(errors: np.ndarray) -> dict[str, np.ndarray]:
    """Whether the error of each query is within each distance of `ERROR_SHARES_M`.

    Args:
        errors: (queries,) metres without NaN.

    Returns:
        (queries,) 0 or 1 by metric name, for example "within_25m".
    """
    return {f"within_{limit}m": (errors <= limit).astype(np.float64) for limit in ERROR_SHARES_M}


def error_metrics(errors: np.ndarray) -> dict[str, float | int]:
    """Median, mean and shares of errors in metres; queries of unknown position (NaN) are left out.

    Args:
        errors: (queries,) metres, NaN where unknown, infinity where no tile was found.

    Returns:
        Metrics by name; `num_with_position` is the number of queries without NaN. Empty if there are none.
    """
    known = errors[~np.isnan(errors)]
    if not len(known):
        return {}
    numbers: dict[str, float | int] = {"num_with_position": len(known)}
    if math.isfinite(median := float(np.median(known))):
        numbers["median_error_m"] = median
    if np.all(np.isfinite(known)):
        numbers["mean_error_m"] = float(known.mean())
    return numbers | {name: float(values.mean()) for name, values in within_outcomes(known).items()}
