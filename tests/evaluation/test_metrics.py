"""Metrics against slow formulas written from their definitions, scipy and scikit-learn."""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn.metrics import average_precision_score

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.evaluation import evaluate_descriptors, one_percent_k, recall_at, scan
from gengeo_hf.evaluation.intervals import (
    breakdown,
    distance_groups,
    mean_interval,
    median_interval,
    paired_differences,
    query_groups,
)
from gengeo_hf.evaluation.metrics import (
    average_precision,
    average_precision_trapezoid,
    error_metrics,
    metrics_of_scan,
    per_query_outcomes,
)
from gengeo_hf.evaluation.neighbourhood import near_rule_outcomes, prior_outcomes

from .test_ranks import unit


@pytest.fixture(scope="module")
def city():
    """Noisy descriptors of 60 queries and 200 tiles, with 0 to 3 semi-positives and positions."""
    generator = np.random.default_rng(11)
    gallery = unit(generator, 200, 16)
    rows = generator.permutation(200)[:60]
    semi = np.full((60, 3), -1)
    for number in range(60):
        others = generator.permutation(np.setdiff1d(np.arange(200), rows[number]))[: number % 4]
        semi[number, : len(others)] = others
    helpers = np.where(semi >= 0, generator.uniform(0, 0.9, semi.shape), 0)
    queries = gallery[rows] + (helpers[..., None] * gallery[semi]).sum(axis=1) + 0.8 * unit(generator, 60, 16)
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    tiles = np.stack([48 + generator.uniform(0, 0.01, 200), 11 + generator.uniform(0, 0.01, 200)], axis=1)
    places = tiles[rows] + generator.uniform(-1, 1, (60, 2)) * 3e-4
    return queries, gallery, rows, semi, places, tiles


def means(outcomes):
    return {name: values.mean() for name, values in outcomes.items()}


def test_hit_rates_and_masked_recall_equal_their_definitions(city):
    queries, gallery, rows, semi, places, tiles = city
    scores = queries.astype(np.float64) @ gallery.astype(np.float64).T
    by_code, by_wording, masked_top5, plain_top5, error = [], [], [], [], []
    for number, line in enumerate(scores):
        own = {*semi[number].tolist()} - {-1}
        order = np.argsort(-line).tolist()
        before = order[: order.index(rows[number])]
        by_code.append(all(row in own for row in before))
        by_wording.append(order[0] in own | {rows[number]})
        masked_top5.append(len([row for row in before if row not in own]) < 5)
        plain_top5.append(len(before) < 5)
        error.append(great_circle_m(*places[number], *tiles[order[0]]))
    found = evaluate_descriptors(
        queries, gallery, rows, semi_positive_rows=semi, query_positions=places, gallery_positions=tiles
    )
    assert found["hit_rate_code"] == np.mean(by_code) < found["hit_rate_wording"] == np.mean(by_wording)
    assert found["recall_masked@5"] == np.mean(masked_top5) > found["recall@5"] == np.mean(plain_top5)
    assert found["recall@1"] < found["hit_rate_code"]
    assert found["median_error_m"] == pytest.approx(np.median(error))
    assert found["mean_error_m"] == pytest.approx(np.mean(error))
    for limit in (5, 10, 25, 50, 100):
        assert found[f"within_{limit}m"] == np.mean(np.array(error) <= limit)
    assert (found["num_queries"], found["gallery_size"], found["one_percent_k"]) == (60, 200, 2)


def test_average_precision_equals_scikit_learn(city):
    queries, gallery, rows, semi, *_ = city
    lines = queries.astype(np.float64) @ gallery.astype(np.float64).T
    for relevant in (semi, None):
        expected = []
        for number, line in enumerate(lines):
            right = np.zeros(len(gallery), bool)
            right[rows[number]] = True
            if relevant is not None:
                right[[row for row in relevant[number] if row >= 0]] = True
            expected.append(average_precision_score(right, line))
        found = evaluate_descriptors(queries, gallery, rows, semi_positive_rows=relevant)
        assert found["average_precision"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_hit_rates_differ_for_a_semi_positive_first_and_a_wrong_tile_second():
    gallery = np.eye(4, dtype=np.float32)
    query = np.array([[0.5, 0.9, 0.7, 0.0]], np.float32)  # semi-positive 1, wrong tile 2, positive 0
    found = evaluate_descriptors(query, gallery, np.array([0]), semi_positive_rows=np.array([[1, -1]]))
    assert (found["hit_rate_code"], found["hit_rate_wording"], found["recall@1"]) == (0, 1, 0)


def test_recall_of_a_constant_descriptor_is_zero_unless_ties_favour_it():
    same = np.ones((50, 8), np.float32)
    semi = (np.arange(50)[:, None] + np.array([1, 2, 3])) % 50
    result = scan(same, same, np.arange(50), semi_positive_rows=semi)
    against, for_it = (metrics_of_scan(result, ties=ties) for ties in ("pessimistic", "sample4geo"))
    assert against["hit_rate_code"] == against["hit_rate_wording"] == against["recall@10"] == 0
    assert for_it["hit_rate_code"] == for_it["hit_rate_wording"] == for_it["recall@1"] == 1


@pytest.mark.parametrize(
    ("size", "floor", "ceil", "half", "more"),
    [(8884, 88, 89, 89, 89), (92802, 928, 929, 928, 929), (90618, 906, 907, 906, 907), (46563, 465, 466, 466, 466)],
)
def test_one_percent_k_of_each_published_gallery_follows_the_rounding(size, floor, ceil, half, more):
    assert one_percent_k(size) == floor
    assert [one_percent_k(size, rule) for rule in ("ceil", "round", "floor+1")] == [ceil, half, more]
    assert one_percent_k(5) == 1
    with pytest.raises(GenGeoError, match="rounding must be"):
        one_percent_k(size, "nearest")


def test_prior_outcomes_rise_with_smaller_radius_and_miss_tiles_outside(city):
    queries, gallery, rows, _, places, tiles = city
    given = {"search_centres": places, "gallery_positions": tiles, "radii_m": [10, 100, 1e7]}
    found = means(prior_outcomes(queries, gallery, rows, ks=(1, 500), **given))
    offset = great_circle_m(*places.T, *tiles[rows].T)
    assert found["recall@500|prior_10m"] == np.mean(offset <= 10) < 1
    assert found["recall@500|prior_100m"] == 1
    assert found["recall@1|prior_100m"] > found["recall@1|prior_1e+07m"]
    assert found["recall@1|prior_1e+07m"] == evaluate_descriptors(queries, gallery, rows)["recall@1"]


def test_near_rule_outcomes_count_any_tile_within_five_metres(city):
    queries, gallery, rows, _, places, tiles = city
    distance = great_circle_m(places[:, None, 0], places[:, None, 1], tiles[None, :, 0], tiles[None, :, 1])
    for radius in (5.0, 60.0):
        right = distance <= radius
        right[np.arange(60), rows] = True
        order = np.argsort(-(queries.astype(np.float64) @ gallery.astype(np.float64).T), axis=1)
        expected = np.take_along_axis(right, order, axis=1)[:, :5].any(axis=1).mean()
        found = means(
            near_rule_outcomes(queries, gallery, rows, query_positions=places, gallery_positions=tiles, radius_m=radius)
        )
        assert found[f"recall_{radius:g}m@5"] == expected
    assert distance[np.arange(60), rows].max() > 5  # the true tile counts even where its centre is far
    with pytest.raises(GenGeoError, match="1 of 60 queries"):
        places = np.where(np.arange(60)[:, None] == 3, np.nan, places)
        near_rule_outcomes(queries, gallery, rows, query_positions=places, gallery_positions=tiles)


def test_mean_interval_of_a_share_is_wilsons_and_close_to_the_binomial_one():
    values = np.r_[np.ones(700), np.zeros(300)]
    low, high = mean_interval(values)
    assert low == pytest.approx(binom.ppf(0.025, 1000, 0.7) / 1000, abs=0.004)
    assert high == pytest.approx(binom.ppf(0.975, 1000, 0.7) / 1000, abs=0.004)
    expected = binomtest(700, 1000).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high))
    low, high = mean_interval(np.ones(500))
    assert 0.99 < low < 0.995 and high == 1.0


@pytest.mark.parametrize("count", [200, 201])
def test_median_interval_equals_that_of_order_statistics(count):
    values = np.random.default_rng(2).permutation(np.arange(count) ** 2.0)
    interval = median_interval(values)
    ranks = binom.ppf([0.025, 0.975], count, 0.5)  # the distribution-free interval of a median
    assert np.sqrt(interval) == pytest.approx(ranks, abs=3)


def test_mean_interval_of_photos_of_one_street_counts_them_as_a_group():
    street = np.repeat(np.random.default_rng(1).random(25) < 0.6, 20).astype(float)
    groups = query_groups([f"street {n}" for n in range(25) for _ in range(20)], np.full((500, 2), np.nan))
    assert groups.count == 25 and groups.description == "25 areas"
    alone, together = mean_interval(street), mean_interval(street, groups)
    assert together.high - together.low > 3 * (alone.high - alone.low)
    one_each = mean_interval(street[::20])  # twenty equal photos count as one
    assert tuple(together) == pytest.approx(tuple(one_each), abs=0.08)


def test_query_groups_without_areas_are_squares_of_land():
    metre = 1 / 111_195
    streets = np.array([[50 + 600 * metre * n, 10.0] for n in range(12)])
    jitter = np.random.default_rng(0).uniform(0, 20 * metre, (240, 2))
    groups = query_groups([None] * 240, np.repeat(streets, 20, axis=0) + jitter)
    assert 12 <= groups.count <= 24 and "blocks of 250 m" in groups.description
    assert all(len(set(groups.codes[20 * n : 20 * n + 20])) <= 2 for n in range(12))
    unknown = query_groups([None] * 3, np.full((3, 2), np.nan))
    assert unknown.count == 3 and "independent" in unknown.description


def test_paired_differences_find_a_gain_despite_overlapping_intervals():
    first = np.r_[np.ones(600), np.zeros(400)]
    second = first.copy()
    second[600:615] = 1
    assert mean_interval(first).high > mean_interval(second).low
    gain, interval = paired_differences({"recall@1": first}, {"recall@1": second})["recall@1"]
    assert gain == pytest.approx(0.015)
    assert 0 < interval.low < 0.015 < interval.high
    noise = np.random.default_rng(0).permutation(first)
    _, interval = paired_differences({"recall@1": first}, {"recall@1": noise})["recall@1"]
    assert interval.low < 0 < interval.high
    with pytest.raises(GenGeoError, match="no metric in common"):
        paired_differences({"a": first}, {"b": first})


def test_breakdown_of_all_groups_adds_up_to_the_metric(city):
    queries, gallery, rows, semi, *_ = city
    outcomes = per_query_outcomes(scan(queries, gallery, rows, semi_positive_rows=semi))
    areas = [["north", "south", None][n % 3] for n in range(60)]
    parts = breakdown(outcomes, areas)
    assert set(parts) == {"north", "south", "unknown"}
    total = sum(part["recall@1"] * part["num_queries"] for part in parts.values())
    assert total == pytest.approx(outcomes["recall@1"].sum())
    assert distance_groups(np.array([0, 10, 15, 99, math.nan]), [10, 20]) == [
        "0-10 m",
        "10-20 m",
        "10-20 m",
        "over 20 m",
        None,
    ]


def test_metrics_of_invalid_input_raise_errors():
    with pytest.raises(GenGeoError, match="at least 1"):
        recall_at(np.array([0]), 0)
    with pytest.raises(GenGeoError, match="no queries"):
        recall_at(np.array([]), 1)
    with pytest.raises(GenGeoError, match="level"):
        mean_interval(np.ones(3), level=95)
    with pytest.raises(GenGeoError, match="same queries"):
        paired_differences({"a": np.ones(3)}, {"a": np.ones(2)})
    with pytest.raises(GenGeoError, match="at least one query"):
        mean_interval(np.array([]))


@pytest.mark.parametrize(
    ("size", "k"),
    [
        (99, {"floor": 1, "ceil": 1, "round": 1, "floor+1": 1, "round+1": 2}),
        (100, {"floor": 1, "ceil": 1, "round": 1, "floor+1": 2, "round+1": 2}),
        (149, {"floor": 1, "ceil": 2, "round": 1, "floor+1": 2, "round+1": 2}),
        (150, {"floor": 1, "ceil": 2, "round": 2, "floor+1": 2, "round+1": 3}),
        (301, {"floor": 3, "ceil": 4, "round": 3, "floor+1": 4, "round+1": 4}),
        (350, {"floor": 3, "ceil": 4, "round": 4, "floor+1": 4, "round+1": 5}),
        (20, {"floor": 1, "ceil": 1, "round": 1, "floor+1": 1, "round+1": 1}),
    ],
)
def test_one_percent_k_at_the_limits_of_a_rule_is_rounded_by_it(size, k):
    assert {rule: one_percent_k(size, rule) for rule in k} == k


def test_average_precisions_equal_numbers_computed_by_hand():
    ranks = np.array([[0, 2, 9], [1, 2, 9], [0, 1, 8], [3, 9, 9], [9, 9, 9]])  # of 9 tiles; 9 is none
    plain = [(1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2, (1 + 1 + 3 / 9) / 3, 1 / 4, 0]
    np.testing.assert_allclose(average_precision(ranks, 9), plain)
    # Each hit counts the mean of the precision before it and at it; before rank 0 it is 1.
    trapezoid = [
        ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2,
        ((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2,
        ((1 + 1) / 2 + (1 / 1 + 2 / 2) / 2 + (2 / 8 + 3 / 9) / 2) / 3,
        (0 + 1 / 4) / 2,
        0,
    ]
    np.testing.assert_allclose(average_precision_trapezoid(ranks, 9), trapezoid)


def test_error_metrics_count_errors_at_a_limit_as_within_it():
    found = error_metrics(np.array([5, 10, 25, 40, 50, 100, 100.5, np.nan]))
    assert found == {
        "num_with_position": 7,
        "median_error_m": 40.0,
        "mean_error_m": pytest.approx(330.5 / 7),
        **{f"within_{m}m": pytest.approx(n / 7) for n, m in enumerate((5, 10, 25, 40, 50, 100), 1)},
    }
    assert error_metrics(np.array([np.nan])) == {}
    some = error_metrics(np.array([1.0, 2.0, np.inf]))  # no mean where a query has no answer
    assert some["median_error_m"] == 2 and "mean_error_m" not in some and some["within_5m"] == pytest.approx(2 / 3)
    assert "median_error_m" not in error_metrics(np.array([1.0, np.inf, np.inf]))


def test_metrics_have_by_default_k_of_1_5_and_10_and_errors_only_with_both_positions(city):
    queries, gallery, rows, semi, places, tiles = city
    recalls = [f"recall@{k}" for k in ("1", "5", "10", "1%")]
    facts = ["num_queries", "gallery_size", "ties", "one_percent_k"]
    result = scan(queries, gallery, rows)
    assert list(per_query_outcomes(result)) == [*recalls, "average_precision"]
    assert list(metrics_of_scan(result)) == [*facts, *recalls, "average_precision"]
    for given in ({}, {"query_positions": places}, {"gallery_positions": tiles}):
        assert list(evaluate_descriptors(queries, gallery, rows, **given)) == [*facts, *recalls, "average_precision"]
    masked = ["hit_rate_code", "hit_rate_wording", *(name.replace("@", "_masked@") for name in recalls)]
    found = evaluate_descriptors(queries, gallery, rows, semi_positive_rows=semi)
    assert list(found) == [*facts, *recalls, *masked, "average_precision"]
    assert found["recall@1"] < found["recall@5"] < found["recall@10"]
    scores = queries.astype(np.float64) @ gallery.astype(np.float64).T
    ranks = (scores > scores[np.arange(60), rows][:, None]).sum(axis=1)
    assert [found[name] for name in recalls] == [np.mean(ranks < k) for k in (1, 5, 10, 2)]
    assert recall_at(ranks, 1) == found["recall@1"] and recall_at(ranks, 2) == np.mean(ranks <= 1)


def test_outcomes_by_distance_have_by_default_k_of_1_5_and_10(city):
    queries, gallery, rows, _, places, tiles = city
    found = prior_outcomes(queries, gallery, rows, search_centres=places, gallery_positions=tiles, radii_m=[100, 2e4])
    assert list(found) == [f"recall@{k}|prior_{r}m" for r in ("100", "20000") for k in (1, 5, 10)]
    ranks = scan(queries, gallery, rows).positive_ranks()
    assert [found[f"recall@{k}|prior_20000m"].mean() for k in (1, 5, 10)] == [np.mean(ranks < k) for k in (1, 5, 10)]
    near = near_rule_outcomes(queries, gallery, rows, query_positions=places, gallery_positions=tiles)
    assert list(near) == [f"recall_5m@{k}" for k in ("1", "5", "10", "1%")]
    assert near["recall_5m@1"].mean() <= near["recall_5m@1%"].mean() < near["recall_5m@10"].mean()
