"""`evaluate` by every published protocol, on directories with the benchmarks' layout and placeholder images."""

import dataclasses
import warnings

import numpy as np
import pytest

from gengeo_hf.data import load_pairs
from gengeo_hf.evaluation.compare import choose_checkpoint
from gengeo_hf.evaluation.protocols import (
    Protocol,
    default_protocol,
    find_protocol,
    fov_shown,
    protocol_names,
    view_headings,
)
from gengeo_hf.evaluation.run import evaluate as evaluate_model
from gengeo_hf.evaluation.tables import build_table, render
from tests.data.folders import make_cvact, make_cvusa, make_vigor

MAKERS = {"cvusa": make_cvusa, "cvact": lambda root: make_cvact(root)[0], "vigor": make_vigor}
SIZES = {
    "cvusa": (20, 20),
    "cvact-val": (12, 12),
    "cvact-test": (32, 32),
    "vigor-same": (68, 192),
    "vigor-cross": (70, 96),
}
BENCHMARKS = [name for name in protocol_names() if find_protocol(name).dataset.split("-")[0] in MAKERS]
QUICK = ("cvusa-to-cvact", "cvact-test", "vigor-cross")


@pytest.fixture
def evaluate(tiny_checkpoint, tmp_path):
    def run(protocol, out=None, **more):
        rules = find_protocol(protocol)
        family = rules.dataset.split("-")[0]
        root = tmp_path / family
        if not root.exists():
            MAKERS[family](root)
        file = tmp_path / (out or f"{protocol}.json")
        result = evaluate_model(tiny_checkpoint, f'{rules.dataset} "{root}"', protocol, device="cpu", **more)
        return result.summary, result.save(file)

    return run


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BENCHMARKS]
)
def test_evaluate_by_a_published_protocol_uses_its_queries_and_gallery(evaluate, name):
    summary, file = evaluate(name)
    protocol = find_protocol(name)
    key = protocol.dataset if protocol.dataset in SIZES else f"cvact-{protocol.split}"
    assert (summary["dataset"]["queries"], summary["dataset"]["gallery"]) == SIZES[key]
    assert summary["dataset"]["complete"] is False and "NOT COMPARABLE" in render(table_of(name, file))
    assert ("hit_rate_code" in summary["metrics"]) == protocol.dataset.startswith("vigor")
    assert ("recall_5m@1" in summary["metrics"]) == (name == "cvact-test")
    if protocol.dataset.startswith("vigor"):
        assert len(summary["areas"]) == {"vigor-same": 4, "vigor-cross": 2}[protocol.dataset]


def table_of(name, file):
    number = next(
        n for n in (2, 3, 4, 5) if any(g in (name, name.rpartition("-")[0]) for g, _ in build_table(n).groups)
    )
    return build_table(number, [file])


@pytest.mark.parametrize("dataset", ["cvusa", pytest.param("vigor-same", marks=pytest.mark.slow)])
def test_choose_checkpoint_uses_the_validation_split(evaluate, dataset, tmp_path):
    first, path = evaluate(f"{dataset}@validation", out="a.json")
    _, other = evaluate(f"{dataset}@validation", name="other", out="b.json")
    root = tmp_path / find_protocol(dataset).dataset.split("-")[0]
    training = set(load_pairs(dataset, root, split="train").queries["query_id"])
    picked_on = load_pairs(dataset, root, split="validation").queries["query_id"][:]
    assert first["dataset"]["queries"] == len(picked_on) and not training & set(picked_on)
    text = choose_checkpoint([path, other])
    assert "within the noise of the best" in text and text.endswith(f"best by recall@1: {path}")
    assert "Left out" in render(build_table(2, [path]))


def test_protocol_has_documented_defaults_and_limits_the_view_below_360_degrees():
    plain = Protocol("mine", "table", "test", (), None, None)
    assert (plain.ks, plain.rounding, plain.published_ties, plain.fov) == ((1, 5, 10), "floor", "sample4geo", 360)
    assert plain.heading == "known" and not plain.has_limited_view and not plain.trapezoid_ap
    assert dataclasses.replace(plain, fov=359).has_limited_view
    assert dataclasses.replace(plain, heading="unknown").has_limited_view


def test_protocol_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_protocol("cvusa").fov = 90


def test_protocol_is_restored_from_a_result_of_another_version():
    protocol = find_protocol("cvusa-fov90-unknown")
    assert Protocol.from_dict(protocol.as_dict() | {"later": 1}) == protocol
    assert protocol.with_rounding("floor") is protocol
    other = protocol.with_rounding("ceil")
    assert (other.name, other.rounding) == ("cvusa-fov90-unknown (1%: ceil)", "ceil")


@pytest.mark.parametrize(
    ("dataset", "split", "name"),
    [
        ("cvact", "val", "cvact-val"),
        ("cvact", "test", "cvact-test"),
        ("cvact", "validation", "cvact-val@validation"),
        ("cvusa", "test", "cvusa"),
        ("cvusa", "train", "cvusa:train"),
        ("table", "validation", "table@validation"),
        ("webdataset", "validation", "webdataset:validation"),
        ("webdataset", "test", "webdataset:test"),
    ],
)
def test_default_protocol_is_the_published_one_of_data_set_and_split(dataset, split, name):
    found = default_protocol(dataset, split)
    assert (found.name, found.dataset, found.split) == (name, dataset, split)
    if ":" in name:
        assert found.prior_radii_m == (250, 500, 1000) and (found.queries, found.gallery) == (None, None)
        assert found.note.startswith("Own data") == (split != "validation")


def test_view_headings_are_random_over_the_circle_only_where_the_heading_is_unknown():
    found = view_headings(find_protocol("cvusa-fov360-unknown"), 20_000, seed=1)
    assert found.shape == (20_000,) and 0 <= found.min() < 0.1 and 359.9 < found.max() < 360
    assert np.histogram(found, 36, (0, 360))[0].min() > 400
    again = view_headings(find_protocol("cvusa-fov90-unknown"), 20_000, seed=1)
    assert np.array_equal(found, again)
    assert view_headings(find_protocol("cvusa-fov90-known"), 5, seed=1) is None
    assert view_headings(find_protocol("cvusa"), 5, seed=1) is None


def test_fov_shown_warns_where_whole_patches_change_the_field_of_view():
    protocol = find_protocol("world-urban-fov70-unknown")
    with pytest.warns(UserWarning, match=r"world-urban-fov70-unknown: crops of 70 degrees show 60 degrees.*of 14 of"):
        assert fov_shown(protocol, 168, 14) == 60
    with warnings.catch_warnings(action="error"):
        assert fov_shown(protocol, 770, 14) == pytest.approx(72)  # 11 of 55 patches
        assert fov_shown(find_protocol("world-urban-fov90-unknown"), 168, 14) == 90
