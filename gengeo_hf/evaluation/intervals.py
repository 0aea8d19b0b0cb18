"""How far a number can be trusted: bootstrap intervals, paired differences, breakdowns.

Before: what each query adds to each metric (`per_query_outcomes`). After: intervals at a stated level, by seed.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gengeo_hf.common.errors import GenGeoError

RESAMPLES = 1000
LEVEL = 0.95


class Interval(NamedTuple):
    """A bootstrap percentile interval."""

    low: float
    high: float


def bootstrap_means(
    outcomes: Mapping[str, np.ndarray], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, Interval]:
    """Percentile interval of the mean of each outcome; queries are drawn with replacement, the same for all metrics.

    Queries from one street share a fate, so where they are dense the true uncertainty is larger. A recall of
    exactly 0 or 1 gives an interval of no width: that is a limit of the bootstrap and no proof.

    Args:
        outcomes: (queries,) arrays by metric name.
        seed: of the generator; one seed always gives one interval.
        resamples: number of draws.
        level: for example 0.95.
    """
    table = _table(outcomes)
    return _percentiles(list(outcomes), _resampled_means(table, seed, resamples), level)


def bootstrap_median(
    values: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Percentile interval of the median, for example of errors in metres.

    Args:
        values: (queries,) without NaN.
        seed, resamples, level: see `bootstrap_means`.
    """
    known = np.sort(_table({"values": values})[:, 0])
    count, generator = len(known), np.random.default_rng(seed)
    # The median of a draw is the value of its middle rank: sorting ranks of 32 bits is all that a draw needs.
    middle = [(count - 1) // 2, count // 2]
    medians = np.empty((resamples, 1))
    for number in range(resamples):
        drawn = np.partition(generator.integers(0, count, count, dtype=np.int32), middle)[middle]
        medians[number] = known[drawn].mean()
    return _percentiles(["values"], medians, level)["values"]


def paired_difference(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, tuple[float, Interval]]:
    """Mean of second - first over the same queries, with its interval.

    Pairing removes the part of the noise that both share (hard places are hard for both), so a gain that two
    overlapping intervals would hide can be told from noise.

    Args:
        first: (queries,) arrays by metric name; metrics that only one side has are left out.
        second: the same queries in the same order.
        seed, resamples, level: see `bootstrap_means`.

    Returns:
        By metric: the difference, and its interval. An interval without 0 is a difference at that level.

    Raises:
        GenGeoError: the two sides have no metric in common.
    """
    common = {name: second[name] - first[name] for name in first if name in second}
    if not common:
        raise GenGeoError(f"no metric in common: {sorted(first)} and {sorted(second)}")
    means = _resampled_means(_table(common), seed, resamples)
    intervals = _percentiles(list(common), means, level)
    return {name: (float(values.mean()), intervals[name]) for name, values in common.items()}


def breakdown(outcomes: Mapping[str, np.ndarray], groups: Sequence[str | None]) -> dict[str, dict[str, float | int]]:
    """Each metric for each group of queries (area, city), with the group's size; None is called "unknown"."""
    names = np.array(["unknown" if group is None else group for group in groups], dtype=object)
    result: dict[str, dict[str, float | int]] = {}
    for name in sorted(set(names)):
        inside = names == name
        means = {metric: float(values[inside].mean()) for metric, values in outcomes.items()}
        result[str(name)] = {"num_queries": int(inside.sum()), **means}
    return result


def distance_groups(metres: np.ndarray, edges: Sequence[float]) -> list[str | None]:
    """Names like "10-20 m" of the bin of each distance, None where it is unknown (NaN).

    Args:
        metres: (queries,) for example the distance from the query to the centre of its true tile.
        edges: increasing inner edges; the last bin is open.
    """
    bounds = [0.0, *edges]
    names = [f"{low:g}-{high:g} m" for low, high in zip(bounds, edges, strict=False)] + [f"over {bounds[-1]:g} m"]
    return [None if np.isnan(m) else names[int(np.searchsorted(edges, m, side="right"))] for m in metres]


def _table(outcomes: Mapping[str, np.ndarray]) -> np.ndarray:
    """(queries, metrics) float64, checked."""
    lengths = {len(values) for values in outcomes.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise GenGeoError(f"outcomes must cover the same queries, at least one; found the lengths {sorted(lengths)}")
    return np.stack([np.asarray(values, dtype=np.float64) for values in outcomes.values()], axis=1)


def _resampled_means(table: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """(resamples, metrics) means of draws with replacement, one draw at a time: memory stays at one table."""
    generator = np.random.default_rng(seed)
    count = len(table)
    means = np.empty((resamples, table.shape[1]))
    for number in range(resamples):
        times_drawn = np.bincount(generator.integers(0, count, count), minlength=count)
        means[number] = times_drawn @ table / count
    return means


def _percentiles(names: list[str], means: np.ndarray, level: float) -> dict[str, Interval]:
    """Interval by metric name."""
    if not 0 < level < 1:
        raise GenGeoError(f"the level must lie between 0 and 1, for example 0.95; found {level:g}")
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: Interval(float(low[i]), float(high[i])) for i, name in enumerate(names)}
