"""Confidences, radii and `not_in_index` on mosaics of test regions of the synthetic world, fitted on other regions.

    python benchmarks/calibration.py --model runs/world_anywhere/model
    python benchmarks/calibration.py --model runs/world_anywhere/model --photos 150      # quick test

Indexes hold 65 m tiles of orthophoto mosaics with 50 % overlap. The calibration is fitted once, on photos and the index
of one set of urban test regions, and measured on other urban regions and on rural regions. Photos of other regions of
the same domain are those "not in the index". Confidences are those of `GeoLocalizer`. The model must find photos
anywhere in a tile, such as that of `python training/curriculum.py world_anywhere`; a model of centred pairs finds few
photos in a mosaic. The world is synthetic: results do not transfer to real photos.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from world_mosaics import RegionPhotos, draw_mosaics, draw_photos, index_mosaics

from gengeo_hf.common.files import write_json
from gengeo_hf.common.statistics import wilson
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization import GeoLocalizer
from gengeo_hf.localization.answers import Answer
from gengeo_hf.localization.confidence import ABSENT, CANDIDATES, Calibration
from gengeo_hf.world.regions import Region

WITHIN_M = 50.0  # the default of `gengeo calibrate --within`
SHOWN = 5  # evaluated places: rank 1, and ranks 2 to 5 pooled
HERE = Path(__file__).parent


@dataclass
class Group:
    """Regions of one domain: their photos and the index of their mosaics."""

    photos: RegionPhotos
    index: GeoIndex


def make_group(encoder: Encoder, domain: str, numbers: range, photos: int, folder: Path) -> Group:
    """Draw photos and mosaics of some test regions, and index the mosaics."""
    regions = [Region(domain, "test", 0, number) for number in numbers]
    name = f"{domain}-{numbers.start}"
    paths = draw_mosaics(regions, folder / name)
    return Group(draw_photos(regions, photos), index_mosaics(encoder, paths, folder / f"{name}.gengeo"))


def brier_skill(stated: np.ndarray, right: np.ndarray) -> float | None:
    """Brier skill against always stating the share of right answers; None if all are right or all are wrong."""
    base = right.mean() * (1 - right.mean())
    return float(1 - ((stated - right) ** 2).mean() / base) if base else None


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve by counting pairs, ties half; None without both outcomes."""
    one, other = scores[positive], scores[~positive]
    if not len(one) or not len(other):
        return None
    return float(((one[:, None] > other) + 0.5 * (one[:, None] == other)).mean())


def interval(statistic: Any, columns: list[np.ndarray], seed: int = 0) -> list[float]:
    """95 % percentile bootstrap over photos."""
    rng, count = np.random.default_rng(seed), len(columns[0])
    draws = [statistic(*(column[rows] for column in columns)) for rows in rng.integers(0, count, (500, count))]
    return [float(value) for value in np.percentile([draw for draw in draws if draw is not None], [2.5, 97.5])]


def measure(answers: list[Answer], photos: RegionPhotos) -> dict[str, Any]:
    """All measures of one set of photos whose places have confidences and radii."""
    away = [
        photos.distances(row, *(np.array([getattr(p, side) for p in answer.places]) for side in ("lat", "lon")))
        for row, answer in enumerate(answers)
    ]
    right = np.array([distances[0] <= WITHIN_M for distances in away])
    sure = np.array([answer.places[0].confidence for answer in answers])
    further = [
        (place.confidence, distance <= WITHIN_M)
        for answer, distances in zip(answers, away, strict=True)
        for place, distance in zip(answer.places[1:SHOWN], distances[1:SHOWN], strict=True)
    ]
    stated, further_right = (np.array(column, dtype=float) for column in zip(*further, strict=True))
    good = [(a.places[0], d[0]) for a, d, is_right in zip(answers, away, right, strict=True) if is_right]
    covers = {share: np.array([d <= getattr(p, f"radius_{share}_m") for p, d in good]) for share in (68, 95)}
    sums = [sum(place.confidence or 0.0 for place in answer.places) for answer in answers]
    return {
        "photos": len(answers),
        "share_right": float(right.mean()),
        "brier_skill_rank_1": brier_skill(sure, right.astype(float)),
        "brier_skill_rank_1_interval": interval(brier_skill, [sure, right.astype(float)]),
        "brier_skill_ranks_2_to_5": brier_skill(stated, further_right),
        "share_right_ranks_2_to_5": float(further_right.mean()),
        "auroc_right": auroc(sure, right),
        "auroc_right_interval": interval(auroc, [sure, right]),
        "mean_confidence_rank_1": float(sure.mean()),
        "largest_sum_of_confidences": float(max(sums)),
        "radius_95_covers": float(covers[95].mean()),
        "radius_95_covers_interval": [float(v) for v in wilson(float(covers[95].mean()), len(good))],
        "radius_68_covers": float(covers[68].mean()),
        "radius_68_median_m": float(np.median([place.radius_68_m for place, _ in good])),
        "radius_95_median_m": float(np.median([place.radius_95_m for place, _ in good])),
    }


def absence(here: list[Answer], elsewhere: list[Answer]) -> dict[str, Any]:
    """How well `not_in_index` separates photos of the index from photos of other regions."""
    inside, outside = (np.array([answer.not_in_index for answer in answers]) for answers in (here, elsewhere))
    stated = np.concatenate([inside, outside])
    return {
        "not_in_index_auroc": auroc(stated, np.arange(len(stated)) >= len(inside)),
        "not_in_index_threshold": ABSENT,
        "not_in_index_false_alarms": float((inside > ABSENT).mean()),
        "not_in_index_detected": float((outside > ABSENT).mean()),
        "not_in_index_false_alarms_at_0.5": float((inside > 0.5).mean()),
        "not_in_index_detected_at_0.5": float((outside > 0.5).mean()),
        "absent_photos": len(outside),
    }


def run(model: str, photos: int, folder: Path) -> dict[str, Any]:
    """Fit on one half of the urban regions; measure on the other half and on rural regions."""
    encoder = Encoder.from_pretrained(model, device="cpu")
    count = -(-photos // 150)  # regions in a group
    fitted_on = make_group(encoder, "urban", range(count), photos, folder)
    found = GeoLocalizer(encoder, fitted_on.index).locate_many(fitted_on.photos.images, top=CANDIDATES)
    places = [answer.places for answer in found]
    calibration = Calibration.fit(places, fitted_on.photos.truth, encoder.fingerprint, len(fitted_on.index), WITHIN_M)
    elsewhere = {
        "urban": fitted_on.photos,
        "rural": draw_photos([Region("rural", "test", 0, 40 + n) for n in range(count)], photos),
    }
    result: dict[str, Any] = {"model": Path(model).name, "within_m": WITHIN_M, "fitted_tiles": calibration.gallery}
    for domain in ("urban", "rural"):
        group = make_group(encoder, domain, range(20, 20 + count), photos, folder)
        localizer = GeoLocalizer(encoder, group.index, calibration=calibration)
        answers = list(localizer.locate_many(group.photos.images, top=CANDIDATES))
        absent = list(localizer.locate_many(elsewhere[domain].images, top=CANDIDATES))
        result[domain] = {"tiles": len(group.index)} | measure(answers, group.photos) | absence(answers, absent)
    return result


def main() -> None:
    """Build, fit, measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--photos", type=int, default=600, help="photos of each group of regions")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    given = parser.parse_args()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = run(given.model, given.photos, Path(folder))
    result["cpu_seconds"] = round(time.process_time() - started, 1)
    print(json.dumps(result, indent=1))
    if given.out:
        write_json(given.out, result)


if __name__ == "__main__":
    main()
