"""How sure an answer is: scores turned into chances by photos whose place is known.

Before: answers of a model on held-out pairs, with their distances to the truth. After: `Place.confidence`.

A cosine is no chance: how much it means depends on the model and on how many tiles compete. Two numbers of each place,
its score and its lead over the best place elsewhere, go into a logistic regression that is fitted on held-out photos.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.files import atomic_file, sum_of, write_json
from gengeo_hf.common.statistics import wilson
from gengeo_hf.localization.answers import share_ground

if TYPE_CHECKING:
    from gengeo_hf.encoding.protocol import EncoderProtocol
    from gengeo_hf.localization.answers import Place

MIN_PHOTOS = 20
FAR = 2  # times as many tiles, or as few, from where on confidences are called off
RIDGE = 1e-2  # keeps the weights finite when held-out photos are separated without an error


@dataclass(frozen=True)
class Calibration:
    """A fitted chance: sigmoid(bias + score_weight * score + lead_weight * lead).

    Args:
        bias, score_weight, lead_weight: the regression.
        within_m: "right" means closer than this to the truth, in metres.
        fingerprint: of the model.
        gallery: number of tiles that competed; with many more or fewer the chances are off.
        photos: how many held-out photos were used.
        expected_calibration_error: mean gap between chance and share of right answers over ten bins, measured on
            photos that the fit did not see (two-fold).
        reliability: (mean chance, share right, photos) of each bin of that measurement.
        trade: (threshold, share of photos that are answered, share right of these), measured on the same photos; how
            to choose the confidence below which "don't know" is the answer.
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

    @classmethod
    def fit(
        cls,
        places: Sequence[Sequence["Place"]],
        truth: Sequence[tuple[float, float]],
        fingerprint: str,
        gallery: int,
        within_m: float,
    ) -> "Calibration":
        """Fit on the best place of each held-out photo, and on its lead.

        Args:
            places: what was found for each photo, best first.
            truth: latitude and longitude of each photo.
            fingerprint: of the model.
            gallery: number of tiles that competed.
            within_m: how near is right, in metres.

        Raises:
            GenGeoError: fewer than 20 photos, or all of them right or all wrong.
        """
        from gengeo_hf.common.geo import great_circle_m

        answered = [(found, place) for found, place in zip(places, truth, strict=True) if found]
        check_number(len(answered))
        features = np.array([_features(found)[0] for found, _ in answered])
        right = np.array([great_circle_m(f[0].lat, f[0].lon, *t) <= within_m for f, t in answered], dtype=float)
        if right.min() == right.max():
            state = "right" if right.max() else "wrong"
            raise GenGeoError(
                f"all {len(right)} answers are {state} within {within_m:g} m: nothing to learn a chance from"
            )
        halves = np.arange(len(right)) % 2
        chances = np.empty(len(right))
        for half in (0, 1):
            chances[halves == half] = _chance(
                _fit(features[halves != half], right[halves != half]), features[halves == half]
            )
        gap, bins = reliability(chances, right)
        bias, score, lead = _fit(features, right).tolist()
        trade = _trade(chances, right)
        return cls(bias, score, lead, within_m, fingerprint, gallery, len(right), gap, bins, trade)

    def apply(self, places: Sequence["Place"]) -> list["Place"]:
        """The same places with a confidence each.

        Args:
            places: of one photo, best first.
        """
        if not places:
            return []
        weights = np.array([self.bias, self.score_weight, self.lead_weight])
        chances = _chance(weights, np.array(_features(places)))
        return [replace(place, confidence=float(chance)) for place, chance in zip(places, chances, strict=True)]

    def check_model(self, encoder: "EncoderProtocol") -> None:
        """Refuse a calibration that was fitted on another model's scores.

        Raises:
            GenGeoError: the fingerprints differ.
        """
        if encoder.fingerprint != self.fingerprint:
            raise GenGeoError(
                f"the calibration belongs to another model ({self.fingerprint[:12]}, this one is "
                f"{encoder.fingerprint[:12]}); make one for it with gengeo calibrate"
            )

    def caveat(self, gallery: int) -> str:
        """A warning where confidences were fitted among far fewer or far more tiles; empty otherwise.

        Args:
            gallery: number of tiles that compete.
        """
        if max(gallery, self.gallery) <= FAR * min(gallery, self.gallery):
            return ""
        high = "high" if gallery > self.gallery else "low"
        return (
            f"confidences were fitted among {self.gallery:,} tiles and {gallery:,} compete, so they are too {high}: "
            "run gengeo calibrate with this index"
        )

    def save(self, path: str | Path) -> None:
        """Write as JSON, with the SHA-256 of what it says."""
        values = asdict(self)
        write_json(path, values | {"sha256": sum_of(values)})

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read what `save` wrote.

        A file of an earlier version states no SHA-256: it is taken when every value is of the right kind.

        Raises:
            GenGeoError: missing, not a calibration, or not as it was written.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            stated = values.pop("sha256", None)
            for table in ("reliability", "trade"):
                values[table] = tuple(map(tuple, values.get(table, ())))
            found = cls(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise GenGeoError(f"{path} is no calibration ({error}); make one with gengeo calibrate") from error
        if stated is not None and stated != sum_of(values):
            raise GenGeoError(
                f"{path} is damaged or was changed (its SHA-256 is not the one that it states): its confidences cannot "
                "be believed; copy it again or make it again with gengeo calibrate"
            )
        if (wrong := found._wrong_value()) is not None:
            raise GenGeoError(f"{path} is no calibration ({wrong}); make one with gengeo calibrate")
        return found

    def _wrong_value(self) -> str | None:
        """Which value is of another kind than it must be; None where all are right."""
        for name, value in vars(self).items():
            numbers = [number for row in value for number in row] if name in ("reliability", "trade") else [value]
            if not (isinstance(value, str) if name == "fingerprint" else all(map(_is_number, numbers))):
                return f"{name} is {value!r:.60}"
        return None


def _is_number(value: object) -> bool:
    """True for a finite int or float; True and False are none, and JSON knows integers beyond every float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_number(photos: int) -> None:
    """Refuse to learn from too few photos.

    Raises:
        GenGeoError: fewer than `MIN_PHOTOS`.
    """
    if photos < MIN_PHOTOS:
        raise GenGeoError(f"at least {MIN_PHOTOS} held-out photos are needed, found {photos}")


def reliability(
    chances: np.ndarray, right: np.ndarray, bins: int = 10
) -> tuple[float, tuple[tuple[float, float, int], ...]]:
    """Expected calibration error and the bins of a reliability plot.

    Args:
        chances: stated chances in [0, 1], shape (photos,).
        right: 1 where the answer was right, shape (photos,).

    Returns:
        The mean gap weighted by photos, and (mean chance, share right, photos) of each bin that holds a photo.
    """
    place = np.minimum((chances * bins).astype(int), bins - 1)
    rows = tuple(
        (float(chances[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
        for b in range(bins)
        if (place == b).any()
    )
    return sum(abs(stated - found) * count for stated, found, count in rows) / len(chances), rows


def reliability_plot(calibration: Calibration, path: str | Path) -> None:
    """Draw stated chance against share of right answers, with a 95 % interval (Wilson) and the photos of each bin.

    Args:
        calibration: of `Calibration.fit`.
        path: PNG, SVG or PDF.

    Raises:
        MissingExtraError: matplotlib is not installed.
        GenGeoError: the ending is none that matplotlib draws.
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


def _trade(chances: np.ndarray, right: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    """(threshold, share answered, share right of the answered) for thresholds at which something is answered."""
    rows = []
    for threshold in np.arange(0, 10) / 10:
        answered = chances >= threshold
        if answered.any():
            rows.append((float(threshold), float(answered.mean()), float(right[answered].mean())))
    return tuple(rows)


def _features(places: Sequence["Place"]) -> list[tuple[float, float]]:
    """Score of each place and its lead over the best place elsewhere (0 where there is none).

    A tile that overlaps its own speaks for the same ground and is no rival: so places that were not merged get the
    chances of merged ones.
    """
    rows = []
    for place in places:
        rival = next((other for other in places if other is not place and not share_ground(place, other)), None)
        rows.append((place.score, place.score - rival.score if rival is not None else 0.0))
    return rows


def _chance(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    logits = weights[0] + features @ weights[1:]
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))


def _fit(features: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Ridge logistic regression by Newton steps on standardised features; (bias, score weight, lead weight)."""
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    design = np.column_stack([np.ones(len(right)), (features - mean) / scale])
    penalty = np.diag([0.0, 1.0, 1.0]) * RIDGE * len(right)
    weights = np.zeros(3)
    for _ in range(50):
        chance = _chance(weights, design[:, 1:])
        slope = design.T @ (chance - right) + penalty @ weights
        curvature = design.T @ (design * (chance * (1 - chance))[:, None]) + penalty + 1e-9 * np.eye(3)
        step = np.linalg.solve(curvature, slope)
        weights = weights - step * min(1.0, 5.0 / (np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return np.array([weights[0] - (weights[1:] / scale * mean).sum(), *(weights[1:] / scale)])
