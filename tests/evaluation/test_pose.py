"""Coverage of conformal radii, and the printed errors."""

import numpy as np
import pytest

from gengeo_hf.evaluation.pose import coverage_of, format_pose
from gengeo_hf.pose.estimate import PoseErrors


def test_coverage_of_counts_errors_at_the_radius_as_covered():
    errors = PoseErrors(np.array([2.0, 4.5, 0.5, 10.0]), None, np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4))
    found = coverage_of(errors, {"0.5": 2.0, "0.9": 2.5})
    assert found == {
        "0.5": {"covered": 50.0, "median_radius_m": 5.0},
        "0.9": {"covered": 100.0, "median_radius_m": 6.25},
    }


FIGURES = {"median_m": 1.5, "within_5_m": 80.0, "mean_m": 2.25, "within_10_m": 90.0}
RESULT = {
    "dataset": "toy",
    "photos": 1200,
    "heading_prior": "45",
    "method": "fitted",
    "rough": False,
    "synthetic": False,
    "centre_median_m": 9.0,
    "centre_within_5_m": 12.5,
    **FIGURES,
    "median_deg": 3.25,
    "within_10_deg": 75.0,
}
HEAD = "toy: 1,200 photos in their true tile, heading 45, fitted"
CENTRE = "  centre of the tile     median  9.00 m, within 5 m  12.5 %"
METRES = "median  1.50 m, within 5 m  80.0 %, mean  2.25 m, within 10 m  90.0 %"


def test_format_pose_prints_metres_and_degrees():
    assert format_pose(RESULT).splitlines() == [
        HEAD,
        CENTRE,
        f"  pose                   {METRES}; median 3.2 deg, within 10 deg 75.0 %",
    ]


def test_format_pose_prints_random_encoder_radii_and_caveats():
    more = {"random_encoder": FIGURES | {"median_deg": None}, "rough": True, "synthetic": True, "median_deg": None}
    radii = {"0.68": {"covered": 65.4, "median_radius_m": 2.34}}
    lines = format_pose(RESULT | more | {"radii": radii}).splitlines()
    assert lines[0] == f"{HEAD} (rough: the model was not trained on centred tiles)"
    assert lines[1:4] == [CENTRE, f"  pose                   {METRES}", f"  random-weight encoder  {METRES}"]
    assert lines[4] == "  radius for 68 %: covers 65 %, median 2.3 m" and lines[5].startswith("  synthetic world")
    assert len(lines) == 6


@pytest.mark.parametrize("prior", ["known", "45"])
def test_evaluate_pose_without_a_head_states_the_search_and_its_defaults(prior, tiny_model, tiny_processor):
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.evaluation.pose import evaluate_pose
    from tests.pose.toy import toy_pairs

    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    encoder.training_record = {"trained_on": "cvusa/train"}  # a data set of centred tiles
    found = evaluate_pose(encoder, toy_pairs(1, shift_m=15), prior)
    assert (found["method"], found["fitted_on"], found["rough"]) == ("search", None, False)
    assert (found["fov"], found["seed"], found["photos"], found["heading_prior"]) == (360.0, 0, 1, prior)
    assert (
        (found["median_deg"] is None) == (prior == "known") and "radii" not in found and "random_encoder" not in found
    )
    if prior == "known":
        encoder.training_record = {"trained_on": "vigor-same/train"}
        assert evaluate_pose(encoder, toy_pairs(1), prior)["rough"]
    with pytest.raises(GenGeoError, match="--heading-prior must be one of"):
        evaluate_pose(encoder, None, "90")
