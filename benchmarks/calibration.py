"""Confidences, radii and `not_in_index` on test regions of the synthetic world, fitted on other regions.

    python benchmarks/calibration.py --model demo/gengeo-world-urban
    python benchmarks/calibration.py --model demo/gengeo-world-urban --domain rural --photos 500

Two indexes hold the aerial tiles (65 m) that the world draws for photos of its test regions, one half of the regions
each. Photos of the first half fit the calibration, photos of the second half measure it. Photos of the first half,
asked in the index of the second, are those "not in the index". The tiles are those of the data set, not a mosaic.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.common.statistics import wilson
from gengeo_hf.data import load_pairs
from gengeo_hf.data.loading import GroundImages
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.imagery.dataset import DatasetTiles
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization import GeoLocalizer
from gengeo_hf.localization.confidence import CANDIDATES, Calibration

WITHIN_M = 50.0


def answers_of(localizer: GeoLocalizer, data: object, rows: list[int]) -> list[list]:
    """Places of some photos of a data set."""
    images = GroundImages(data)
    return [answer.places for answer in localizer.locate_many([images[row] for row in rows], top=CANDIDATES)]


def brier_skill(stated: np.ndarray, right: np.ndarray) -> float:
    """Against always stating the share of right answers."""
    base = right.mean() * (1 - right.mean())
    return float(1 - ((stated - right) ** 2).mean() / base) if base else 0.0


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """By counting pairs, ties half."""
    one, other = scores[positive], scores[~positive]
    return float(((one[:, None] > other) + 0.5 * (one[:, None] == other)).mean())


def measure(calibration: Calibration, places: list[list], truth: list[tuple[float, float]]) -> dict[str, object]:
    """All figures of one set of photos."""
    best, right, further, further_right, inside, radii = [], [], [], [], {68: [], 95: []}, []
    for found, where in zip(places, truth, strict=True):
        stated = calibration.apply(found)
        away = [float(great_circle_m(place.lat, place.lon, *where)) for place in stated]
        best.append(stated[0].confidence)
        right.append(away[0] <= WITHIN_M)
        further += [place.confidence for place in stated[1:5]]
        further_right += [distance <= WITHIN_M for distance in away[1:5]]
        if right[-1] and stated[0].radius_95_m is not None:
            inside[68].append(away[0] <= stated[0].radius_68_m)
            inside[95].append(away[0] <= stated[0].radius_95_m)
            radii.append(stated[0].radius_68_m)
    hits, sure = np.array(right), np.array(best)
    covered = float(np.mean(inside[95])) if radii else float("nan")
    return {
        "photos": len(hits),
        "right": float(hits.mean()),
        "brier_skill_best": brier_skill(sure, hits.astype(float)),
        "brier_skill_places_2_to_5": brier_skill(np.array(further), np.array(further_right, dtype=float)),
        "auroc_right": auroc(sure, hits) if hits.any() and not hits.all() else None,
        "radius_95_covers": covered,
        "radius_95_interval": [float(v) for v in wilson(covered, len(radii))],
        "radius_68_covers": float(np.mean(inside[68])) if radii else None,
        "radius_68_median_m": float(np.median(radii)) if radii else None,
    }


def main() -> None:
    """Build, fit, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--domain", default="urban", choices=("urban", "rural"))
    parser.add_argument("--photos", type=int, default=1000, help="photos, half of which fit the calibration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="folder of worlds that are drawn already")
    given = parser.parse_args()
    data = load_pairs(f"world-{given.domain}", given.cache, "test", num_pairs=given.photos, seed=given.seed)
    encoder = Encoder.from_pretrained(given.model, device="cpu")
    areas = np.array(data.queries["area"][:])
    names = sorted(set(areas.tolist()))
    halves = [np.flatnonzero(np.isin(areas, names[half::2])).tolist() for half in (0, 1)]
    truth = list(zip(data.queries["lat"][:], data.queries["lon"][:], strict=True))
    with tempfile.TemporaryDirectory() as folder:
        localizers = []
        for half in (0, 1):
            rows = np.flatnonzero(np.isin(np.array(data.gallery["area"][:]), names[half::2])).tolist()
            tiles = DatasetTiles(data.gallery.select(rows), f"half {half}")
            localizers.append(GeoLocalizer(encoder, GeoIndex.build(encoder, tiles, Path(folder) / f"{half}.gengeo")))
        found = [answers_of(localizers[half], data, halves[half]) for half in (0, 1)]
        absent = answers_of(localizers[1], data, halves[0])
        size = len(localizers[0].index)
    where = [[truth[row] for row in rows] for rows in halves]
    fitted = Calibration.fit(found[0], where[0], encoder.fingerprint, size, WITHIN_M)
    result = {"domain": given.domain, "tiles": size} | measure(fitted, found[1], where[1])
    stated = np.array([fitted.not_in_index(places) or 0.0 for places in [*found[1], *absent]])
    is_absent = np.arange(len(stated)) >= len(found[1])
    result["auroc_not_in_index"] = auroc(stated, is_absent)
    result["false_alarms_at_0.5"] = float((stated[~is_absent] > 0.5).mean())
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
