"""Differences over seeds: against a paired t test, a slow formula, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from gengeo_hf.evaluation.seeds import Spread, paired_differences, pooled_spread, warn_comparisons


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
