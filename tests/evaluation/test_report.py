"""Groups of failures, strips, curves, and the report with all of them."""

import dataclasses
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.statistics import wilson
from gengeo_hf.data.views import limited_fov
from gengeo_hf.evaluation import pictures, plots, report
from gengeo_hf.evaluation.failures import GROUPS, group_failures, tile_labels
from gengeo_hf.evaluation.intervals import Groups
from gengeo_hf.evaluation.protocols import find_protocol
from gengeo_hf.evaluation.results import Result, compute_result

from .test_tables import GALLERY, NOISE, truth


def outcome(rank, error, best, own):
    return {"rank": rank, "error_m": error, "top_scores": [best, best - 0.1], "positive_score": own}


def test_group_failures_groups_by_distance_and_rank_with_the_largest_margins_first():
    queries = pa.Table.from_pylist(
        [
            outcome(0, 3.0, 0.9, 0.9),  # found
            outcome(2, 60.0, 0.8, 0.7),  # near miss
            outcome(4, 60.0, 0.9, 0.5),  # near miss, larger margin
            outcome(3, 5000.0, 0.9, 0.8),  # look-alike
            outcome(10, 5000.0, 0.9, 0.8),  # lost
            outcome(1, float("nan"), 0.9, 0.8),  # position unknown
            outcome(1, 100.0, 0.9, 0.89),  # near miss, on the bound
        ]
    )
    found = {name: rows.tolist() for name, rows in group_failures(queries).items()}
    assert found == {"near miss": [2, 1, 6], "look-alike far away": [3], "lost": [4], "unplaced": [5]}
    assert list(found) == list(GROUPS)
    assert group_failures(queries, near_m=10, close_rank=3)["lost"].tolist() == [2, 3, 4]
    with pytest.raises(GenGeoError, match="lacks rank"):
        group_failures(queries.drop_columns(["rank"]))


def test_tile_labels_are_right_semi_and_wrong():
    row = {"positive": "b", "semi_positives": ["c"], "top_tiles": ["a", "b", "c", ""]}
    assert tile_labels(pa.Table.from_pylist([row]), 0) == ["wrong", "right", "semi"]


def test_strip_frames_each_tile_in_the_colour_of_its_label():
    tile, photo = Image.new("RGB", (50, 50), "black"), np.zeros((20, 100, 3), np.uint8)
    shown = pictures.strip(photo, [tile] * 4, ["right", "semi", "wrong", ""], tile_side=100)
    pixels = np.asarray(shown).astype(int)
    for label, colour in pictures.COLOURS.items():
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        columns = np.nonzero((np.abs(pixels - wanted) < 8).all(axis=2).any(axis=0))[0]
        place = list(pictures.COLOURS).index(label)
        left = shown.width - (4 - place) * (100 + 14)
        assert left - 2 <= columns.min() and columns.max() <= left + 102, label
        assert len(columns) > 90, label  # the frame runs along the whole tile
    apart = pictures.strip(photo, [tile] * 4, [""] * 4, tile_side=100, true_tile=(tile, "true tile"))
    assert apart.width == shown.width + 100 + 2 * 14
    with pytest.raises(GenGeoError, match="2 labels for 1 tiles"):
        pictures.strip(photo, [tile], ["right", "wrong"])
    with pytest.raises(GenGeoError, match="unknown label 'maybe'"):
        pictures.strip(photo, [tile], ["maybe"])


@pytest.mark.parametrize(("fov", "heading"), [(360, 0.0), (360, 90.0), (180, 270.0), (90, 45.0), (70, 359.0)])
def test_crop_panorama_equals_the_crop_of_the_model(fov, heading):
    panorama = np.random.default_rng(0).integers(0, 256, (5, 360, 3), dtype=np.uint8)
    expected = limited_fov(torch.from_numpy(panorama).permute(2, 0, 1)[None], fov, torch.tensor([heading]))
    assert np.array_equal(
        np.asarray(pictures.crop_panorama(panorama, fov, heading)), expected[0].permute(1, 2, 0).numpy()
    )


def test_curves_hold_the_recalls_and_errors_of_the_data():
    ranks = np.random.default_rng(0).integers(0, 50, 200)
    curve = plots.recall_curve({"mine": ranks}, gallery_sizes={"mine": 50}, most=50).axes[0].lines
    for k, value in zip(*curve[0].get_data(), strict=True):
        assert value == pytest.approx(100 * np.mean(ranks < k))
    np.testing.assert_allclose(curve[1].get_ydata(), 2 * curve[1].get_xdata())  # chance: k of 50
    low, high = wilson(np.array([0.0, 1.0]), 10)
    assert low[0] == pytest.approx(0) and high[0] > 0.2 and high[1] == pytest.approx(1)  # no zero width at the ends
    streets = Groups(np.repeat(np.arange(20), 10), "streets")
    alike = np.repeat(ranks[:20], 10)  # 20 streets of equal photos count as 20 photos
    heights = []
    for groups in (None, {"": streets}):
        band = plots.recall_curve({"": alike}, gallery_sizes={"": 50}, groups=groups, most=50).axes[0].collections[0]
        edge = band.get_paths()[0].vertices[:, 1]  # start, lower edge, end, upper edge from the right, start
        count = (len(edge) - 3) // 2
        heights.append((edge[count + 2 : -1][::-1] - edge[1 : count + 1]).mean())
    assert heights[1] > 1.8 * heights[0]
    errors = np.array([0.5, 3.0, 30.0, 3000.0, np.nan])
    place, share = plots.error_curve({"mine": errors}).axes[0].lines[0].get_data()
    for limit in (5, 100, 4000):
        assert share[place <= limit][-1] == pytest.approx(25 * np.sum(errors <= limit))
    lost, unknown = np.array([3.0, np.inf]), np.array([np.nan])
    lines = plots.error_curve({"half without an answer": lost, "no positions": unknown}).axes[0].lines
    assert [line.get_ydata()[-1] for line in lines] == [50, 0]
    assert [pictures.format_distance(m) for m in (34.6, 4230, 250_000, np.inf)] == [
        "35 m",
        "4.2 km",
        "250 km",
        "nowhere",
    ]


def test_error_map_has_a_panel_for_each_of_the_largest_areas_and_counts_answers_outside():
    lat, lon = np.r_[np.full(5, 10.0), np.full(3, 50.0)], np.linspace(20, 20.01, 8)
    to_lat = lat.copy()
    to_lat[[0, 5]] += [1e-4, -40]  # one wrong answer nearby, one in the other city
    error = np.where(np.arange(8) % 5 == 0, 500.0, 1.0)
    axes = plots.error_map(lat, lon, to_lat, lon, error, areas=["a"] * 5 + ["b"] * 3).axes
    titles = [a.get_title(loc="left") for a in axes]
    assert titles == ["a: 4 found, 1 lost", "b: 2 found, 1 lost (1 answers outside this map)"]
    assert len(plots.error_map(lat, lon, to_lat, lon, error, areas=[None] * 8).axes) == 1
    error[5:] = np.nan  # unknown positions in the second city
    axes = plots.error_map(lat, lon, to_lat, lon, error, areas=["a"] * 5 + ["b"] * 3).axes
    assert [a.get_title(loc="left") for a in axes] == titles[:1]


@pytest.fixture
def paths(tmp_path):
    rules = replace(find_protocol("world-urban"), queries=90, gallery=120)
    model = {"name": "mine", "fingerprint": "", "trained_on": "world-urban"}
    return [
        compute_result(GALLERY[:90] + noise * NOISE, GALLERY, truth(), rules, model=model).save(
            tmp_path / f"{noise}.json"
        )
        for noise in (2.0, 0.5)
    ]


def test_write_report_shows_every_group_with_its_size(paths, tmp_path):
    requests = []

    def image(which, side):
        return lambda name: (requests.append((which, name)), Image.new("RGB", side, "gray"))[1]

    files = report.write_report(
        paths, tmp_path / "out", report.Images(image("q", (90, 30)), image("t", (40, 40))), num_strips=2
    )
    groups = group_failures(Result.load(paths[0]).queries)
    assert {f.name for f in files} == {
        "index.html",
        "recall.png",
        "errors.png",
        "map.png",
        "strips-found.png",
        *(f"strips-{name.replace(' ', '-')}.png" for name in groups),
    }
    for file in files[1:]:
        with Image.open(file) as opened:
            assert min(opened.size) > 100
    page = files[0].read_text()
    for name, rows in groups.items():
        assert f"{name[0].upper()}{name[1:]}: {len(rows)} (" in page
    assert sum(which == "q" for which, _ in requests) == sum(min(2, len(rows)) for rows in groups.values()) + 2
    plain = report.write_report(paths[1:], tmp_path / "plain")
    assert {f.name for f in plain} == {"index.html", "recall.png", "errors.png", "map.png"}
    with pytest.raises(GenGeoError, match="no result"):
        report.write_report([], tmp_path / "none")


def test_error_map_across_the_date_line_equals_that_elsewhere():
    generator = np.random.default_rng(0)
    lat, east = -17 + generator.uniform(0, 0.02, 12), generator.uniform(-0.01, 0.01, 12)
    error = np.where(np.arange(12) % 3, 10.0, 400.0)

    def drawn(middle):
        lon, to_lon = ((middle + east + shift + 180) % 360 - 180 for shift in (0, 0.004))
        panel = plots.error_map(lat, lon, lat, to_lon, error).axes[0]
        return panel.get_xlim(), [np.asarray(dots.get_offsets()) for dots in panel.collections[1:]]

    (here, dots), (there, others) = drawn(20.0), drawn(180.0)
    np.testing.assert_allclose(there, here, rtol=1e-6)
    for mine, theirs in zip(dots, others, strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-3)
    east_of_middle = (east - (east.min() + east.max()) / 2) * np.cos(np.radians(lat.mean())) * np.radians(6_371_008.8)
    apart = np.abs(np.concatenate(dots)[:, :1] - east_of_middle).min(axis=0)  # metres; answers are dots too
    assert apart.max() < 1 and np.ptp(east_of_middle) > 1000


@pytest.fixture
def quick(monkeypatch):
    """Do not render curves and strips, which takes most of the time of a report."""
    empty = Image.new("RGB", (200, 200))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **options: empty.save(file, "PNG"))
    monkeypatch.setattr(pictures, "strip", lambda *given, **more: Image.new("RGB", (200, 50)))


def altered(path, directory, file, **changes):
    """Copy of a result with some values of its summary changed."""
    loaded = Result.load(path)
    summary = loaded.summary | {key: loaded.summary[key] | values for key, values in changes.items()}
    return Result(summary, loaded.queries).save(directory / file)


@pytest.mark.parametrize(
    ("sizes", "most"), [((120, 120), 24), ((40, 500), 10), ((4000, 3000), 600), ((9000, 8000), 1000)]
)
def test_write_report_draws_recall_up_to_a_fifth_of_the_smaller_gallery(
    paths, quick, tmp_path, monkeypatch, sizes, most
):
    drawn = {}

    def curve(ranks, **options):
        drawn.update(options, labels=list(ranks))
        return plain(ranks, **options)

    plain = plots.recall_curve
    monkeypatch.setattr(plots, "recall_curve", curve)
    given = [
        altered(path, tmp_path, f"c{size}-{number}.json", dataset={"gallery": size})
        for number, (path, size) in enumerate(zip(paths, sizes, strict=True))
    ]
    report.write_report(given, tmp_path / "out")
    assert drawn["most"] == most and drawn["labels"] == ["mine (1)", "mine (2)"]
    assert drawn["gallery_sizes"] == dict(zip(drawn["labels"], sizes, strict=True))


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({}, ["mine (1)", "mine (2)"]),
        ({"protocol": {"name": "other"}}, ["mine, world-urban", "mine, other"]),
        ({"model": {"name": "b"}}, ["mine", "b"]),
    ],
)
def test_write_report_names_results_by_model_and_where_needed_by_protocol_or_number(
    paths, quick, tmp_path, monkeypatch, changes, labels
):
    drawn, plain = [], plots.error_curve
    monkeypatch.setattr(plots, "error_curve", lambda errors: (drawn.extend(errors), plain(errors))[1])
    report.write_report([paths[0], altered(paths[1], tmp_path, "b.json", **changes)], tmp_path / "out")
    assert drawn == labels


def test_write_report_states_metrics_groups_and_figures_on_the_page(paths, quick, tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(report, "write_page", lambda page, path: pages.append((page, path)))
    images = report.Images(lambda row: Image.new("RGB", (90, 30)), lambda tile: Image.new("RGB", (40, 40)))
    report.write_report(paths[:1], tmp_path / "out", images, num_strips=1)
    ((page, path),) = pages
    summary = Result.load(paths[0]).summary
    metrics, intervals = summary["metrics"], summary["intervals"]
    assert path == tmp_path / "out" / "index.html" and page.title == "mine on random/test"
    rows = {name: (value, interval) for name, value, interval in page.table.rows}
    low, high = intervals["recall@1"]
    assert rows["recall@1"] == (f"{100 * metrics['recall@1']:,.2f} %", f"{100 * low:,.2f} to {100 * high:,.2f}")
    low, high = intervals["median_error_m"]
    assert rows["median_error_m"] == (f"{metrics['median_error_m']:,.2f} m", f"{low:,.2f} to {high:,.2f}")
    names = ["recall@1", "recall@5", "hit_rate_code", "median error"]
    assert [name for _, name in page.headline] == names
    assert [value for value, _ in page.headline[:3]] == [f"{100 * metrics[name]:.1f} %" for name in names[:3]]
    curves, strips = page.sections
    assert (curves.side_by_side, strips.side_by_side, len(curves.figures)) == (True, False, 3)
    assert [figure.caption.split()[0] for figure in curves.figures] == ["Share", "Distance", "mine:"]
    groups = group_failures(Result.load(paths[0]).queries)
    assert [figure.caption.split(":")[0] for figure in strips.figures] == ["found", *groups]
    with pytest.raises(dataclasses.FrozenInstanceError):
        images.photo = None


def test_write_report_draws_by_default_five_strips_of_each_group_with_the_clearest_first(paths, quick, tmp_path):
    asked = []
    images = report.Images(
        lambda row: (asked.append(row), Image.new("RGB", (90, 30)))[1], lambda tile: Image.new("RGB", (40, 40))
    )
    report.write_report(paths[:1], tmp_path / "out", images)
    table = Result.load(paths[0]).queries
    rank, scores = table["rank"].to_numpy(), np.array(table["top_scores"].to_pylist())
    found = np.nonzero(rank == 0)[0]
    margin = scores[found, 0] - scores[found, 1]
    assert len(found) > 5 and asked[:5] == found[np.argsort(-margin, kind="stable")][:5].tolist()
    groups = group_failures(table)
    assert len(asked) == 5 + sum(min(5, len(rows)) for rows in groups.values())


def test_write_report_of_unknown_positions_has_no_map_and_of_one_tile_no_margin(paths, quick, tmp_path):
    loaded = Result.load(paths[0])
    count = loaded.queries.num_rows
    columns = {"error_m": pa.array([np.nan] * count), "top_scores": pa.array([[0.5]] * count)}
    queries = loaded.queries
    for name, values in columns.items():
        queries = queries.set_column(queries.column_names.index(name), name, values)
    unknown = Result(loaded.summary, queries).save(tmp_path / "u.json")
    files = report.write_report([unknown], tmp_path / "one")
    assert {file.name for file in files} == {"index.html", "recall.png"}
    files = report.write_report([unknown, paths[1]], tmp_path / "two")
    assert {file.name for file in files} == {"index.html", "recall.png", "errors.png"}
    columns["error_m"] = pa.array([10.0] + [np.nan] * (count - 1))
    queries = queries.set_column(queries.column_names.index("error_m"), "error_m", columns["error_m"])
    partly = Result(loaded.summary, queries).save(tmp_path / "p.json")
    files = report.write_report([partly], tmp_path / "three")
    assert {file.name for file in files} == {"index.html", "recall.png", "errors.png", "map.png"}


def test_group_failures_has_by_default_near_misses_up_to_100_metres_and_look_alikes_up_to_rank_10():
    queries = pa.Table.from_pylist(
        [outcome(1, 100.0, 0.9, 0.8), outcome(1, 100.5, 0.9, 0.8), outcome(9, 200.0, 0.9, 0.8)]
    )
    assert {name: rows.tolist() for name, rows in group_failures(queries).items()} == {
        "near miss": [0],
        "look-alike far away": [1, 2],
    }
