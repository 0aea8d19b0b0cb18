"""Fits of pose heads: accuracy, unchanged encoder, resuming."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation.pose import evaluate_pose, format_pose
from gengeo_hf.pose import PoseHead
from gengeo_hf.pose.fitting import FitSettings, fit_head
from tests.pose.toy import toy_pairs

QUICK = FitSettings(steps=150, views=3, batch_size=64, held_out=20)


@pytest.fixture(scope="module")
def encoder():
    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
    from tests.conftest import TINY, TINY_SIZES

    torch.manual_seed(0)
    return Encoder(
        GenGeoModel(GenGeoConfig(**TINY, position_init_std=0.5)), GenGeoImageProcessor(view_sizes=TINY_SIZES)
    )


@pytest.fixture(scope="module")
def fitted(encoder, tmp_path_factory):
    """A known-heading head of the module's encoder, its directory, and the encoder's state before the fit."""
    folder = tmp_path_factory.mktemp("pose") / "known"
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    fingerprint = encoder.fingerprint
    head = fit_head(encoder, toy_pairs(150), folder, QUICK)
    return head, folder, before, fingerprint


def test_fitted_head_beats_the_centre_on_unseen_pairs(encoder, fitted):
    result = evaluate_pose(encoder, toy_pairs(60, seed=9, shift_m=15), head=fitted[0])
    assert result["median_m"] < 0.6 * result["centre_median_m"]
    assert result["within_10_m"] > result["centre_within_5_m"]
    assert result["median_deg"] is None and result["method"] == "fitted"
    assert "median" in format_pose(result)


def test_fit_head_does_not_change_the_encoder(encoder, fitted):
    _, _, before, fingerprint = fitted
    assert encoder.fingerprint == fingerprint
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())


def test_fit_head_writes_safetensors_and_json_that_load_unchanged(fitted):
    head, folder, _, _ = fitted
    files = {path.name for path in folder.iterdir()}
    assert files == {"config.json", "model.safetensors", "gengeo_output.json"}
    again = PoseHead.from_pretrained(folder.parent, subfolder="known")
    assert all(
        torch.equal(one, two) for one, two in zip(head.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert again.config.radius_factors == head.config.radius_factors
    assert again.config.record["held_out"]["photos"] == 20


def test_radius_factors_grow_with_coverage(fitted):
    factors = fitted[0].config.radius_factors
    assert factors["0.5"] < factors["0.68"] < factors["0.9"]


def test_fit_head_with_the_same_seed_is_equal_also_after_an_interruption(encoder, fitted, tmp_path, monkeypatch):
    """An interrupted and resumed fit gives the same weights as an uninterrupted one."""
    import gengeo_hf.pose.fitting as fitting

    steps, loss = [], fitting.pose_loss

    def stops(*args):
        steps.append(1)
        monkeypatch.setattr(fitting, "SAVE_EVERY_S", -1.0 if len(steps) == 79 else 1e9)
        if len(steps) == 80:
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setattr(fitting, "pose_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        fit_head(encoder, toy_pairs(150), tmp_path / "known", QUICK)
    assert json.loads((tmp_path / "known.partial" / "state.json").read_text())["step"] == 79
    head = fit_head(encoder, toy_pairs(150), tmp_path / "known", QUICK)
    assert len(steps) == 80 + QUICK.steps - 79
    for one, two in zip(head.state_dict().values(), fitted[0].state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert not (tmp_path / "known.partial").exists()


def test_head_of_another_encoder_raises_an_error(fitted, tiny_model, tiny_processor):
    other = Encoder(tiny_model, tiny_processor)
    with pytest.raises(GenGeoError, match="fitted on another encoder"):
        evaluate_pose(other, toy_pairs(4), head=fitted[0])


def test_tiles_of_another_size_raise_an_error(encoder, fitted):
    with pytest.raises(GenGeoError, match=r"a tile of 300 x 300 m is outside .* tiles of 42 to 90 m"):
        evaluate_pose(encoder, toy_pairs(4, side_m=300), head=fitted[0])


@pytest.mark.parametrize(
    "changes, message",
    [({"fov": None}, "field of view"), ({"lat": None}, "position"), ({"fov": 80.0, "heading": None}, "heading")],
)
def test_pairs_that_lack_facts_raise_an_error(encoder, changes, message):
    with pytest.raises(GenGeoError, match=message):
        evaluate_pose(encoder, toy_pairs(4, **changes))


def test_convolutional_backbone_raises_an_error(tiny_processor, tmp_path):
    from gengeo_hf.model import GenGeoConfig, GenGeoModel

    backbone = {"model_type": "convnext", "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    model = GenGeoModel(GenGeoConfig(backbone_config=backbone, aggregator="mean", trainable_blocks=None))
    with pytest.raises(GenGeoError, match="a convnext backbone has none"):
        fit_head(Encoder(model, tiny_processor), toy_pairs(4), tmp_path / "known")


def test_unknown_prior_raises_an_error():
    with pytest.raises(GenGeoError, match="--heading-prior must be one of known, 45, 180"):
        FitSettings(heading_prior="90")


@pytest.mark.slow
def test_head_finds_the_heading_within_its_prior(encoder, tmp_path):
    settings = dataclasses.replace(QUICK, heading_prior="45", steps=300, views=4)
    head = fit_head(encoder, toy_pairs(150), tmp_path / "45", settings)
    result = evaluate_pose(encoder, toy_pairs(60, seed=9), "45", head=head)
    assert result["median_deg"] < 12  # 22.5 by chance
    assert np.isfinite(result["mean_deg"])
