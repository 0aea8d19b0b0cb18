"""Confidence intervals of shares, means, medians and paired differences, for grouped photos.

Every interval is closed-form: no random numbers, the same result on every machine. Outcomes of photos of one street are
correlated, so the photos form a group: variances are cluster-robust (Liang and Zeger 1986, with the factor
G / (G - 1)), and quantiles are those of Student's t with G - 1 degrees of freedom. Without groups, photos are
independent.

The intervals' coverage is simulated in `tests/evaluation/test_coverage.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M
from gengeo_hf.common.statistics import wilson

LEVEL = 0.95
LEAST_GROUPS = 10  # fewer are too few to estimate the variance between groups
BLOCK_M = 250.0  # side in metres of a square of land whose photos form a group


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Groups:
    """Groups of queries whose outcomes are correlated.

    Args:
        codes: (queries,) int, zero-based index of each query's group.
        description: Text that results show, for example "25 areas".
    """

    codes: np.ndarray
    description: str

    @property
    def count(self) -> int:
        """Number of groups."""
        return int(self.codes.max()) + 1 if len(self.codes) else 0


def independent(count: int) -> Groups:
    """Put each of `count` queries into a separate group."""
    return Groups(np.arange(count), f"{count:,} queries, taken as independent")


def query_groups(areas: Sequence[str | None], positions: np.ndarray) -> Groups:
    """Group queries by area where there are at least ten areas, else by squares of 250 m, else not at all.

    Args:
        areas: (queries,) area of each query, None where unknown.
        positions: (queries, 2) latitude, longitude in degrees, NaN where unknown.
    """
    named = {area for area in areas if area is not None}
    if len(named) >= LEAST_GROUPS and len(named) < len(areas) and None not in areas:
        return Groups(np.unique(np.array(areas, dtype=str), return_inverse=True)[1].ravel(), f"{len(named):,} areas")
    known = np.asarray(positions, dtype=np.float64)
    if len(known) and not np.isnan(known).any():
        metre = np.degrees(1 / EARTH_RADIUS_M)
        rows = np.floor(known[:, 0] / metre / BLOCK_M)
        middle = np.radians(
            (rows + 0.5) * BLOCK_M * metre
        )  # latitude of the row's middle: all blocks of a row are equally wide
        columns = np.floor(known[:, 1] / metre * np.cos(middle) / BLOCK_M)
        _, codes = np.unique(np.stack([rows, columns], axis=1), axis=0, return_inverse=True)
        codes = codes.ravel()
        found = int(codes.max()) + 1
        if LEAST_GROUPS <= found < len(known):
            return Groups(codes, f"{found:,} blocks of {BLOCK_M:g} m")
    return independent(len(areas))


def mean_interval(values: np.ndarray, groups: Groups | None = None, level: float = LEVEL) -> Interval:
    """Interval of the mean of values in 0..1: Wilson's interval with an effective sample size.

    The variance v of the mean p gives the effective sample size p (1 - p) / v. For hits without groups it is the number
    of queries, and the interval is Wilson's (with Poisson's bound for one to three hits or misses). Where only a few
    groups hold the rarer outcome, the number of these groups sets the degrees of freedom of Student's t.

    Args:
        values: (queries,) within 0..1, for example hits or average precisions.
        groups: Groups of correlated queries; None for independent queries.
        level: Coverage of the interval, between 0 and 1.

    Raises:
        GenGeoError: There are no values, or the level does not lie between 0 and 1.
    """
    values, groups = _checked(values, groups, level)
    mean, count = float(values.mean()), len(values)
    variance = _variance_of_mean(values, groups)
    if mean in (0.0, 1.0):  # without any variance, the number of groups is the effective sample size
        return _wilson_near_the_ends(mean, groups.count, level)
    effective = mean * (1 - mean) / variance if variance > 0 else float(groups.count)
    if not np.isin(values, (0.0, 1.0)).all():
        return _wilson(mean, effective, _quantile(groups.count, level))
    if groups.count == count:
        return _wilson_near_the_ends(mean, count, level)
    rarer = values if mean < 0.5 else 1 - values
    informative = len(np.unique(groups.codes[rarer > 0]))  # few groups give few degrees of freedom
    freedom = min(groups.count, max(3, informative))
    return _wilson(mean, min(effective, float(count)), _quantile(freedom, level))


def median_interval(values: np.ndarray, groups: Groups | None = None, level: float = LEVEL) -> Interval:
    """Interval of the median (Woodruff 1952): the values at the ends of the interval of the share below it.

    Args:
        values: (queries,) without NaN, for example errors in metres; infinite ones are allowed.
        groups: Groups of correlated queries; None for independent queries.
        level: Coverage of the interval, between 0 and 1.

    Raises:
        GenGeoError: There are no values, or the level does not lie between 0 and 1.
    """
    values, groups = _checked(values, groups, level)
    below = (values <= np.median(values)).astype(np.float64)
    variance = _variance_of_mean(below, groups)
    effective = min(len(values), 0.25 / variance) if variance > 0 else groups.count
    low, high = _wilson(0.5, effective, _quantile(groups.count, level))
    ordered, count = np.sort(values), len(values)
    first, last = int(np.floor(low * count)) - 1, int(np.ceil(high * count))
    return Interval(float(ordered[max(0, first)]), float(ordered[min(count - 1, last)]))


def paired_interval(
    differences: np.ndarray, groups: Groups | None = None, level: float = LEVEL
) -> tuple[float, Interval]:
    """Mean of paired differences in -1..1, and its interval.

    Half a gain, half a loss and a tie are added (Agresti and Min 2005). Without them the interval of two models with
    the same outcomes would have width 0.

    Args:
        differences: (queries,) `second - first` over the same queries.
        groups: Groups of correlated queries; None for independent queries.
        level: Coverage of the interval, between 0 and 1.

    Returns:
        The mean without the added values, and the interval.

    Raises:
        GenGeoError: There are no values, or the level does not lie between 0 and 1.
    """
    values, groups = _checked(differences, groups, level)
    count = len(values)
    centre = values.sum() / (count + 2)
    variance = ((values**2).sum() + 1) / (count + 2) - centre**2  # of count + 2 values
    plain = _variance_of_mean(values, independent(count))
    design_effect = max(1.0, _variance_of_mean(values, groups) / plain) if plain > 0 else count / groups.count
    margin = _quantile(groups.count, level) * float(np.sqrt(design_effect * variance / (count + 2)))
    return float(values.mean()), Interval(max(-1.0, centre - margin), min(1.0, centre + margin))


def paired_differences(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    groups: Groups | None = None,
    level: float = LEVEL,
) -> dict[str, tuple[float, Interval]]:
    """`paired_interval` of second - first for every metric that both have.

    Pairing removes the noise that both have in common (a hard query is hard for both), so a difference can be
    significant although the two separate intervals overlap.

    Args:
        first: (queries,) outcomes by metric name.
        second: Outcomes of the same queries in the same order.
        groups: Groups of correlated queries; None for independent queries.
        level: Coverage of the interval, between 0 and 1.

    Raises:
        GenGeoError: The two sides have no metric in common, or different numbers of queries.
    """
    common = [name for name in first if name in second]
    if not common:
        raise GenGeoError(f"no metric in common: {sorted(first)} and {sorted(second)}")
    lengths = {len(side[name]) for side in (first, second) for name in common}
    if len(lengths) != 1:
        raise GenGeoError(f"outcomes must cover the same queries; found the lengths {sorted(lengths)}")
    return {name: paired_interval(second[name] - first[name], groups, level) for name in common}


def breakdown(outcomes: Mapping[str, np.ndarray], groups: Sequence[str | None]) -> dict[str, dict[str, float | int]]:
    """Mean of each metric for each group of queries.

    Args:
        outcomes: (queries,) values by metric name.
        groups: Name of each query's group (area, city); None counts as "unknown".

    Returns:
        For each group `num_queries` and the mean of each metric.
    """
    names = np.array(["unknown" if group is None else group for group in groups], dtype=object)
    result: dict[str, dict[str, float | int]] = {}
    for name in sorted(set(names)):
        inside = names == name
        means = {metric: float(values[inside].mean()) for metric, values in outcomes.items()}
        result[str(name)] = {"num_queries": int(inside.sum()), **means}
    return result


def distance_groups(metres: np.ndarray, edges: Sequence[float]) -> list[str | None]:
    """Name the bin of each distance, for example "10-20 m"; None where the distance is NaN.

    Args:
        metres: (queries,) distances, for example from the query to the centre of its true tile.
        edges: Increasing inner edges of the bins in metres; the first bin starts at 0, the last is open.
    """
    bounds = [0.0, *edges]
    names = [f"{low:g}-{high:g} m" for low, high in zip(bounds, edges, strict=False)] + [f"over {bounds[-1]:g} m"]
    return [None if np.isnan(m) else names[int(np.searchsorted(edges, m, side="right"))] for m in metres]


def _checked(values: np.ndarray, groups: Groups | None, level: float) -> tuple[np.ndarray, Groups]:
    """Check the arguments; return values as float64, and groups."""
    if not 0 < level < 1:
        raise GenGeoError(f"the level must lie between 0 and 1, for example 0.95; found {level:g}")
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise GenGeoError("an interval needs at least one query, found none")
    if groups is not None and len(groups.codes) != len(array):
        raise GenGeoError(f"found groups of {len(groups.codes)} queries for {len(array)} values")
    return array, groups or independent(len(array))


def _variance_of_mean(values: np.ndarray, groups: Groups) -> float:
    """Cluster-robust variance of the mean, from the sum of deviations of each group."""
    count = groups.count
    if count < 2:
        return 0.0
    sums = np.bincount(groups.codes, weights=values - values.mean(), minlength=count)
    return float(count / (count - 1) * (sums @ sums) / len(values) ** 2)


def _quantile(groups: int, level: float) -> float:
    """Two-sided quantile of Student's t with `groups - 1` degrees of freedom."""
    return float(stats.t.ppf((1 + level) / 2, max(1, groups - 1)))


def _wilson_near_the_ends(share: float, count: int, level: float) -> Interval:
    """Wilson's interval; with one to three hits or misses the bound on their side is Poisson's (Brown et al. 2001)."""
    low, high = _wilson(share, count, float(stats.norm.ppf((1 + level) / 2)))
    hits = round(share * count)
    for few, is_low in ((hits, True), (count - hits, False)):
        if 1 <= few <= min(3, count // 2):
            bound = float(stats.chi2.ppf(1 - level, 2 * few)) / 2 / count
            low, high = (min(low, bound), high) if is_low else (low, max(high, 1 - bound))
    return Interval(low, high)


def _wilson(share: float, count: float, z: float) -> Interval:
    """Wilson's score interval of a share among `count` values."""
    return Interval(*map(float, wilson(share, count, z)))
