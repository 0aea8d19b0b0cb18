"""Results computed from a few descriptors, with every value of the table of queries known."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.evaluation.ground_truth import GroundTruth
from gengeo_hf.evaluation.intervals import median_interval
from gengeo_hf.evaluation.protocols import Protocol
from gengeo_hf.evaluation.results import Result, compute_result

SCORES = np.array(  # of three queries and seven tiles
    [[0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.9, 0.8, 0.3, 0.4, 0.0]],
    np.float32,
)
TILES = np.stack([60 + np.arange(7) * 0.001, 25 + np.arange(7) * 0.002], axis=1)
POSITIVE = np.array([0, 2, 6])
PROTOCOL = Protocol("mine", "few", "test", (), None, None)
MODEL = {"name": "stub", "fingerprint": "0" * 64, "trained_on": None}


def few(areas=("a", "b", "b"), queries=None, semi=None):
    at = TILES[POSITIVE] + [[0.0001, 0], [0, 0.0003], [0.0005, 0.0005]] if queries is None else queries
    ids = [f"q{n}" for n in range(3)], [f"t{n}" for n in range(7)]
    return GroundTruth("few/test", *ids, POSITIVE, semi, at, TILES, list(areas))


def computed(truth=None, protocol=PROTOCOL, **more):
    return compute_result(SCORES, np.eye(7, dtype=np.float32), truth or few(), protocol, **({"model": MODEL} | more))


def test_compute_result_writes_a_row_for_each_query():
    semi = np.array([[3, -1], [0, 1], [-1, -1]])
    found = computed(few(semi=semi)).queries.to_pydict()
    assert found["query_id"] == ["q0", "q1", "q2"] and found["area"] == ["a", "b", "b"]
    assert found["positive"] == ["t0", "t2", "t6"]
    assert found["semi_positives"] == [["t3"], ["t0", "t1"], []]
    assert found["rank"] == [0, 2, 6]
    assert found["top_tiles"] == [
        ["t0", "t6", "t5", "t4", "t3"],
        ["t0", "t1", "t2", "t3", "t4"],
        ["t2", "t3", "t5", "t4", "t1"],
    ]
    assert found["top_scores"][1] == pytest.approx([0.7, 0.6, 0.5, 0.4, 0.3])
    assert found["positive_score"] == pytest.approx([0.9, 0.5, 0.0])
    assert found["lat"] == pytest.approx([60.0001, 60.002, 60.0065])
    assert found["lon"] == pytest.approx([25, 25.0043, 25.0125])
    assert found["found_lat"] == pytest.approx([60, 60, 60.002]) and found["found_lon"] == pytest.approx(
        [25, 25, 25.004]
    )
    far = great_circle_m(60.002, 25.0043, 60, 25), great_circle_m(60.0065, 25.0125, 60.002, 25.004)
    assert found["error_m"] == pytest.approx([11.12, *far], abs=0.01)
    offsets = [11.12, great_circle_m(60, 25.0003, 60, 25), great_circle_m(60.0065, 25.0125, 60.006, 25.012)]
    assert found["offset_m"] == pytest.approx(offsets, abs=0.01)
    assert found["hit_rate_code"] == [1, 1, 0] and found["recall_masked@1"] == [1, 1, 0]
    assert found["within_25m"] == [1, 0, 0] and found["recall@5"] == [1, 1, 0] and found["recall@1%"] == [1, 0, 0]


def test_compute_result_states_rules_data_and_areas():
    found = computed(settings={"seed": 3}).summary
    assert found["format"] == 1
    assert found["rules"] == {
        "ties": "pessimistic",
        "rounding": "floor",
        "interval": "95 %, 3 queries, taken as independent",
    }
    assert found["settings"] == {"seed": 3} and computed().summary["settings"] == {}
    assert set(found["areas"]) == {"a", "b"} and found["areas"]["b"]["num_queries"] == 2
    assert computed(few("aaa")).summary["areas"] == {} == found["offsets"]
    assert set(found["metrics_by_ties"]) == {"pessimistic", "sample4geo", "mid"}
    metrics = found["metrics"]
    assert metrics["recall@5"] == pytest.approx(2 / 3) and metrics["median_error_m"] == pytest.approx(326, abs=30)
    assert "average_precision_trapezoid" not in metrics and not any("|prior" in name for name in metrics)


def test_result_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        computed().summary = {}


@pytest.mark.parametrize(
    ("sizes", "complete"), [((None, None), True), ((3, 7), True), ((3, None), True), ((3, 8), False), ((4, 7), False)]
)
def test_compute_result_is_complete_where_both_published_sizes_match(sizes, complete):
    protocol = dataclasses.replace(PROTOCOL, queries=sizes[0], gallery=sizes[1])
    found = computed(protocol=protocol)
    data = found.summary["dataset"]
    assert (data["queries"], data["gallery"], data["complete"]) == (3, 7, complete)
    assert bool(found.notes) != complete


def test_compute_result_of_partly_unknown_positions_has_errors_of_the_known_ones():
    at = TILES[POSITIVE] + 0.0001
    at[1] = np.nan
    protocol = dataclasses.replace(PROTOCOL, offset_edges_m=(5,), near_rule_m=5.0, prior_radii_m=(100,))
    found = computed(few(queries=at), protocol)
    errors = found.queries["error_m"].to_numpy()
    known = errors[[0, 2]]
    assert np.isnan(errors[1]) and found.metrics["num_with_position"] == 2
    assert found.metrics["median_error_m"] == pytest.approx(known.mean())
    assert found.summary["intervals"]["median_error_m"] == list(median_interval(known))
    assert set(found.summary["offsets"]) == {"over 5 m", "unknown"}
    assert not any("within" in name or "5m" in name or "prior" in name for name in found.outcomes)
    nowhere = computed(few(queries=np.full((3, 2), np.nan)), protocol)
    assert nowhere.summary["offsets"] == {} and "median_error_m" not in nowhere.summary["intervals"]


def test_compute_result_by_a_protocol_with_distances_has_their_metrics():
    protocol = dataclasses.replace(PROTOCOL, near_rule_m=40.0, prior_radii_m=(200, 1e5), trapezoid_ap=True)
    found = computed(protocol=protocol)
    assert found.metrics["recall_40m@1"] == pytest.approx(1 / 3) and "recall_40m@1%" in found.metrics
    # Within 200 m of the second query lie tiles 1 to 3, of which tile 1 has a higher score than the right one.
    assert found.queries["recall@1|prior_200m"].to_pylist() == [1, 0, 1]
    assert found.queries["recall@1|prior_100000m"].to_pylist() == [1, 0, 0]
    trapezoid = [1, (0 + 1 / 3) / 2, (0 + 1 / 7) / 2]
    assert found.metrics["average_precision_trapezoid"] == pytest.approx(np.mean(trapezoid))
    groups = computed().groups
    assert groups.count == 3 and "independent" in groups.description


def test_percent_rounds_rates_and_metres_to_four_digits():
    summary = {
        "dataset": {"name": "few/test", "queries": 3, "gallery": 7, "complete": True},
        "model": {"name": "stub", "trained_on": None},
        "protocol": {"name": "mine", "trained_on": [], "note": "Own data."},
        "settings": {},
        "metrics": {"recall@1": 1 / 3, "recall@5": 1.0, "within_25m": 2 / 3, "median_error_m": 12.345678},
        "intervals": {
            "recall@1": [0.123456789, 0.5],
            "within_25m": [0.25, 0.987654321],
            "median_error_m": [1.23456789, 98.7654321],
        },
    }
    assert Result(summary, pa.table({})).percent() == {
        "model": "stub",
        "data": "few/test",
        "protocol": "mine",
        "queries": 3,
        "gallery": 7,
        "R@1": 33.3333,
        "R@1_interval": [12.3457, 50.0],
        "R@1_within_25m": 66.6667,
        "R@1_within_25m_interval": [25.0, 98.7654],
        "median_error_m": 12.3457,
        "median_error_m_interval": [1.2346, 98.7654],
        "notes": ["Own data."],
    }


def test_notes_name_incomplete_data_other_training_and_training_pairs():
    def notes(model=None, settings=None, **changes):
        protocol = dataclasses.replace(PROTOCOL, **changes)
        return computed(protocol=protocol, model=MODEL | (model or {}), settings=settings).notes

    assert notes() == []
    whole = "do not compare with published numbers"
    assert notes(queries=4000) == [f"not the whole set of 4,000 queries, but 3 of 4,000 queries: {whole}"]
    (sizes,) = notes(queries=4000, gallery=5000)
    assert sizes.startswith("not the whole set of 4,000 queries and 5,000 tiles, but 3 of 4,000")
    assert notes(trained_on=("few",)) == ["the model was trained on unknown data, not as the protocol says"]
    assert notes({"trained_on": "few"}, trained_on=("few", "more")) == notes({"trained_on": "few"}) == []
    assert notes(settings={"training_pairs": 2}) == ["2 of 3 queries are pairs that the model was trained on"]
    assert notes(note="A note.") == ["A note."]


@pytest.mark.parametrize("text", ["[1]", "3", '{"format": 2}', '{"dataset": 1, "model": 1, "metrics": 1, "format": 2}'])
def test_load_of_other_json_raises_an_error(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(GenGeoError, match="is not an evaluation result of format 1"):
        Result.load(tmp_path / "x.json")


def test_load_reads_queries_unless_told_otherwise_and_refuses_other_digests(tmp_path):
    path = computed().save(tmp_path / "x.json")
    assert Result.load(path).queries.num_rows == 3
    assert Result.load(path, with_queries=False).queries.num_rows == 0
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"sha256": "text"}))
    with pytest.raises(GenGeoError, match="changed or damaged"):
        Result.load(path)
