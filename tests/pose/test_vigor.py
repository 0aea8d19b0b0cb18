"""The protocol `vigor-pose`: true positions from corrected labels, published rows, and what may be compared."""

import json

import numpy as np
import pytest

from gengeo_hf.data import load_pairs
from gengeo_hf.evaluation.pose_published import FIGURES, differences, format_published, published_poses
from gengeo_hf.pose.samples import PosePairs
from tests.data.folders import make_vigor

EARTH_M = 2 * np.pi * 6_378_137.0  # circumference of Web Mercator's sphere


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One city, in whose labels the tile's centre is 1 pixel north and 2 pixels west of the camera."""
    return make_vigor(tmp_path_factory.mktemp("vigor"), cities=("Seattle",), labels="corrected")


def load(folder, **options):
    return load_pairs("vigor-same", folder, "test", cities="Seattle", labels="corrected", **options)


def test_true_positions_are_those_of_the_labels(folder, tiny_processor):
    data = load(folder, positions="labels")
    pairs = PosePairs.of(data, tiny_processor)
    metres = EARTH_M * np.cos(np.radians(np.array(data.queries["lat"][:]))) / (256 * 2**20)
    assert pairs.offset_m[:, 0] == pytest.approx(2 * metres, abs=0.01)  # the camera stands to the east
    assert pairs.offset_m[:, 1] == pytest.approx(-metres, abs=0.01)
    named = PosePairs.of(load(folder), tiny_processor)
    assert np.abs(named.offset_m - pairs.offset_m).max() > 1  # names and labels of this data set do not agree


def test_wrong_offset_in_a_label_names_file_and_line(folder, tmp_path):
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.data.benchmarks.vigor_files import read_labels

    (path,) = folder.glob("splits__corrected/Seattle/same_area_balanced_test*")
    (tmp_path / "labels.txt").write_text(path.read_text().replace(" 1.0 -2.0", " 1.0 west", 1))
    with pytest.raises(GenGeoError, match=r"line 1: the offsets 1\.0 west are not numbers"):
        read_labels(tmp_path / "labels.txt", "Seattle")


@pytest.mark.parametrize(("area", "prior", "rows"), [("same", "180", 7), ("cross", "180", 8), ("cross", "45", 0)])
def test_published_rows_are_those_of_area_and_prior(folder, area, prior, rows):
    class Named:
        name = f"vigor-{area}/test"

    found = published_poses(Named, prior)
    assert len(found) == rows and all(row["source"] for row in found)
    assert all({*FIGURES} <= set(row) for row in found)


def test_result_is_comparable_only_with_the_same_data_and_training():
    class Whole:
        name = "vigor-cross/test"

    record = {"trained_on": "vigor-cross/train"}
    result = {"photos": 53_694, "method": "fitted", "fitted_on": "vigor-cross/train", "fov": 360.0}
    assert differences(Whole, record, result) == []
    for changed_record, changes, reason in (
        (record, {"photos": 100}, "not the 53,694 of the whole test set"),
        ({"trained_on": "cvusa/train"}, {}, "trained on cvusa/train"),
        ({}, {}, "trained on unknown data"),
        (record, {"fitted_on": "world/urban/train"}, "fitted on world/urban/train"),
        (record, {"fov": 90.0}, "cropped to 90 degrees"),
    ):
        (found,) = differences(Whole, changed_record, result | changes)
        assert reason in found
    figures = dict.fromkeys(FIGURES, 1.0)
    shown = {"published": published_poses(Whole, "known"), "not_comparable": []} | figures
    assert "this model" in format_published(shown) and format_published(shown).endswith(" comparable")


def test_command_prints_published_rows_and_why_they_are_not_comparable(gengeo, tiny_checkpoint, folder):
    data = f"vigor-same {folder} cities=Seattle"
    arguments = ("evaluate", "--model", tiny_checkpoint, "--pose", "--protocol", "vigor-pose")
    code, out, err = gengeo(*arguments, "--data", data, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["median_m"] >= 0 and found["mean_m"] >= 0 and found["method"] == "search"
    assert {row["method"] for row in found["published"]} == {"FG2", "HC-Net", "CCVPE", "GeoFlow"}
    assert len(found["not_comparable"]) == 2 and "52,605" in found["not_comparable"][0]
    code, _, err = gengeo(*arguments)
    assert code == 1 and 'give --data "vigor-same ROOT"' in err.strip().splitlines()[-1]
