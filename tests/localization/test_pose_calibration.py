"""Calibration of poses with a localizer whose posteriors are given."""

from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.localization.fusion import FusionWeights, TilePosterior
from gengeo_hf.localization.pose_calibration import PoseCalibration, fit_pose_calibration, pose_calibration_path
from gengeo_hf.pose.posterior import Poses

CAMERA, TRUE = CameraView(fov=360.0, heading=0.0), (60.0, 25.0)


class Localizer:
    """Photo n is a number: its best tile is at the true position, its pose `errors[n]` metres north of it."""

    def __init__(self, errors, logit_scale=0.0, unposed=(), unreadable=()):
        self.errors, self.unposed, self.unreadable, self.searched = errors, unposed, unreadable, []
        model = SimpleNamespace(logit_scale=torch.tensor(logit_scale))
        self.pose = SimpleNamespace(
            encoder=SimpleNamespace(fingerprint="f" * 64, model=model), candidates=self.candidates
        )

    def search_photo(self, photo, camera, tiles):
        self.searched.append((photo, camera, tiles))
        return None if photo in self.unreadable else (photo, ["hit"])

    def candidates(self, photo, camera, hits):
        assert camera is CAMERA and hits == ["hit"]
        if photo in self.unposed:
            return []
        poses = Poses(np.array([[9e3, 9e3], [0.0, self.errors[photo]]]), np.zeros(2), np.array([1.0, 2.0]), np.ones(2))
        near = TilePosterior(*TRUE, 0.9, 0.0, np.array([[1.5, 1.5]]), np.ones(1))
        far = TilePosterior(61.0, 25.0, 0.8, 0.0, np.array([[1.5, 1.5]]), np.ones(1))
        return [(near, (poses, 1)), (far, (poses, 0))]


def fitted(localizer, count):
    return fit_pose_calibration(localizer, range(count), [TRUE] * count, CAMERA)


def test_fit_pose_calibration_takes_factors_of_answers_in_the_right_tile():
    errors = np.concatenate([np.arange(1, 51) / 10, np.full(5, 24.9), np.full(7, 25.3)])
    localizer = Localizer(errors, logit_scale=float(np.log(20.0)))
    found = fitted(localizer, 62)
    # Errors / spread 2 of the 55 answers within 25 m: rank ceil(0.68 x 56) = 39, with a sphere instead of an ellipsoid.
    assert found.radius_factors["0.68"] == pytest.approx(3.9 / 2, rel=0.01)
    assert found.radius_factors["0.95"] == pytest.approx(24.9 / 2, rel=0.01)  # rank ceil(0.95 x 56) = 54
    assert (found.photos, found.fingerprint) == (62, "f" * 64)
    assert found.fusion.scale == pytest.approx(20.0) and found.fusion.tiles == 40
    # Fusion finds 62 of 62 photos within 10 m, the best tile 50.
    assert found.fusion.enabled and found.fusion.gain_percent == pytest.approx(100 * 12 / 62)
    assert localizer.searched == [(number, CAMERA, 40) for number in range(62)]


def test_fit_pose_calibration_needs_50_photos_with_a_pose_and_50_right_answers(monkeypatch):
    monkeypatch.setattr(
        "gengeo_hf.localization.pose_calibration.fit_weights",
        lambda photos, answers, truth, scale, tiles: FusionWeights(scale=scale, tiles=tiles),
    )
    found = fitted(Localizer(np.ones(52), 9.0, unposed=[3], unreadable=[7]), 52)
    assert found.photos == 50 and "0.95" in found.radius_factors
    assert found.fusion.scale == 100.0  # the largest
    with pytest.raises(GenGeoError, match="at least 50 photos with a pose, found 49"):
        fitted(Localizer(np.ones(50), unposed=[0]), 50)
    assert fitted(Localizer(np.array([1.0] * 49 + [30.0])), 50).radius_factors == {}


def test_fit_pose_calibration_without_poses_raises_an_error():
    with pytest.raises(GenGeoError, match="needs a localizer that finds poses"):
        fit_pose_calibration(SimpleNamespace(pose=None), [], [], CAMERA)


CALIBRATION = PoseCalibration("a" * 64, FusionWeights(2.0, 0.5, 9.0, 30, True, 1.5, 60), {"0.68": 1.5}, 60)


def test_pose_calibration_of_another_model_raises_an_error():
    CALIBRATION.check_model(SimpleNamespace(fingerprint="a" * 64))
    with pytest.raises(GenGeoError, match="belongs to another model"):
        CALIBRATION.check_model(SimpleNamespace(fingerprint="b" * 64))


def test_pose_calibration_is_loaded_as_it_was_saved(tmp_path):
    CALIBRATION.save(tmp_path / "c.pose.json")
    found = PoseCalibration.load(tmp_path / "c.pose.json")
    assert found == CALIBRATION
    with pytest.raises(FrozenInstanceError):
        found.photos = 1


def test_load_of_a_changed_or_missing_pose_calibration_raises_an_error(tmp_path):
    CALIBRATION.save(tmp_path / "c.pose.json")
    (tmp_path / "c.pose.json").write_text((tmp_path / "c.pose.json").read_text().replace("1.5", "1.6"))
    with pytest.raises(GenGeoError, match="is damaged or was changed"):
        PoseCalibration.load(tmp_path / "c.pose.json")
    with pytest.raises(GenGeoError, match="is not a pose calibration"):
        PoseCalibration.load(tmp_path / "none.json")


def test_pose_calibration_path_is_next_to_the_calibration(tmp_path):
    assert pose_calibration_path(tmp_path / "city.json") == tmp_path / "city.pose.json"
