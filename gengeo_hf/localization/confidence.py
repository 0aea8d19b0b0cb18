"""Calibrated confidences: converts scores into probabilities, fitted on photos with known positions.

A cosine is not a probability: its meaning depends on the model and on the number of tiles. Photos with known positions
are used to fit:

- the probability that the best place is right: a logistic regression on its score and its lead over the best place
  at another location;
- the probability of each further place, given that the best one is wrong: a conditional logit over the places with
  "none of them" as one more outcome, so that the probabilities of one photo sum to at most 1;
- the probability that the photo is not in the index, for prior odds of 1: a logistic regression on score and lead, of
  the photos, and of the same photos without the tiles near their true position;
- radii within which 68 % and 95 % of the cameras of right places lie.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.files import atomic_file, digest_of, write_json
from gengeo_hf.common.statistics import wilson
from gengeo_hf.localization.confidence_fits import (
    CANDIDATES,
    MIN_PHOTOS,
    HeldOutPhoto,
    fit_absence,
    fit_best,
    fit_rest,
    held_out,
    logistic,
    place_groups,
    rest_probabilities,
    score_and_lead,
)
from gengeo_hf.localization.confidence_fits import auroc as area_under_roc
from gengeo_hf.localization.confidence_fits import brier_skill as skill
from gengeo_hf.localization.confidence_fits import radius_factors as radius_quantiles

if TYPE_CHECKING:
    from gengeo_hf.encoding.protocol import EncoderProtocol
    from gengeo_hf.localization.answers import Place

ABSENT = 0.75  # above this `not_in_index`, an answer notes that the photo is probably not in the index
FAR = 2  # ratio of gallery sizes above which confidences get a warning


@dataclass(frozen=True)
class Calibration:
    """Fitted confidences of a model and an index.

    The confidence of the best place is sigmoid(bias + score_weight * score + lead_weight * lead).

    Args:
        bias, score_weight, lead_weight: Coefficients of the regression for the best place.
        within_m: Largest distance of a right place from the true position, metres.
        fingerprint: Fingerprint of the model.
        gallery: Number of tiles in the index; confidences are wrong for a gallery of a very different size.
        photos: Number of held-out photos.
        expected_calibration_error: Mean gap between confidence and share of right answers over ten bins, measured on
            photos that the fit did not see (two-fold).
        reliability: (mean confidence, share right, photos) of each bin of that measurement.
        trade: (threshold, share of photos that are answered, share right of these), measured on the same photos, to
            choose a threshold below which answers are not `known`.
        rest_bias, rest_weight: Coefficients of the utility of a further place, rest_bias + rest_weight * (its score -
            the best score); "none of them" has utility 0.
        absence: Bias, score weight and lead weight of the probability that a photo is not in the index; empty if not
            fitted.
        radius_factors: Factors of `Place.uncertainty_m` that give the radii of 68 % and 95 %; empty if not fitted.
        brier_skill: 1 - Brier score / Brier score of always stating the share of right answers; for the best place and
            for places 2 to 5, measured on photos that the fit did not see.
        auroc: Area under the ROC curve of the best place's confidence, right against wrong, on the same photos.
    """

    bias: float
    score_weight: float
    lead_weight: float
    within_m: float
    fingerprint: str
    gallery: int
    photos: int
    expected_calibration_error: float
    reliability: tuple[tuple[float, float, int], ...] = ()
    trade: tuple[tuple[float, float, float], ...] = ()
    rest_bias: float = -2.0
    rest_weight: float = 0.0
    absence: tuple[float, ...] = ()
    radius_factors: tuple[float, ...] = ()
    brier_skill: tuple[float, ...] = ()
    auroc: float = 0.5

    @classmethod
    def fit(
        cls,
        places: Sequence[Sequence["Place"]],
        truth: Sequence[tuple[float, float]],
        fingerprint: str,
        gallery: int,
        within_m: float,
    ) -> "Calibration":
        """Fit on held-out photos.

        Args:
            places: Places of each photo, best first.
            truth: True latitude and longitude of each photo, degrees.
            fingerprint: Fingerprint of the model.
            gallery: Number of tiles in the index.
            within_m: Largest distance of a right place from the true position, metres.

        Raises:
            GenGeoError: There are fewer than 20 photos, or their answers are all right or all wrong.
        """
        answered = [(found, place) for found, place in zip(places, truth, strict=True) if found]
        check_photo_count(len(answered))
        photos = [HeldOutPhoto.of(found, *position, within_m) for found, position in answered]
        right = np.array([photo.right == 0 for photo in photos], dtype=float)
        if right.min() == right.max():
            state = "right" if right.max() else "wrong"
            raise GenGeoError(
                f"all {len(right)} answers are {state} within {within_m:g} m: a confidence cannot be fitted"
            )
        confidences, further, further_right = held_out(photos)
        gap, bins = reliability(confidences, right)
        (bias, score, lead), rest = fit_best(photos), fit_rest(photos)
        return cls(
            bias,
            score,
            lead,
            within_m,
            fingerprint,
            gallery,
            len(right),
            gap,
            bins,
            _trade(confidences, right),
            *rest,
            absence=fit_absence(photos),
            radius_factors=radius_quantiles(photos),
            brier_skill=(skill(confidences, right), skill(further, further_right)),
            auroc=area_under_roc(confidences, right),
        )

    def apply(self, places: Sequence["Place"], window: int | None = None) -> list["Place"]:
        """Add confidences and radii to places.

        Confidences of places that do not overlap sum to at most 1. Places with overlapping tiles (which were not
        merged) get the same confidence, which counts once.

        Args:
            places: Places of one photo, best first.
            window: Number of places that the confidences depend on, so that they do not change with the number of
                requested places; None takes all. The first ten that do not overlap get a confidence.

        Returns:
            The same places in the same order.
        """
        if not places:
            return []
        groups = place_groups(places[:window])
        firsts = list(dict.fromkeys(groups))[:CANDIDATES]
        stated = dict(zip(firsts, self._probabilities(np.array([places[row].score for row in firsts])), strict=True))
        each = [stated.get(group) for group in groups] + [None] * (len(places) - len(groups))
        done = []
        for place, confidence in zip(places, each, strict=True):
            radii: dict[str, Any] = self._radii(place)
            done.append(replace(place, confidence=None if confidence is None else float(confidence), **radii))
        return done

    def not_in_index(self, places: Sequence["Place"]) -> float | None:
        """Probability that a photo was taken outside of the index, for a prior probability of 0.5.

        Args:
            places: Places of one photo, best first.

        Returns:
            A probability in [0, 1]; None if it was not fitted or there are no places.
        """
        if not self.absence or not places:
            return None
        firsts = list(dict.fromkeys(place_groups(places)))[:CANDIDATES]
        scores = np.array([places[row].score for row in firsts])
        return float(logistic(np.array(self.absence), np.array([score_and_lead(scores)]))[0])

    def _probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities of places that do not overlap, from their scores in descending order."""
        weights = np.array([self.bias, self.score_weight, self.lead_weight])
        best = float(logistic(weights, np.array([score_and_lead(scores)]))[0])
        rest = rest_probabilities(np.array([self.rest_bias, self.rest_weight]), scores)
        return np.concatenate([[best], (1 - best) * rest])

    def _radii(self, place: "Place") -> dict[str, float]:
        if not self.radius_factors or place.uncertainty_m is None:
            return {}
        small, large = self.radius_factors
        return {"radius_68_m": small * place.uncertainty_m, "radius_95_m": large * place.uncertainty_m}

    def check_model(self, encoder: "EncoderProtocol") -> None:
        """Raise an error if the calibration was fitted on another model.

        Raises:
            GenGeoError: The fingerprints differ.
        """
        if encoder.fingerprint != self.fingerprint:
            raise GenGeoError(
                f"the calibration belongs to another model ({self.fingerprint[:12]}, this one is "
                f"{encoder.fingerprint[:12]}); make one for it with gengeo calibrate"
            )

    def caveat(self, gallery: int) -> str:
        """Warn if confidences were fitted with far fewer or far more tiles.

        Args:
            gallery: Number of tiles of the searched index.

        Returns:
            One sentence; empty without a warning.
        """
        if max(gallery, self.gallery) <= FAR * min(gallery, self.gallery):
            return ""
        high = "high" if gallery > self.gallery else "low"
        return (
            f"confidences were fitted with {self.gallery:,} tiles and the index has {gallery:,}, so they are too "
            f"{high}: run gengeo calibrate with this index"
        )

    def save(self, path: str | Path) -> None:
        """Write a JSON file, with the SHA-256 of its values."""
        values = asdict(self)
        write_json(path, values | {"sha256": digest_of(values)})

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read a file of `save`.

        Files of earlier versions have no SHA-256; they are accepted if every value has the right type.

        Raises:
            GenGeoError: The file is missing, is not a calibration, or was changed.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            digest = values.pop("sha256", None)
            for table in ("reliability", "trade"):
                values[table] = tuple(map(tuple, values.get(table, ())))
            for row in ("absence", "radius_factors", "brier_skill"):
                values[row] = tuple(values.get(row, ()))
            found = cls(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise GenGeoError(f"{path} is not a calibration ({error}); make one with gengeo calibrate") from error
        if digest is not None and digest != digest_of(values):
            raise GenGeoError(
                f"{path} is damaged or was changed (its values do not have the stored SHA-256); copy it again or "
                "make it again with gengeo calibrate"
            )
        if (wrong := found._wrong_value()) is not None:
            raise GenGeoError(f"{path} is not a calibration ({wrong}); make one with gengeo calibrate")
        return found

    def _wrong_value(self) -> str | None:
        """Describe the first value of a wrong type; None if there is none."""
        for name, value in vars(self).items():
            numbers = list(_flat(value))
            if not (isinstance(value, str) if name == "fingerprint" else all(map(_is_number, numbers))):
                return f"{name} is {value!r:.60}"
        return None


def _flat(value: object) -> Iterator[object]:
    """Yield the values of nested tuples."""
    if isinstance(value, tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _is_number(value: object) -> bool:
    """Whether a value is a finite int or float, not a bool, and within the range of float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def absence_notes(not_in_index: float | None) -> list[str]:
    """Notes for a photo that was probably taken outside of the index; empty up to `ABSENT`."""
    if not_in_index is None or not_in_index <= ABSENT:
        return []
    return [f"probably not in this index (probability {not_in_index:.0%}, for a prior of 50%)"]


def check_photo_count(photos: int) -> None:
    """Raise an error if there are too few photos for a fit.

    Raises:
        GenGeoError: There are fewer than `MIN_PHOTOS`.
    """
    if photos < MIN_PHOTOS:
        raise GenGeoError(f"at least {MIN_PHOTOS} held-out photos are needed, found {photos}")


def reliability(
    confidences: np.ndarray, right: np.ndarray, bins: int = 10
) -> tuple[float, tuple[tuple[float, float, int], ...]]:
    """Compute the expected calibration error and the bins of a reliability plot.

    Args:
        confidences: Stated confidences in [0, 1], shape (photos,).
        right: 1 where the answer was right, shape (photos,).

    Returns:
        The mean gap weighted by photos, and (mean confidence, share right, photos) of each bin that holds a photo.
    """
    cell = np.minimum((confidences * bins).astype(int), bins - 1)
    rows = tuple(
        (float(confidences[cell == b].mean()), float(right[cell == b].mean()), int((cell == b).sum()))
        for b in range(bins)
        if (cell == b).any()
    )
    return sum(abs(stated - found) * count for stated, found, count in rows) / len(confidences), rows


def reliability_plot(calibration: Calibration, path: str | Path) -> None:
    """Draw stated confidence against share of right answers, with a 95 % interval (Wilson) and the photos of each bin.

    Args:
        calibration: Result of `Calibration.fit`.
        path: PNG, SVG or PDF file to write.

    Raises:
        MissingExtraError: Matplotlib is not installed.
        GenGeoError: Matplotlib cannot write files with this ending.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "draw a reliability plot") from error
    stated, right, photos = (np.array(column, dtype=float) for column in zip(*calibration.reliability, strict=True))
    low, high = wilson(right, photos)
    figure = Figure(figsize=(5, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="#999", linestyle=":", label="stated = right")
    upper.errorbar(stated, right, (right - low, high - right), fmt="o-", color="#1f6feb", capsize=3, label="held out")
    upper.set(ylabel=f"share right within {calibration.within_m:g} m", xlim=(0, 1), ylim=(-0.02, 1.02))
    gap = calibration.expected_calibration_error
    upper.set_title(f"{calibration.photos} held-out photos, expected calibration error {gap:.3f}", fontsize=10)
    upper.legend(loc="upper left", frameon=False)
    lower.bar(stated, photos, width=0.06, color="#1f6feb")
    lower.set(xlabel="stated confidence of the best place", ylabel="photos")
    try:
        with atomic_file(path) as temporary:
            figure.savefig(temporary, dpi=150)
    except ValueError as problem:
        raise GenGeoError(f"{path} cannot be drawn: {problem}") from problem


def _trade(confidences: np.ndarray, right: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    """(threshold, share answered, share right of the answered) for thresholds with at least one answer."""
    rows = []
    for threshold in np.arange(0, 10) / 10:
        answered = confidences >= threshold
        if answered.any():
            rows.append((float(threshold), float(answered.mean()), float(right[answered].mean())))
    return tuple(rows)
