"""The commands `gengeo pose fit` and `gengeo evaluate --pose`."""

import json

import pytest

from gengeo_hf.data.parquet import write_pairs
from tests.pose.toy import toy_pairs


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory):
    """Directory with `train` and `test`, each a directory of pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(toy_pairs(45), folder / "train", "train")
    write_pairs(toy_pairs(6, seed=5, shift_m=15), folder / "test", "test")
    return folder


def test_fit_and_evaluate_a_head(gengeo, tiny_checkpoint, pairs_folder):
    data = f"parquet:train {pairs_folder / 'train'}"
    arguments = ("pose", "fit", "--model", tiny_checkpoint, "--data", data, "--heading-prior", "known", "--steps", 5)
    code, out, err = gengeo(*arguments, "--random-baseline")
    assert code == 0, err
    assert "median" in out and "held-out pairs" in out
    assert (tiny_checkpoint / "pose" / "known" / "random_encoder" / "model.safetensors").is_file()
    code, _, err = gengeo(*arguments)
    assert code == 1 and "--overwrite" in err
    data = f"parquet {pairs_folder / 'test'}"
    evaluate = ("evaluate", "--model", tiny_checkpoint, "--pose", "--data", data, "--json")
    code, out, err = gengeo(*evaluate, "--heading-prior", "known")
    assert code == 0, err
    found = json.loads(out)
    wanted = {"median_m", "mean_m", "within_5_m", "within_10_m", "median_deg", "within_10_deg"}
    assert wanted <= set(found) and found["method"] == "fitted" and found["photos"] == 6
    assert found["random_encoder"]["photos"] == 6
    assert "gallery" not in found
    code, out, _ = gengeo(*evaluate, "--all-tiles")
    shares = json.loads(out)["gallery"]
    for name in ("centre", "best_tile"):
        within = [shares[f"{name}_within_{metres}_m"] for metres in (5, 10, 25)]
        assert within == sorted(within) and all(round(share * 6 / 100, 6) in range(7) for share in within)
    code, _, err = gengeo(*evaluate, "--heading-prior", "45")
    assert code == 1 and "has no pose head pose/45" in err and len(err.strip().splitlines()) == 1


def test_evaluate_without_a_head_searches(gengeo, tiny_checkpoint, pairs_folder):
    data = f"parquet {pairs_folder / 'test'}"
    code, out, err = gengeo("evaluate", "--model", tiny_checkpoint, "--pose", "--data", data)
    assert code == 0, err
    assert "search (rough" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--heading-prior", "90"), "--heading-prior must be one of known, 45, 180"),
        (("--pose-method", "links"), "--pose-method must be one of auto, fitted, search"),
        (("--protocol", "cvusa"), "--pose takes the protocols vigor-pose, world-pose"),
    ],
)
def test_invalid_options_raise_one_line(gengeo, tiny_checkpoint, pairs_folder, options, message):
    data = f"parquet {pairs_folder / 'test'}"
    code, _, err = gengeo("evaluate", "--model", tiny_checkpoint, "--pose", "--data", data, *options)
    assert code in (1, 2) and message in err.strip().splitlines()[-1]
