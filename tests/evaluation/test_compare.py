"""Verdicts of comparisons, and the choice of a checkpoint."""

import dataclasses
import json

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.compare import Difference, choose_checkpoint, compare, format_comparison, select_best
from gengeo_hf.evaluation.intervals import Interval, paired_interval
from gengeo_hf.evaluation.protocols import find_protocol
from gengeo_hf.evaluation.results import Result, compute_result

from .test_tables import GALLERY, NOISE, truth


def difference(low, high, metric="recall@1", first=0.5, second=0.6):
    return Difference(metric, first, second, second - first, Interval(low, high))


@pytest.mark.parametrize(
    ("low", "high", "clear"),
    [
        (0.0, 0.2, False),
        (-0.2, 0.0, False),
        (-0.1, 0.1, False),
        (0.001, 0.2, True),
        (-0.2, -0.001, True),
        (0.5, 1.0, True),
    ],
)
def test_difference_is_clear_where_the_interval_excludes_zero(low, high, clear):
    assert difference(low, high).is_clear == clear


def test_difference_cannot_be_changed():
    found = difference(0.1, 0.2)
    assert found.is_clear
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.first = 1.0


def test_format_comparison_puts_the_primary_metric_first_with_its_verdict():
    rows = [difference(0.001, 0.2, "recall@5", 0.25, 0.35), difference(-0.2, -0.05, "within_25m", 0.75, 0.625)]
    lines = format_comparison(rows, "before", "a long name of 24 letters", "within_25m").splitlines()
    assert lines[:3] == [
        "                     before a long name of 2   difference (95 %)",
        "within_25m            75.00            62.50   -12.50 (-20.00 to -5.00)  worse",
        "recall@5              25.00            35.00   +10.00 (+0.10 to +20.00)",
    ]
    assert len(lines) == 4 and "within_25m is the primary metric" in lines[3] and "not corrected" in lines[3]
    for low, verdict in ((0.05, "better"), (-0.05, "within the noise")):
        lines = format_comparison([difference(low, 0.2)], "a", "b").splitlines()
        assert len(lines) == 2 and lines[1].endswith(f"  {verdict}")


def result(tmp_path, file, noise=1.0, by="cvusa@validation", seed=0, **changes):
    """Result on random descriptors, with some values of its rules, settings and data changed."""
    model = {"name": f"model-{noise:g}", "fingerprint": "0" * 64, "trained_on": "cvusa"}
    found = compute_result(
        GALLERY[:90] + noise * NOISE, GALLERY, truth(), find_protocol(by), model=model, settings={"seed": seed}
    )
    summary = json.loads(json.dumps(found.summary))
    for part, values in changes.items():
        summary[part] |= values
    return Result(summary, found.queries).save(tmp_path / file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": {"name": "other"}}, r"different protocols \(cvusa@validation and other\)"),
        ({"dataset": {"fingerprint": "1" * 64}}, "different datasets .* and 1{24}"),
        ({"rules": {"ties": "mid"}}, r"different tie rules \(pessimistic and mid\)"),
        ({"rules": {"rounding": "ceil"}}, r"different rounding rules \(floor and ceil\)"),
        ({"settings": {"images": {"ground": "x"}}}, r"different images \(None and "),
    ],
)
def test_compare_of_results_by_other_rules_raises_an_error(tmp_path, changes, message):
    first, second = result(tmp_path, "a.json"), result(tmp_path, "b.json", **changes)
    with pytest.raises(GenGeoError, match=message):
        compare(first, second)


def test_compare_checks_the_seed_only_where_headings_are_random(tmp_path):
    first, second = result(tmp_path, "a.json"), result(tmp_path, "b.json", seed=1)
    assert compare(first, second)[0].difference == 0
    unknown = "cvusa@validation-fov90-unknown"
    first, second = (result(tmp_path, f"{seed}.json", by=unknown, seed=seed) for seed in (0, 1))
    with pytest.raises(GenGeoError, match=r"different headings \(seeds 0 and 1\)"):
        compare(first, second)
    assert compare(first, result(tmp_path, "c.json", by=unknown))[0].difference == 0


def test_compare_of_other_queries_raises_an_error(tmp_path):
    first, second = result(tmp_path, "a.json"), result(tmp_path, "b.json")
    loaded = Result.load(second)
    Result(loaded.summary, loaded.queries.take([1, 0, *range(2, 90)])).save(second)
    with pytest.raises(GenGeoError, match="hold different queries"):
        compare(first, second)


def test_compare_gives_second_minus_first_with_the_interval_over_the_same_queries(tmp_path):
    first, second = result(tmp_path, "a.json", noise=2.0), result(tmp_path, "b.json", noise=1.0)
    row = next(row for row in compare(first, second) if row.metric == "recall@5")
    before, after = (Result.load(path).outcomes["recall@5"] for path in (first, second))
    assert (row.first, row.second) == (before.mean(), after.mean()) and row.second > row.first
    expected = paired_interval(after - before, Result.load(first).groups)
    assert (row.difference, row.interval) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert row.is_clear == (row.interval.low > 0)


def test_select_best_on_different_sets_raises_an_error(tmp_path):
    other = result(tmp_path, "b.json", dataset={"fingerprint": "1" * 64})
    summaries = [Result.load(path).summary for path in (result(tmp_path, "a.json"), other)]
    with pytest.raises(GenGeoError, match="the results are on 2 different sets"):
        select_best(summaries)


def test_choose_checkpoint_lists_results_from_the_best_to_the_worst(tmp_path):
    paths = [result(tmp_path, f"{noise:g}.json", noise) for noise in (2.0, 1.02, 1.0, 4.0)]
    shares = {path: np.mean(Result.load(path).outcomes["recall@1"]) for path in paths}
    assert shares[paths[2]] > shares[paths[1]] > shares[paths[0]] > shares[paths[3]]
    lines = choose_checkpoint(paths).splitlines()
    notes = ["", "within the noise of the best", "clearly worse", "clearly worse"]
    for line, path, note in zip(lines, [paths[2], paths[1], paths[0], paths[3]], notes, strict=False):
        assert line == f"{'model-' + path.stem:24} {100 * shares[path]:6.2f} %  {path}  {note}".rstrip()
    assert lines[4:] == [f"best by recall@1: {paths[2]}"]
    assert choose_checkpoint(paths, "recall@10").splitlines()[-1].startswith("best by recall@10: ")
