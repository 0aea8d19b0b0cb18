"""Differences over seeds: against a paired t test, a slow formula, and coverage by simulation."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.seeds import Difference, Spread, paired_differences, pooled_spread, warn_comparisons


def rows(values):
    return [dict(enumerate(row)) for row in values]


def test_paired_differences_of_two_rows_equal_the_paired_t_test():
    first, second = np.random.default_rng(0).normal(50, 3, (2, 6))
    _, found = paired_differences(rows([first, second]))
    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert found.mean == pytest.approx((second - first).mean())
    assert found.margin == pytest.approx((expected.high - expected.low) / 2)
    assert found.seeds == 6


def test_pooled_spread_equals_that_of_a_two_way_table():
    values = np.random.default_rng(1).normal(60, 2, (5, 4)) + np.array([0, 3, -4, 1])
    residual = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    assert pooled_spread(rows(values)) == Spread(pytest.approx(np.sqrt((residual**2).sum() / 12)), 12)


def test_paired_differences_of_rows_without_some_seeds_use_the_common_ones():
    found = paired_differences([{0: 50, 1: 52, 2: 49}, {0: 51, 1: 53.5}, {7: 3.0}, {}])
    assert found[0] is None and found[1].seeds == 2 and found[1].mean == pytest.approx(1.25)
    assert found[2] is None and found[3] is None
    single = paired_differences(rows([[50], [40]]))[1]
    assert single.margin == np.inf and not single.is_clear


def test_paired_differences_with_a_wide_or_collapsed_row_keep_the_other_intervals():
    generator = np.random.default_rng(2)
    calm = generator.normal(70, 1, (5, 5))
    wild, collapsed = 60 + np.array([[-25, 20, 3, -18, 22]]), generator.normal(2, 0.05, (2, 5))
    alone = paired_differences(rows(calm))[1].margin
    found = paired_differences(rows(np.concatenate([calm, collapsed])))
    assert found[1].margin == pytest.approx(alone) and found[-1].own_spread and found[-1].is_clear
    found = paired_differences(rows(np.concatenate([calm, wild])))
    assert found[-1].own_spread and not found[-1].is_clear


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "least"), [((4, 3), 0.93), ((10, 5), 0.93), ((3, 2), 0.93)])
def test_paired_differences_cover_a_true_difference_of_zero(shape, least):
    generator, covered, total = np.random.default_rng(3), 0, 0
    for _ in range(1500):
        values = generator.normal(60, 2, shape) + generator.normal(0, 2, shape[1])
        found = paired_differences(rows(values))[1:]
        covered, total = covered + sum(not x.is_clear for x in found), total + len(found)
    assert least <= covered / total <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("wilder", [2, 3])
def test_paired_differences_of_a_row_that_spreads_more_cover_zero(wilder):
    generator, own, others = np.random.default_rng(4), [], []
    for _ in range(1000):
        values = generator.normal(0, 2, (10, 5))
        values[-1] *= wilder
        found = paired_differences(rows(60 + values + generator.normal(0, 2, 5)))[1:]
        own.append(not found[-1].is_clear)
        others.append(np.mean([not x.is_clear for x in found[:-1]]))
    assert 0.91 <= np.mean(own) <= 0.97 and 0.93 <= np.mean(others) <= 0.97


def test_warn_comparisons_states_the_expected_number_of_false_positives():
    assert warn_comparisons(1) == ""
    assert "25 comparisons" in warn_comparisons(25) and "1.3 would" in warn_comparisons(25)
    assert "72%" in warn_comparisons(25)


def spread_of(table):
    """Residual standard deviation of a complete two-way table, and its degrees of freedom."""
    values = np.asarray(table)
    residual = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    return np.sqrt((residual**2).sum() / freedom), freedom


def with_p_value(others, p_value, seeds):
    """Row whose differences from the first row have a p-value in the F test against the spread of the other rows."""
    spread, freedom = spread_of(others)
    gaps = np.random.default_rng(5).normal(size=seeds)
    gaps = (gaps - gaps.mean()) / gaps.std(ddof=1) * np.sqrt(2 * stats.f.isf(p_value, seeds - 1, freedom)) * spread
    return np.asarray(others)[0, :seeds] + 3 + gaps


def half_width(spread, freedom, seeds, level=0.95):
    return stats.t.ppf((1 + level) / 2, freedom) * spread * np.sqrt(2 / seeds)


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_paired_differences_of_calm_rows_use_the_spread_of_the_table(level):
    table = 60 + np.random.default_rng(8).normal(0, 0.4, (4, 3)) + np.array([0, 5, -3])
    found = paired_differences(rows(table)) if level == 0.95 else paired_differences(rows(table), level)
    for row, difference in zip(table[1:], found[1:], strict=True):
        assert difference.mean == pytest.approx((row - table[0]).mean()) and not difference.own_spread
        assert difference.margin == pytest.approx(half_width(*spread_of(table), 3, level)) and difference.seeds == 3


@pytest.mark.parametrize(
    ("p_value", "own", "left_out"),
    [(0.33, False, False), (0.27, True, False), (0.012, True, False), (0.008, True, True)],
)
def test_paired_differences_of_a_row_that_spreads_more_follow_its_p_value(p_value, own, left_out):
    calm = 60 + np.random.default_rng(5).normal(0, 0.4, (4, 4)) + np.array([0, 5, -3, 1])
    row = with_p_value(calm, p_value, 4)
    found = paired_differences(rows([*calm, row]))
    assert found[-1].own_spread == own
    gaps = row - calm[0]
    pooled = spread_of(calm if left_out else [*calm, row])
    margin = stats.t.ppf(0.975, 3) * gaps.std(ddof=1) / 2 if own else half_width(*pooled, 4)
    assert found[-1].margin == pytest.approx(margin)
    assert found[1].margin == pytest.approx(half_width(*pooled, 4)) and not found[1].own_spread


@pytest.mark.parametrize(("p_value", "own"), [(0.012, False), (0.008, True)])
def test_paired_differences_of_a_row_with_two_seeds_use_its_own_spread_later(p_value, own):
    calm = 60 + np.random.default_rng(8).normal(0, 0.4, (4, 4))
    row = with_p_value(calm, p_value, 2)
    found = paired_differences([*rows(calm), {0: row[0], 1: row[1]}])[-1]
    assert found.own_spread == own and found.seeds == 2
    if own:
        assert found.margin == pytest.approx(12.7062 * np.std(row - calm[0, :2], ddof=1) / np.sqrt(2), rel=1e-4)
    else:
        assert found.margin < 5


def test_paired_differences_of_a_row_with_one_seed_use_the_pooled_spread():
    calm = 60 + np.random.default_rng(9).normal(0, 0.4, (3, 4))
    found = paired_differences([*rows(calm), {2: 75.0}])[-1]
    assert found.margin == pytest.approx(half_width(*spread_of(calm), 1)) and found.seeds == 1
    assert found.mean == pytest.approx(75 - calm[0, 2]) and found.is_clear


def test_paired_differences_of_two_rows_and_two_seeds_have_one_degree_of_freedom():
    found = paired_differences([{0: 50.0, 1: 52.0}, {0: 51.0, 1: 53.6}])[1]
    assert found.margin == pytest.approx(12.7062 * np.std([1, 1.6], ddof=1) / np.sqrt(2), rel=1e-4)
    assert pooled_spread([{0: 50.0, 1: 52.0}, {0: 51.0, 1: 53.6}]) == Spread(pytest.approx(0.3), 1)
    # The spread of the other two rows has one degree of freedom, which is enough to test the third.
    wild = paired_differences([{0: 50.0, 1: 52.0}, {0: 51.0, 1: 53.6}, {0: 9000.0, 1: 50.0}])
    assert wild[2].own_spread and not wild[1].own_spread and wild[1].margin == pytest.approx(found.margin)


def test_paired_differences_keep_a_row_at_a_quarter_of_the_base():
    table = [{0: 79.0, 1: 81.0, 2: 80.0}, {0: 77.0, 1: 78.5, 2: 78.0}]
    at, below = {0: 19.25, 1: 20.75, 2: 20.0}, {0: 19.0, 1: 20.5, 2: 20.0}
    assert not paired_differences([*table, at])[2].own_spread
    assert paired_differences([*table, below])[2].own_spread
    two = paired_differences([*table, {0: 3.0, 1: 3.5}])[2]  # a collapsed row with two seeds
    assert two.own_spread and two.margin == pytest.approx(12.7062 * np.std([76, 77.5], ddof=1) / np.sqrt(2), rel=1e-4)
    assert paired_differences([*table, {0: 3.0}])[2].margin == np.inf


def test_pooled_spread_of_too_few_runs_is_unknown():
    for runs in ([], [{}], [{0: 1.0}], [{0: 1.0, 1: 2.0}], [{0: 1.0}, {0: 3.0}]):
        found = pooled_spread(runs)
        assert np.isnan(found.value) and found.freedom == 0
    with pytest.raises(GenGeoError, match="no rows"):
        paired_differences([])


def test_difference_is_clear_only_beyond_its_margin():
    assert not Difference(1.0, 1.0, 3).is_clear and not Difference(-1.0, 1.0, 3).is_clear
    assert Difference(-1.1, 1.0, 3).is_clear and not Difference(1.0, 1.0, 3).own_spread


def test_differences_and_spreads_cannot_be_changed():
    runs = [{0: 50.0, 1: 52.0}, {0: 51.0, 1: 53.6}]
    for value in (paired_differences(runs)[1], pooled_spread(runs)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.mean = 2.0


def test_warn_comparisons_of_two_states_the_probability_of_one():
    assert "2 comparisons" in warn_comparisons(2) and "up to 10%" in warn_comparisons(2)
    assert warn_comparisons(0) == "" and "up to 36%" in warn_comparisons(2, 0.8)
