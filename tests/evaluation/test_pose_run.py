"""Data sets, heads and options of `gengeo evaluate --pose`."""

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation import pose_run
from gengeo_hf.evaluation.pose_run import evaluate_pose_checkpoint, format_gallery, pose_notation
from tests.pose.toy import toy_pairs


def test_pose_notation_adds_the_options_of_the_protocol():
    world = pose_notation(None, "world-pose")
    assert (world.name, world.options) == ("world-urban", {"num_pairs": 500, "tile_shift_m": 15.8})
    rural = pose_notation("world-rural:validation num_pairs=20", "world-pose")
    assert (rural.name, rural.split) == ("world-rural", "validation")
    assert rural.options == {"num_pairs": 20, "tile_shift_m": 15.8}
    vigor = pose_notation("vigor-cross ROOT", "vigor-pose")
    assert (vigor.root, vigor.options) == ("ROOT", {"labels": "corrected", "positions": "labels"})
    assert pose_notation("table pairs.csv", None).options == {}


@pytest.mark.parametrize(
    ("data", "protocol", "message"),
    [
        (None, None, "nothing to evaluate on"),
        (None, "vigor-pose", "vigor-pose needs the directory of VIGOR"),
        ("vigor-same x", "world-pose", "protocol world-pose takes world-urban or world-rural, found 'vigor-same'"),
        ("world-urban", "vigor-pose", "takes vigor-same or vigor-cross"),
        ("vigor-same x", "cvusa", "--pose takes the protocols vigor-pose, world-pose, found 'cvusa'"),
    ],
)
def test_pose_notation_of_other_data_raises_an_error(data, protocol, message):
    with pytest.raises(GenGeoError, match=message):
        pose_notation(data, protocol)


FOUND = {
    f"{key}_within_{m}_m": 10.0 * row + m
    for row, key in enumerate(("centre", "best_tile", "fused"))
    for m in (5, 10, 25)
}
FOUND |= {"photos": 1200, "centre_median_m": 1234.5, "best_tile_median_m": 12.34, "fused_median_m": 9.0}
FOUND |= {"centre_recall_1": 4.04, "best_tile_recall_1": 50.06, "fused_recall_1": 100.0}
LINES = [
    "all 1,200 photos in the whole gallery, within 5 / 10 / 25 m; R@1 of the nearest tile:",
    "  centre of the best tile  5.0 / 10.0 / 25.0 %, R@1 4.0 %, median 1,234.5 m",
    "  pose in the best tile    15.0 / 20.0 / 35.0 %, R@1 50.1 %, median 12.3 m",
    "  fused map                25.0 / 30.0 / 45.0 %, R@1 100.0 %, median 9.0 m",
    "  fusion did not improve recall on the validation photos and is not used",
]


@pytest.mark.parametrize(("photos", "enabled", "lines"), [(0, False, 3), (20, True, 4), (20, False, 5)])
def test_format_gallery_prints_the_fused_map_only_where_its_weights_were_fitted(photos, enabled, lines):
    found = FOUND | {"weights": {"photos": photos, "enabled": enabled}}
    assert format_gallery(found).splitlines() == LINES[:lines]


@pytest.fixture
def evaluated(monkeypatch, tmp_path, tiny_checkpoint):
    """Evaluate a checkpoint with stand-ins for heads and data; gives the result and the calls."""
    calls = {}

    class Notation:
        def load(self, split):
            calls["split"] = split
            return toy_pairs(2)

    def evaluate(encoder, dataset, prior, **options):
        calls["evaluate"] = (prior, options)
        return {"photos": len(dataset.queries)}

    monkeypatch.setattr(pose_run, "pose_notation", lambda data, protocol: Notation())
    monkeypatch.setattr(pose_run, "load_notation", lambda text, split: (text, split))
    monkeypatch.setattr(pose_run, "evaluate_pose", evaluate)
    monkeypatch.setattr(pose_run, "find_candidates", lambda encoder, head, data: data)
    monkeypatch.setattr(pose_run, "fit_fusion", lambda candidates: ("fitted on", candidates))
    monkeypatch.setattr(pose_run, "evaluate_gallery", lambda candidates, weights: weights)

    def run(head="head", **options):
        def load(model, prior):
            calls["loaded"] = prior
            if head is None:
                raise GenGeoError("has no pose head")
            return head

        monkeypatch.setattr(pose_run.PoseHead, "load", load)
        return evaluate_pose_checkpoint(tiny_checkpoint, "toy", **options), calls

    return run


def test_evaluate_pose_checkpoint_by_default_uses_a_head_and_no_gallery(evaluated):
    result, calls = evaluated()
    assert "gallery" not in result and "published" not in result and result["photos"] == 2
    prior, options = calls["evaluate"]
    assert (prior, options) == ("known", {"head": "head", "random_head": None, "fov": 360.0, "seed": 0})
    assert calls["loaded"] == "known" and calls["split"] == "test"


def test_evaluate_pose_checkpoint_by_search_loads_no_head(evaluated):
    result, calls = evaluated(method="search", gallery=True)
    assert "loaded" not in calls and calls["evaluate"][1]["head"] is None and "gallery" not in result
    result, calls = evaluated(head=None)
    assert calls["evaluate"][1]["head"] is None  # the checkpoint has no directory of heads


@pytest.mark.parametrize("options", [{"method": "fitted"}, {"gallery": True}, {"validation": "toy"}])
def test_evaluate_pose_checkpoint_that_needs_a_head_raises_an_error_without_one(evaluated, options):
    with pytest.raises(GenGeoError, match="has no pose head"):
        evaluated(head=None, **options)


def test_evaluate_pose_checkpoint_with_other_heads_raises_an_error(evaluated, tiny_checkpoint):
    (tiny_checkpoint / "pose").mkdir()
    with pytest.raises(GenGeoError, match="has no pose head"):
        evaluated(head=None)


def test_evaluate_pose_checkpoint_fits_the_fusion_only_with_validation_data(evaluated):
    plain = evaluated(gallery=True)[0]["gallery"]
    assert not plain.enabled and plain.photos == 0
    assert evaluated(validation="toy")[0]["gallery"] == ("fitted on", ("toy", "validation"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "links"}, "--pose-method must be one of auto, fitted, search"),
        ({"prior": "90"}, "--heading-prior must"),
    ],
)
def test_evaluate_pose_checkpoint_of_unknown_options_raises_an_error(evaluated, options, message):
    with pytest.raises(GenGeoError, match=message):
        evaluated(**options)
