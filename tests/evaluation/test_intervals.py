"""Intervals against textbook formulas and numbers computed by hand, and the groups of queries."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import norm, t

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.intervals import (
    Groups,
    breakdown,
    distance_groups,
    independent,
    mean_interval,
    median_interval,
    paired_differences,
    paired_interval,
    query_groups,
)

from .formulas import wilson

DEGREE_M = 6_371_008.8 * math.pi / 180


@pytest.mark.parametrize("groups", [11, 40])
def test_mean_interval_of_only_hits_uses_the_number_of_groups(groups):
    codes = np.repeat(np.arange(groups), 9)
    found = mean_interval(np.ones(len(codes)), Groups(codes, "streets"))
    alone = mean_interval(np.ones(groups))
    assert found == alone and found.high == 1.0
    # Under a share at Wilson's lower bound, this many groups without a miss have a probability of about 2.5 %.
    assert 0.005 < found.low**groups < 0.06


@pytest.mark.parametrize("hits", [1, 2, 3])
def test_mean_interval_of_few_hits_has_the_bound_of_poisson(hits):
    """Below the bound, as many hits or more have a probability of at most 5 % (Brown, Cai and DasGupta 2001)."""
    count = 400
    values = np.zeros(count)
    values[:hits] = 1
    found, mirrored = mean_interval(values), mean_interval(1 - values)
    expected = found.low * count
    fewer = sum(math.exp(-expected) * expected**k / math.factorial(k) for k in range(hits))
    assert 1 - fewer == pytest.approx(0.05, abs=1e-6)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))
    assert found.low < hits / count < found.high


def test_mean_interval_of_only_misses_mirrors_that_of_only_hits():
    groups = Groups(np.repeat(np.arange(12), 5), "streets")
    hits, misses = mean_interval(np.ones(60), groups), mean_interval(np.zeros(60), groups)
    assert (misses.low, misses.high) == pytest.approx((1 - hits.high, 1 - hits.low), abs=1e-12)


@pytest.mark.parametrize(("hits", "count"), [(4, 400), (2, 3), (3, 4)])
def test_mean_interval_of_more_than_three_hits_or_of_half_of_the_queries_has_wilsons_bound(hits, count):
    found = mean_interval((np.arange(count) < hits).astype(float))
    assert found.low == pytest.approx(wilson(hits / count, count, norm.ppf(0.975))[0])


def test_mean_interval_of_two_hits_of_four_has_both_bounds_of_poisson():
    found = mean_interval(np.array([1, 1, 0, 0.0]), level=0.8)
    # Two hits or more have a probability of 20 % where 0.8244 are expected: 1 - exp(-x) (1 + x) = 0.2.
    assert (found.low, found.high) == pytest.approx((0.8244 / 4, 1 - 0.8244 / 4), abs=1e-4)


def groups_of(*counts):
    """Values and groups: hits and queries of each group."""
    codes = np.repeat(np.arange(len(counts)), [number for _, number in counts])
    values = np.concatenate([np.arange(number) < hits for hits, number in counts]).astype(float)
    return values, Groups(codes, "streets")


def effective(values, groups):
    """Effective sample size, written as sums over groups."""
    mean, count, number = sum(values) / len(values), len(values), max(groups.codes) + 1
    deviations = [
        sum(v - mean for v, code in zip(values, groups.codes, strict=True) if code == g) for g in range(number)
    ]
    return mean * (1 - mean) / (number / (number - 1) * sum(d * d for d in deviations) / count**2)


@pytest.mark.parametrize(
    ("counts", "freedom"),
    [
        ([(3, 4), (0, 5), (1, 3), (4, 6), (0, 7), (0, 2)], 2),  # hits in three groups are the rarer outcome
        ([(4, 4), (5, 5), (1, 3), (6, 6), (7, 7), (1, 2)], 2),  # misses in two groups count as in three
        ([(4, 4), (4, 5), (2, 3), (4, 6), (4, 7), (2, 2)], 3),  # misses in four
        ([(1, 4), (1, 4), (2, 4), (3, 4), (1, 4), (2, 4)], 5),  # hits in all six
        ([(4, 4), (4, 4), (4, 4), (0, 4), (0, 4), (0, 4)], 2),  # half of the queries
        ([(4, 4), (8, 8), (0, 3), (0, 3), (0, 3), (0, 3)], 3),  # half of them, misses in four groups
    ],
)
def test_mean_interval_of_grouped_hits_has_the_freedom_of_the_groups_with_the_rarer_outcome(counts, freedom):
    values, groups = groups_of(*counts)
    for level in (0.95, 0.8):
        count = min(len(values), effective(values, groups))
        found = mean_interval(values, groups) if level == 0.95 else mean_interval(values, groups, level)
        assert found == pytest.approx(wilson(values.mean(), count, t.ppf(0.5 + level / 2, freedom)))


def test_mean_interval_of_groups_that_vary_less_than_chance_has_the_number_of_queries():
    values, groups = groups_of((2, 4), (2, 4), (2, 4), (1, 3))
    assert effective(values, groups) > 15
    assert mean_interval(values, groups) == pytest.approx(wilson(7 / 15, 15, t.ppf(0.975, 3)))
    values, groups = groups_of((1, 4), (1, 4), (1, 4), (1, 4))  # no variance between groups: their number
    assert mean_interval(values, groups) == pytest.approx(wilson(0.25, 4, t.ppf(0.975, 3)))


def test_mean_interval_of_one_group_counts_it_as_one_query():
    values, groups = groups_of((3, 5))
    quantile = 12.7062047  # of Student's t with one degree of freedom
    assert mean_interval(values, groups) == pytest.approx(wilson(0.6, 1, quantile))
    values, groups = groups_of((3, 5), (4, 5))
    assert mean_interval(values, groups) == pytest.approx(wilson(0.7, min(10, effective(values, groups)), quantile))


def test_mean_interval_of_average_precisions_has_the_freedom_of_all_groups():
    values = np.array([1, 0.5, 0.25, 1, 0.2, 0.4, 0.9, 0.1])
    for groups in (Groups(np.array([0, 0, 1, 1, 2, 2, 2, 3]), "streets"), independent(8)):
        count = max(groups.codes)
        assert mean_interval(values, groups) == pytest.approx(
            wilson(values.mean(), effective(values, groups), t.ppf(0.975, count))
        )
    assert mean_interval(np.full(8, 0.3)) == pytest.approx(wilson(0.3, 8, t.ppf(0.975, 7)))


def test_median_interval_holds_the_order_statistics_computed_by_hand():
    # 51 of 101 values are at most the median: their share has the variance p q / 100, so the effective size is 100.01.
    # t = 1.98397: half width 0.09730, thus 0.40270 * 101 = 40.67 and 0.59730 * 101 = 60.33.
    values = np.random.default_rng(0).permutation(np.arange(101) ** 2.0)
    assert median_interval(values) == (39**2, 61**2)
    # With 80 %, t = 1.29007: half width 0.06397, thus 44.04 and 56.96.
    assert median_interval(values, level=0.8) == (43**2, 57**2)
    assert median_interval(np.array([5.0, 3.0, 9.0])) == (3, 9)  # clipped to the values
    assert median_interval(np.array([5.0, np.inf, 9.0, 1.0])) == (1, np.inf)
    assert median_interval(np.array([4.0, 4.0])) == (4, 4)


def test_median_interval_of_groups_has_their_effective_sample_size():
    # 40 streets of 5 equal errors count as 40 photos: p q n^2 / 39 / (p q 5^2 ...) gives 39; t = 2.02269, half width
    # t / 2 / sqrt(39 + t^2) = 0.15408: 0.34592 * 200 = 69.2 and 0.65408 * 200 = 130.8.
    streets = Groups(np.repeat(np.arange(40), 5), "streets")
    assert median_interval(np.repeat(np.arange(40.0), 5), streets) == (68 // 5, 131 // 5)
    # Streets with one error each below the median: no variance, so 40 photos count; half width 0.15241: 0.34759 * 80.
    pairs = Groups(np.repeat(np.arange(40), 2), "streets")
    assert median_interval(np.tile([0.0, 100.0], 40) + np.arange(80), pairs) == (52, 127)
    # Nearly so: at most the number of photos counts. 80: half width t / 2 / sqrt(80 + t^2) = 0.11029: 31.18 and 48.82.
    values = np.tile([0.0, 100.0], 40) + np.arange(80)
    values[3] = -1
    assert median_interval(values, pairs) == (np.sort(values)[30], np.sort(values)[49])


def test_paired_interval_equals_the_formula_of_agresti_and_min_by_hand():
    # 3 gains and 1 loss of 10: centre 2 / 12, variance 5 / 12 - (2 / 12)^2 = 0.38889; t = 2.26216: 0.40724.
    values = np.array([1, 1, 1, -1, 0, 0, 0, 0, 0, 0.0])
    gain, interval = paired_interval(values)
    assert gain == pytest.approx(0.2)
    assert interval == pytest.approx((0.16667 - 0.40724, 0.16667 + 0.40724), abs=2e-5)
    # With 80 %, t = 1.38303: 0.24897.
    assert paired_interval(values, level=0.8)[1] == pytest.approx((-0.08230, 0.41564), abs=2e-5)
    # The same values, gains in one street and the loss in another, five streets of two: sums of deviations from 0.2
    # are 1.6, 0.6, -1.4, -0.4, -0.4; 5/4 * 5.2 / 100 = 0.065 against 10/9 * 3.6 / 100 = 0.04: design effect 1.625.
    streets = Groups(np.array([0, 0, 1, 2, 2, 1, 3, 3, 4, 4]), "streets")
    assert np.bincount(streets.codes, values - 0.2) == pytest.approx([1.6, 0.6, -1.4, -0.4, -0.4])
    half = 2.77645 * math.sqrt(1.625 * 0.38889 / 12)  # t with four degrees of freedom
    assert paired_interval(values, streets)[1] == pytest.approx((1 / 6 - half, 1 / 6 + half), abs=2e-5)
    # Groups that vary less than chance do not narrow the interval.
    even = Groups(np.array([0, 1, 2, 0, 1, 2, 3, 3, 4, 4]), "streets")
    half = 2.77645 * math.sqrt(0.38889 / 12)
    assert paired_interval(values, even)[1] == pytest.approx((1 / 6 - half, 1 / 6 + half), abs=2e-5)


def test_paired_interval_of_equal_outcomes_counts_groups_and_stays_within_one():
    # No difference at all: centre 0, variance 1 / 22; 20 queries in 5 groups have a design effect of 4.
    half = 2.77645 * math.sqrt(4 / 22 / 22)
    _, interval = paired_interval(np.zeros(20), Groups(np.repeat(np.arange(5), 4), "streets"))
    assert interval == pytest.approx((-half, half), abs=2e-5)
    assert paired_interval(np.ones(3))[1].high == 1 and paired_interval(-np.ones(3))[1].low == -1
    assert paired_interval(np.ones(3))[1].low > -1 and paired_interval(-np.ones(3))[1].high < 1
    assert paired_interval(np.ones(1))[1] == (-1, 1)


def test_paired_differences_are_second_minus_first_of_common_metrics():
    first, second = {"a": np.zeros(4), "b": np.ones(4)}, {"b": np.array([1, 0, 1, 1.0]), "c": np.ones(4)}
    found = paired_differences(first, second)
    assert list(found) == ["b"] and found["b"][0] == -0.25
    with pytest.raises(GenGeoError, match=r"no metric in common: \['a', 'b'\] and \['c'\]"):
        paired_differences(first, {"c": np.ones(4)})


def areas(*sizes):
    return [f"area {number}" for number, size in enumerate(sizes) for _ in range(size)]


def test_query_groups_are_areas_from_ten_areas_on():
    unknown = np.full((12, 2), np.nan)
    ten = query_groups(areas(2, 1, 1, 1, 1, 1, 1, 1, 1, 2), unknown)
    assert ten.description == "10 areas" and ten.codes.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert "independent" in query_groups(areas(2, 1, 1, 1, 1, 1, 1, 1, 3), unknown).description  # nine
    assert "independent" in query_groups(areas(*[1] * 12), unknown).description  # one query each
    assert "independent" in query_groups([*areas(2, *[1] * 9), None], unknown[:12]).description
    assert query_groups([], np.empty((0, 2))).count == 0


def test_groups_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        independent(3).description = "more"


def test_query_groups_are_blocks_of_250_metres_of_land():
    """Points one metre on both sides of the edges of blocks, computed for the latitude of the row's middle."""
    row, column = 26_686, 5000  # 60 degrees north, 1250 km east of Greenwich
    wide = 250 / DEGREE_M / math.cos(math.radians((row + 0.5) * 250 / DEGREE_M))  # degrees of longitude of a block
    north = (row * 250 + 100) / DEGREE_M
    edges = [(column + number) * wide for number in range(10)]
    metre = wide / 250
    points = [(north, edge + side) for edge in edges for side in (-metre, metre)]
    found = query_groups([None] * 20, np.array(points))
    assert found.description == "11 blocks of 250 m"
    assert found.codes.tolist() == [0, *np.repeat(np.arange(1, 10), 2), 10]
    up = [((row + number) * 250 + side) / DEGREE_M for number in range(10) for side in (-1, 1)]
    found = query_groups([None] * 20, np.array([(lat, 0.001) for lat in up]))
    assert found.codes.tolist() == [0, *np.repeat(np.arange(1, 10), 2), 10]


def test_query_groups_of_too_few_or_separate_blocks_are_single_queries():
    def description(blocks, queries):
        north = 60 + 500 * np.minimum(np.arange(queries), blocks - 1) / DEGREE_M
        return query_groups([None] * queries, np.stack([north, np.full(queries, 25.0)], axis=1)).description

    assert description(10, 12) == "10 blocks of 250 m"
    assert description(9, 12) == description(12, 12) == "12 queries, taken as independent"
    partly = np.array([[60 + number / 100, 25.0] for number in range(12) for _ in range(2)])
    partly[3] = np.nan
    assert "independent" in query_groups([None] * 24, partly).description


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5])
def test_mean_interval_of_a_level_outside_0_and_1_raises_an_error(level):
    with pytest.raises(GenGeoError, match="the level must lie between 0 and 1"):
        mean_interval(np.array([0.0, 1.0]), level=level)
    with pytest.raises(GenGeoError, match="groups of 3 queries for 2 values"):
        mean_interval(np.array([0.0, 1.0]), independent(3))


def test_breakdown_and_distance_groups_name_bins_from_zero():
    found = breakdown({"recall@1": np.array([1, 0, 0.0])}, ["b", None, "b"])
    assert found == {"b": {"num_queries": 2, "recall@1": 0.5}, "unknown": {"num_queries": 1, "recall@1": 0.0}}
    assert distance_groups(np.array([0.0, 4.9, 5.0]), [5]) == ["0-5 m", "0-5 m", "over 5 m"]
