"""Differences between configurations of training, each run with several seeds.

Results vary with the seed, so a difference needs an interval. A few seeds are not enough to estimate the standard
deviation of one row of a table; it is therefore pooled over the rows, after the effects of row and seed are removed
(runs with the same seed have the same batches and flips).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gengeo_hf.common.errors import GenGeoError

LEVEL = 0.95
COLLAPSED = 0.25  # rows with a mean below this share of the base are not pooled: near 0, runs hardly differ
# A row whose spread has a p-value below OWN_SPREAD_P gets an interval from its own spread; below LEFT_OUT_P the row is
# also left out of the pooled spread. With 0.01 for both, intervals of a row with twice the others' spread cover 86 %.
# Rows with two seeds use LEFT_OUT_P for both, because two seeds estimate a row's own spread too poorly.
OWN_SPREAD_P, LEFT_OUT_P = 0.3, 0.01


@dataclass(frozen=True)
class Difference:
    """Mean difference between a row and the base.

    Attributes:
        mean: Mean of `row - base` over the common seeds, in the unit of the values.
        margin: Half the width of the interval; infinite where the spread is unknown.
        seeds: Number of common seeds.
        own_spread: Whether the interval uses the row's own spread instead of the pooled one.
    """

    mean: float
    margin: float
    seeds: int
    own_spread: bool = False

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.margin


@dataclass(frozen=True)
class Spread:
    """Residual standard deviation of runs, and its degrees of freedom."""

    value: float
    freedom: int


def pooled_spread(runs: Sequence[Mapping[int, float]]) -> Spread:
    """Standard deviation of the runs of a table after row and seed effects are removed by least squares.

    Args:
        runs: For each row, value by seed; rows may lack seeds.

    Returns:
        The spread; NaN with 0 degrees of freedom where there are too few runs.
    """
    seeds = sorted({seed for row in runs for seed in row})
    cells = [(row, seeds.index(seed), value) for row, values in enumerate(runs) for seed, value in values.items()]
    if not cells:
        return Spread(np.nan, 0)
    design = np.zeros((len(cells), len(runs) + len(seeds)))
    for cell, (row, seed, _) in enumerate(cells):
        design[cell, row] = design[cell, len(runs) + seed] = 1
    target = np.array([value for _, _, value in cells])
    solution, _, rank, _ = np.linalg.lstsq(design, target, rcond=None)
    freedom = len(cells) - int(rank)
    if freedom < 1:
        return Spread(np.nan, 0)
    residual = target - design @ solution
    return Spread(float(np.sqrt(residual @ residual / freedom)), freedom)


def paired_differences(runs: Sequence[Mapping[int, float]], level: float = LEVEL) -> list[Difference | None]:
    """Difference between each row and the first one (the base), paired by seed.

    The variance of a mean difference over n seeds is 2 s^2 / n with the pooled s, and Student's t has the pooled
    degrees of freedom. A row whose paired differences spread more gets an interval from its own spread, and so does a
    row whose mean is below `COLLAPSED` of the base.

    Args:
        runs: For each row, value by seed; the first row is the base.
        level: Coverage of the intervals, between 0 and 1.

    Returns:
        A difference for each row; None for the first row and for rows without a common seed.

    Raises:
        GenGeoError: `runs` is empty.
    """
    if not runs:
        raise GenGeoError("there are no rows to compare")
    base = runs[0]
    usual = float(np.mean(list(base.values()))) if base else np.nan
    kept = [row for row in runs if row and np.mean(list(row.values())) >= COLLAPSED * usual]
    p_values = [1.0 if row is base else _spread_p_value(base, row, kept) for row in kept]
    spread = pooled_spread([row for row, p_value in zip(kept, p_values, strict=True) if p_value >= LEFT_OUT_P])
    pooled = [
        row
        for row, p_value in zip(kept, p_values, strict=True)
        if p_value >= (OWN_SPREAD_P if len(_gaps(base, row)) > 2 else LEFT_OUT_P)
    ]
    return [None, *(_difference(base, row, None if row not in pooled else spread, level) for row in runs[1:])]


def _gaps(base: Mapping[int, float], row: Mapping[int, float]) -> np.ndarray:
    return np.array([row[seed] - base[seed] for seed in sorted(set(base) & set(row))])


def _spread_p_value(base: Mapping[int, float], row: Mapping[int, float], kept: Sequence[Mapping[int, float]]) -> float:
    """p-value of the F test that a row's differences spread no more than the other rows; 1 where unknown."""
    gaps, others = _gaps(base, row), pooled_spread([other for other in kept if other is not row])
    if len(gaps) < 2 or others.freedom < 1 or not others.value > 0:
        return 1.0
    ratio = gaps.var(ddof=1) / (2 * others.value**2)
    return float(stats.f.sf(ratio, len(gaps) - 1, others.freedom))


def _difference(
    base: Mapping[int, float], row: Mapping[int, float], spread: Spread | None, level: float
) -> Difference | None:
    """Difference of one row; None for `spread` uses the row's own."""
    gaps = _gaps(base, row)
    if not len(gaps):
        return None
    if spread is None:
        deviation, freedom = float(gaps.std(ddof=1)) if len(gaps) > 1 else np.nan, len(gaps) - 1
    else:
        deviation, freedom = spread.value * 2**0.5, spread.freedom
    margin = np.inf
    if freedom > 0 and np.isfinite(deviation):
        margin = float(stats.t.ppf((1 + level) / 2, freedom)) * deviation / len(gaps) ** 0.5
    return Difference(float(gaps.mean()), float(margin), len(gaps), spread is None)


def warn_comparisons(count: int, level: float = LEVEL) -> str:
    """Sentence on the expected number of false positives among `count` comparisons; empty for one comparison."""
    if count < 2:
        return ""
    some = 1 - level**count
    return (
        f"{count} comparisons, each at {level:.0%} and not corrected for their number: were all differences zero, "
        f"{count * (1 - level):.1f} would be called on average, and at least one with a probability up to {some:.0%}."
    )
