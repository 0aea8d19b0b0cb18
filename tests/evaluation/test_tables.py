"""Published tables, our rows, comparisons and the choice of a checkpoint."""

import csv
import dataclasses
import io
from dataclasses import replace

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.compare import compare, format_comparison, refuse_reported_split, select_best
from gengeo_hf.evaluation.ground_truth import GroundTruth
from gengeo_hf.evaluation.protocols import find_protocol, protocol_names
from gengeo_hf.evaluation.results import Result, compute_result
from gengeo_hf.evaluation.tables import Table, build_results_table, build_table, render, table_numbers

from .test_ranks import unit

generator = np.random.default_rng(21)
GALLERY = unit(generator, 120, 16)
NOISE = unit(generator, 90, 16)


def truth(areas=2):
    places = np.stack([60 + np.arange(120) * 1e-3, np.full(120, 25.0)], axis=1)
    return GroundTruth(
        "random/test",
        [f"q{n}" for n in range(90)],
        [f"t{n}" for n in range(120)],
        np.arange(90),
        (np.arange(90)[:, None] + np.array([1, 2])) % 120,
        places[:90] + 1e-4,
        places,
        [f"area {n % areas}" for n in range(90)],
    )


def result(tmp_path, file="a.json", noise=1.0, name="mine", protocol="cvusa", complete=True, trained_on="cvusa"):
    rules = find_protocol(protocol)
    if complete:
        rules = replace(rules, queries=90, gallery=120)
    model = {"name": name, "fingerprint": "0" * 64, "trained_on": trained_on}
    found = compute_result(GALLERY[:90] + noise * NOISE, GALLERY, truth(), rules, model=model)
    return found, found.save(tmp_path / file)


def test_published_rows_fit_their_columns_and_known_cells_are_right():
    assert table_numbers() == list(range(2, 10))
    for number in table_numbers():
        table = build_table(number)
        assert all(len(values) == sum(len(m) for _, m in table.groups) for _, values in table.rows)
        assert all(value is None or 0 <= value <= 100 for _, values in table.rows for value in values)
        assert "Remote Sensing 2026" in render(table)
        for _, values in table.rows:  # recall rises with k inside each group
            for start in range(0, 4 * (len(values) // 4), 4):
                if len(values) in (8, 12):
                    rising = [v for v in values[start : start + 4] if v is not None]
                    assert rising == sorted(rising)
    cells = {(n, row): values for n in table_numbers() for row, values in build_table(n).rows}
    assert cells[2, "GenGeo (paper)"] == [
        98.94,
        99.73,
        99.82,
        99.91,
        90.63,
        96.52,
        97.33,
        98.55,
        71.92,
        92.53,
        94.40,
        98.67,
    ]
    assert cells[3, "GenGeo (paper)"][4] == 91.15
    assert cells[5, "Sample4Geo"][3] == 3.12
    assert cells[7, "SALAD, no dustbin"][4] == 67.14


def test_build_table_adds_our_row_in_percent_in_every_format(tmp_path):
    found, path = result(tmp_path)
    expected = f"{100 * found.summary['metrics']['recall@1']:.2f}"
    table = build_table(2, [path])
    assert table.rows[-1][0] == "mine (ours)"
    assert table.rows[-1][1][4:] == [None] * 8
    assert f"| mine (ours) | {expected} |" in render(table, "md")
    assert f"mine (ours) & {expected} &" in render(table, "latex")
    rows = list(csv.reader(io.StringIO(render(table, "csv"))))
    assert rows[0][1] == "cvusa recall@1" and rows[6][0] == "mine (ours)" and f"{float(rows[6][1]):.2f}" == expected
    with pytest.raises(GenGeoError, match="format must be"):
        render(table, "word")
    with pytest.raises(GenGeoError, match="no table 1"):
        build_table(1)


def test_build_table_notes_or_leaves_out_results_that_are_not_comparable(tmp_path):
    _, part = result(tmp_path, complete=False, trained_on="world-urban")
    _, other = result(tmp_path, "b.json", protocol="world-urban")
    text = render(build_table(2, [part, other]))
    assert "mine (ours)[1][2]" in text
    assert "[1] cvusa: NOT COMPARABLE, on 90 queries and 120 tiles instead of 8,884 and 8,884" in text
    assert "[2] cvusa: NOT COMPARABLE, the model was trained on world-urban instead of cvusa" in text
    assert "Left out: b.json was evaluated by the protocol world-urban" in text
    with pytest.raises(GenGeoError, match="--name"):
        build_table(2, [part, result(tmp_path, "c.json")[1], result(tmp_path, "d.json", noise=2)[1]])
    vigor = result(tmp_path, "v.json", protocol="cvusa-to-vigor-same")[1]
    assert "ours is the protocol cvusa-to-vigor-same" in render(build_table(5, [vigor]))


def test_render_escapes_the_name_of_the_model(tmp_path):
    table = build_table(2, [result(tmp_path, name=r"a|b_50%~{x}^\y")[1]])
    row = render(table, "md").splitlines()[9]
    assert len(row.replace(r"\|", "").split("|")) == 15 and r"a\|b_50%" in row
    assert r"a|b\_50\%\textasciitilde{}\{x\}\textasciicircum{}\textbackslash{}y (ours) & " in render(table, "latex")
    assert list(csv.reader(io.StringIO(render(table, "csv"))))[6][0] == r"a|b_50%~{x}^\y (ours)"


def test_build_table_of_a_collapsed_model_notes_the_tie_rule(tmp_path):
    same = np.ones((120, 4), np.float32)
    rules = replace(find_protocol("cvusa"), queries=90, gallery=120)
    model = {"name": "collapsed", "fingerprint": "", "trained_on": "cvusa"}
    path = compute_result(same[:90], same, truth(), rules, model=model).save(tmp_path / "x.json")
    text = render(build_table(2, [path]))
    assert "collapsed (ours)[1] | 100.00" in text
    assert "with ties against it R@1 is 0.00" in text


def test_result_holds_breakdowns_by_area_and_offset(tmp_path):
    summary = result(tmp_path, protocol="world-urban")[0].summary
    assert set(summary["areas"]) == {"area 0", "area 1"}
    assert sum(group["num_queries"] for group in summary["offsets"].values()) == 90
    assert summary["metrics"]["recall@1|prior_250m"] >= summary["metrics"]["recall@1"]
    low, high = summary["intervals"]["recall@1"]
    assert low < summary["metrics"]["recall@1"] < high
    assert "recall_5m@1" in result(tmp_path, protocol="cvact-test")[0].summary["metrics"]


def test_build_results_table_puts_any_results_side_by_side(tmp_path):
    _, one = result(tmp_path, "one.json", name="first", protocol="table")
    _, two = result(tmp_path, "two.json", name="second", protocol="table", noise=2.0)
    _, three = result(tmp_path, "three.json", name="first", protocol="world-rural")
    table = build_results_table([one, two, three])
    assert [name for name, _ in table.rows] == ["first", "second"] and len(table.groups) == 2
    found = Result.load(one).metrics
    metrics = table.groups[0][1]
    assert table.rows[0][1][: len(metrics)] == [pytest.approx(100 * found[metric]) for metric in metrics]
    assert table.rows[1][1][len(metrics) :] == [None] * len(table.groups[1][1])
    assert "R@1" in render(table) and "90 queries, 120 tiles" in render(table)
    with pytest.raises(GenGeoError, match="name the models apart"):
        build_results_table(
            [one, one.with_name("one.json"), result(tmp_path, "x.json", name="first", protocol="table")[1]]
        )
    with pytest.raises(GenGeoError, match="needs result files"):
        build_results_table([])


def test_average_precision_trapezoid_equals_the_script_of_university1652(tmp_path):
    """Compare with a loop over the hits, as in the script."""
    found, _ = result(tmp_path, protocol="university1652", complete=False)
    ranks = found.queries["rank"].to_numpy()
    semi = np.array([len(row) for row in found.queries["semi_positives"].to_pylist()])
    assert (semi == 2).all()
    scores = (GALLERY[:90] + NOISE) @ GALLERY.T
    expected = []
    for query, row in enumerate(scores):
        right = {query, (query + 1) % 120, (query + 2) % 120}
        order = np.argsort(-row, kind="stable")
        hits = [place for place, tile in enumerate(order) if tile in right]
        ap = 0.0
        for number, place in enumerate(hits):
            precision = (number + 1) / (place + 1)
            before = number / place if place != 0 else 1.0
            ap += (before + precision) / 2 / len(hits)
        expected.append(ap)
    assert found.metrics["average_precision_trapezoid"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert found.metrics["one_percent_k"] == round(0.01 * 120) + 1 and len(ranks) == 90


def test_format_comparison_gives_a_verdict_only_for_the_primary_metric(tmp_path):
    _, good = result(tmp_path, "good.json", noise=1.0)
    _, bad = result(tmp_path, "bad.json", noise=2.0, name="worse")
    text = format_comparison(compare(good, bad), "good", "bad", "recall@5")
    verdicts = [line for line in text.splitlines() if line.endswith(("better", "worse", "within the noise"))]
    assert len(verdicts) == 1 and verdicts[0].startswith("recall@5") and "not corrected" in text
    with pytest.raises(GenGeoError, match="there is no metric 'luck'"):
        format_comparison(compare(good, bad), "good", "bad", "luck")


def test_compare_separates_a_gain_from_noise(tmp_path):
    _, good = result(tmp_path, "good.json", noise=1.0)
    _, bad = result(tmp_path, "bad.json", noise=2.0, name="worse")
    rows = {row.metric: row for row in compare(good, bad)}
    assert rows["recall@1"].is_clear and rows["recall@1"].difference < 0
    assert "worse" in format_comparison(list(rows.values()), "good", "bad")
    same = {row.metric: row for row in compare(good, good)}
    assert not same["recall@1"].is_clear and same["recall@1"].difference == 0
    with pytest.raises(GenGeoError, match="different protocols"):
        compare(good, result(tmp_path, "c.json", protocol="world-urban")[1])
    good.with_suffix(".queries.parquet").write_bytes(b"cut off")
    with pytest.raises(GenGeoError, match=r"good\.queries\.parquet"):
        compare(good, bad)
    for text in ("{}", '{"format": 1, "fingerprint": "0", "dim": 24}'):  # the second is the start of an ONNX manifest
        good.write_text(text)
        with pytest.raises(GenGeoError, match=r"gengeo evaluate"):
            compare(good, bad)


def test_select_best_on_a_reported_split_raises_an_error(tmp_path):
    summaries = [result(tmp_path, noise=noise)[0].summary for noise in (3.0, 1.0, 2.0)]
    with pytest.raises(GenGeoError, match="must not be chosen on the split 'test'"):
        select_best(summaries)
    for summary in summaries:
        summary["protocol"]["split"] = "validation"
    assert select_best(summaries) == select_best(summaries, "within_25m") == 1
    for unfit in ("median_error_m", "num_queries", "recall@3"):  # less is better; not a share; does not exist
        with pytest.raises(GenGeoError, match=f"'{unfit}' cannot choose a checkpoint.*recall@1, "):
            select_best(summaries, unfit)
    with pytest.raises(GenGeoError, match="'val'"):
        refuse_reported_split("val")
    with pytest.raises(GenGeoError, match="no result"):
        select_best([])


def test_find_protocol_reads_every_protocol_and_its_limited_views():
    for name in protocol_names():
        plain, limited = find_protocol(name), find_protocol(f"{name}-fov70-unknown")
        assert not plain.has_limited_view and limited.has_limited_view and limited.fov == 70
        assert plain.split in ("test", "val") and (plain.trained_on or plain.queries is None)
        assert find_protocol(f"{name}@validation-fov90-known").split == "validation"
    with pytest.raises(GenGeoError, match="known are cvusa"):
        find_protocol("cvusa-fov90")
    columns = {name for number in table_numbers() for name, _ in build_table(number).groups}
    assert columns - set(protocol_names()) == {"cvusa-to-vigor"}  # the paper does not state which of two it uses


TABLE = Table(
    "Table 1: a_b (percent)",
    [("one", ["recall@1", "hit_rate_code"]), ("two", ["recall@1%", "recall@1", "other"])],
    [("first", [1.0, None, 98.765, 0.0, 100.0]), ("a|b (ours)[1]", [12.3456, 5.0, None, None, 1.5])],
    ["A source & more.", "[1] a note"],
)


def test_render_as_markdown_has_one_header_row_and_notes():
    assert render(TABLE) == (
        "**Table 1: a_b (percent)**\n\n"
        "| method | one R@1 | one Hit | two R@1% | two R@1 | two other |\n|---|---:|---:|---:|---:|---:|\n"
        "| first | 1.00 | - | 98.77 | 0.00 | 100.00 |\n| a\\|b (ours)[1] | 12.35 | 5.00 | - | - | 1.50 |\n\n"
        "- A source & more.\n- [1] a note\n"
    )


def test_render_as_latex_has_a_rule_under_each_group():
    assert render(TABLE, "latex").splitlines() == [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\caption{Table 1: a\\_b (percent)}",
        "\\begin{tabular}{lrrrrr}",
        "\\toprule",
        " & \\multicolumn{2}{c}{one} & \\multicolumn{3}{c}{two} \\\\",
        "\\cmidrule(lr){2-3} \\cmidrule(lr){4-6}",
        "method & R@1 & Hit & R@1\\% & R@1 & other \\\\",
        "\\midrule",
        "first & 1.00 & - & 98.77 & 0.00 & 100.00 \\\\",
        "a|b (ours)[1] & 12.35 & 5.00 & - & - & 1.50 \\\\",
        "\\bottomrule",
        "\\end{tabular}",
        "\\par\\footnotesize A source \\& more.",
        "\\par\\footnotesize [1] a note",
        "\\end{table}",
    ]


def test_render_as_csv_has_four_decimals_and_empty_cells():
    assert render(TABLE, "csv").splitlines() == [
        "method,one recall@1,one hit_rate_code,two recall@1%,two recall@1,two other",
        "first,1.0000,,98.7650,0.0000,100.0000",
        "a|b (ours)[1],12.3456,5.0000,,,1.5000",
        "# A source & more.",
        "# [1] a note",
    ]


def test_table_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build_table(2).title = ""


def sized(tmp_path, file, ground, aerial, **more):
    """Result at given image sizes, as height and width."""
    _, path = result(tmp_path, file, **more)
    loaded = Result.load(path)
    sizes = {view: {"height": h, "width": w} for view, (h, w) in (("ground", ground), ("aerial", aerial))}
    settings = {"settings": loaded.summary["settings"] | {"view_sizes": sizes}}
    return Result(loaded.summary | settings, loaded.queries).save(path)


def test_build_table_numbers_the_notes_of_each_row_and_shares_equal_ones(tmp_path):
    small = sized(tmp_path, "a.json", (70, 280), (98, 112), name="a")
    whole = sized(tmp_path, "b.json", (154, 770), (392, 392), name="b")
    again = sized(tmp_path, "c.json", (70, 280), (98, 112), name="c", trained_on=None)
    table = build_table(2, [small, whole, again])
    assert [name for name, _ in table.rows[-3:]] == ["a (ours)[1]", "b (ours)", "c (ours)[1][2]"]
    published = build_table(2)
    assert (
        table.notes[: len(published.notes)] == published.notes and table.rows[: len(published.rows)] == published.rows
    )
    assert table.notes[len(published.notes) :] == [
        "[1] cvusa: at 70x280 and 98x112 pixels; the paper's are at 154x770 and 392x392.",
        "[2] cvusa: NOT COMPARABLE, the model was trained on unknown data instead of cvusa.",
    ]
    _, path = result(tmp_path, "d.json", name="d", protocol="cvact-val", trained_on="cvact")
    (row,) = (values for name, values in build_table(2, [path]).rows if name == "d (ours)")
    metrics = Result.load(path).summary["metrics_by_ties"]["sample4geo"]
    expected = [100 * metrics[name] for name in ("recall@1", "recall@5", "recall@10", "recall@1%")]
    assert row == [None] * 4 + pytest.approx(expected).expected + [None] * 4


def test_build_table_of_a_protocol_without_published_sizes_says_so(tmp_path):
    path = sized(tmp_path, "v.json", (70, 280), (98, 112), protocol="cvusa-to-vigor-same")
    notes = build_table(5, [path]).notes
    sizes = "at 70x280 and 98x112 pixels; the paper's are at sizes that it does not state."
    assert any(note.endswith(f"cvusa-to-vigor-same: {sizes}") for note in notes)


def test_build_results_table_states_rules_and_names_groups_by_data_and_protocol(tmp_path):
    _, one = result(tmp_path, "one.json", name="first", protocol="table", complete=False)
    _, two = result(tmp_path, "two.json", name="second", protocol="table", complete=False)
    _, three = result(tmp_path, "three.json", name="second", protocol="cvusa", complete=False)
    table = build_results_table([one, two, three])
    named, other = (name for name, _ in table.groups)
    assert (named, other) == ("random/test (table)", "random/test (cvusa)") and table.title == "Results (percent)"
    assert table.notes == [
        f"{named}: 90 queries, 120 tiles; ties pessimistic, R@1% rounded by floor",
        f"{other}: 90 queries, 120 tiles; ties pessimistic, R@1% rounded by floor; NOT the whole published set",
    ]
    metrics = dict(table.groups)[named]
    assert metrics[:5] == ["recall@1", "recall@5", "recall@10", "recall@1%", "hit_rate_code"]
    assert metrics[5:] == ["within_25m", "within_50m", "within_100m"]
    found = Result.load(three).metrics
    (row,) = (values for name, values in table.rows if name == "second")
    assert row[len(metrics) :] == [100 * found[metric] for metric in dict(table.groups)[other]]
    first = next(values for name, values in table.rows if name == "first")
    assert first[len(metrics) :] == [None] * len(dict(table.groups)[other])


def test_build_results_table_names_a_group_by_the_protocol_of_its_data(tmp_path):
    _, path = result(tmp_path, protocol="cvusa", complete=False)
    loaded = Result.load(path)
    named = Result(loaded.summary | {"dataset": loaded.summary["dataset"] | {"name": "cvusa/test"}}, loaded.queries)
    assert [name for name, _ in build_results_table([named.save(path)]).groups] == ["cvusa"]
