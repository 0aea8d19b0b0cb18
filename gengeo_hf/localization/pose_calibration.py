"""Calibration of poses on photos with known positions: fusion weights and radius factors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import digest_of, write_json
from gengeo_hf.common.geo import great_circle_m, offset
from gengeo_hf.localization.fusion import FusionWeights, fit_weights
from gengeo_hf.pose.posterior import radius_factors

if TYPE_CHECKING:
    from gengeo_hf.common.camera import CameraView
    from gengeo_hf.localization.localizer import GeoLocalizer

MIN_PHOTOS = 50
TILES = 40
RIGHT_M = 25.0  # radii are fitted on answers within this distance, which are in the right tile
GREATEST_SCALE = 100.0


@dataclass(frozen=True)
class PoseCalibration:
    """Weights of the fused map and conformal factors, for one model and one kind of index.

    Args:
        fingerprint: Fingerprint of the model.
        fusion: Weights of the fused map; not enabled if fusion did not improve the results.
        radius_factors: Conformal factors by coverage, see `gengeo_hf.pose.posterior`; empty if too few answers were
            right.
        photos: Number of photos in the fit.
    """

    fingerprint: str
    fusion: FusionWeights
    radius_factors: dict[str, float]
    photos: int

    def check_model(self, encoder: Any) -> None:
        """Raise an error if the calibration was fitted for another model.

        Raises:
            GenGeoError: The fingerprints differ.
        """
        if self.fingerprint != encoder.fingerprint:
            raise GenGeoError(
                f"the pose calibration belongs to another model ({self.fingerprint[:12]}, this one is "
                f"{encoder.fingerprint[:12]}); make one for it with gengeo calibrate --pose"
            )

    def save(self, path: str | Path) -> None:
        """Write a JSON file, with the SHA-256 of its values."""
        values = asdict(self)
        write_json(path, values | {"sha256": digest_of(values)})

    @classmethod
    def load(cls, path: str | Path) -> PoseCalibration:
        """Read a file of `save`.

        Raises:
            GenGeoError: The file is missing, is not a pose calibration, or is damaged.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            digest = values.pop("sha256")
            factors = {str(share): float(factor) for share, factor in values["radius_factors"].items()}
            found = cls(values["fingerprint"], FusionWeights(**values["fusion"]), factors, int(values["photos"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise GenGeoError(
                f"{path} is not a pose calibration ({error}); make one with gengeo calibrate --pose"
            ) from error
        if digest != digest_of(values):
            raise GenGeoError(f"{path} is damaged or was changed; make it again with gengeo calibrate --pose")
        return found


def pose_calibration_path(calibration: str | Path) -> Path:
    """Path of the pose calibration that belongs to a calibration: `x.json` -> `x.pose.json`."""
    path = Path(calibration)
    return path.with_name(f"{path.stem}.pose{path.suffix}")


def fit_pose_calibration(
    localizer: GeoLocalizer, photos: Sequence[Any], truth: Sequence[tuple[float, float]], camera: CameraView
) -> PoseCalibration:
    """Fit a pose calibration on photos with known positions.

    Args:
        localizer: Localizer with a `PoseFinder`.
        photos: Paths or images.
        truth: True latitude and longitude of each photo, degrees.
        camera: Camera that the user states for all photos.

    Raises:
        GenGeoError: The poses of fewer than 50 photos could be estimated.
    """
    finder = localizer.pose
    if finder is None:
        raise GenGeoError("a pose calibration needs a localizer that finds poses")
    candidates, answers, places, spreads = [], [], [], []
    for photo, place in zip(photos, truth, strict=True):
        found = localizer.search_photo(photo, camera, TILES)
        posed = [] if found is None else finder.candidates(found[0], camera, found[1])
        if not posed:
            continue
        tile, (poses, number) = posed[0]
        lat, lon = offset(tile.lat, tile.lon, *poses.offset_m[number])
        candidates.append([posterior for posterior, _ in posed])
        answers.append((float(lat), float(lon)))
        spreads.append(float(poses.spread_m[number]))
        places.append(place)
    if len(answers) < MIN_PHOTOS:
        raise GenGeoError(f"a pose calibration needs at least {MIN_PHOTOS} photos with a pose, found {len(answers)}")
    model: Any = finder.encoder.model
    scale = float(model.logit_scale.detach().exp().clamp(max=GREATEST_SCALE))
    fusion = fit_weights(candidates, answers, np.array(places), scale, TILES)
    error = np.array([great_circle_m(*answer, *place) for answer, place in zip(answers, places, strict=True)])
    right = error <= RIGHT_M
    factors = radius_factors(error[right], np.array(spreads)[right]) if right.sum() >= MIN_PHOTOS else {}
    return PoseCalibration(finder.encoder.fingerprint, fusion, factors, len(answers))
