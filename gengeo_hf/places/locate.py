"""From photos to places.

Before: an index, the model that made it, and photos. After: ranked places for maps.py, GeoJSON and people.

Tiles overlap, so one place answers with several tiles. Hits whose tiles overlap are votes for the same place: they are
merged into one position, weighted by score, with a radius that says how far the photo may stand from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.errors import GenGeoError
from gengeo_hf.places.geodesy import Bounds, great_circle_m, mean_position, size_of
from gengeo_hf.places.index import EncoderLike, GeoIndex, Hit

if TYPE_CHECKING:
    from gengeo_hf.data.images import PhotoPosition
    from gengeo_hf.places.confidence import Calibration
    from gengeo_hf.places.stores import StoreIndex

VOTES_FOR_EACH = 8  # hits that are asked for, for each place wanted: enough for overlaps of 50 % and some strangers
SHARPNESS = 20.0  # weight of a vote is exp(SHARPNESS * score): 0.05 less cosine weighs about a third
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif")


@dataclass(frozen=True)
class Place:
    """Where a photo may have been taken.

    Args:
        rank: 1 is the best.
        lat, lon: degrees, WGS84: the score-weighted mean of the tiles that voted for the place.
        score: cosine of the photo and the best of these tiles.
        tile_id: that best tile.
        bounds: its box, None where the index does not know it.
        uncertainty_m: root-mean-square distance in metres of a photo that stands anywhere in the tiles that voted;
            None where neither tile size nor a second vote tells.
        votes: number of tiles merged into this place.
        confidence: chance that the place is right, in [0, 1]; None without a calibration.
        area, source: what the index knows about the best tile.
    """

    rank: int
    lat: float
    lon: float
    score: float
    tile_id: str
    bounds: Bounds | None = None
    uncertainty_m: float | None = None
    votes: int = 1
    confidence: float | None = None
    area: str = ""
    source: str = ""


@dataclass(frozen=True)
class Answer:
    """What was found for one photo.

    Args:
        photo: its path or name.
        places: best first; empty where the photo could not be read or nothing lies near the prior.
        truth: position in the photo's EXIF data, shown beside the answer and never used for it unless asked.
        error: why there is no answer.
        known: False when the best place is less sure than the threshold: the honest answer is "don't know".
    """

    photo: str
    places: list[Place] = field(default_factory=list)
    truth: PhotoPosition | None = None
    error: str = ""
    known: bool = True

    @property
    def truth_error_m(self) -> float | None:
        """Metres from the best place to the position in the photo's EXIF data."""
        if not self.places or self.truth is None:
            return None
        best = self.places[0]
        return float(great_circle_m(best.lat, best.lon, self.truth.lat, self.truth.lon))


class GeoLocalizer:
    """A model and the index that it made, ready for photos.

    Args:
        encoder: see `gengeo_hf.encoder.Encoder`.
        index: the gallery.
        calibration: turns scores into confidences; None gives none.

    Raises:
        GenGeoError: another model made the index, or the calibration belongs to another model.

    Example:
        >>> localizer = GeoLocalizer.from_pretrained("./gengeo-cvusa", "city.gengeo")
        >>> places = localizer.locate("photo.jpg")
        >>> print(places[0].lat, places[0].lon)
    """

    def __init__(
        self, encoder: EncoderLike, index: GeoIndex | StoreIndex, calibration: Calibration | None = None
    ) -> None:
        index.check_model(encoder)
        if calibration is not None:
            calibration.check_model(encoder)
        self.encoder, self.index, self.calibration = encoder, index, calibration

    @classmethod
    def from_pretrained(
        cls, model: str | Path, index: str | Path, calibration: str | Path | None = None, **options: Any
    ) -> GeoLocalizer:
        """Load a checkpoint folder or Hub id, an index, and a calibration file if there is one.

        Args:
            index: a folder, or the address of a store such as `milvus:http://host:19530`.
            options: passed to `Encoder.from_pretrained`, for example `device="cpu"`.
        """
        from gengeo_hf.encoder import Encoder
        from gengeo_hf.places.confidence import Calibration

        table = Calibration.load(calibration) if calibration is not None else None
        gallery = open_index(index)  # before the model: it is quick to say that it is not there
        return cls(Encoder.from_pretrained(model, **options), gallery, table)

    @property
    def caveat(self) -> str:
        """A warning about what the model was trained on; empty where there is nothing to warn of."""
        return caveat_of(getattr(self.encoder, "training_record", {}))

    def locate(
        self, photo: Any, top: int = 5, near: tuple[float, float, float] | None = None, merge: bool = True
    ) -> list[Place]:
        """Places where a photo may have been taken, best first.

        Args:
            photo: a path, bytes or a PIL image. A panorama must be north-aligned as the training data were.
            top: how many places at most.
            near: only places within (lat, lon, radius in metres).
            merge: merge overlapping tiles into one place; False gives one place for each tile.

        Raises:
            GenGeoError: the photo is missing or broken.
        """
        return self._places(self.encoder.encode([opened(photo)], view="ground"), top, [near], merge)[0]

    def locate_many(
        self,
        photos: Sequence[str | Path],
        top: int = 5,
        near: tuple[float, float, float] | None = None,
        merge: bool = True,
        exif_radius_m: float | None = None,
        threshold: float = 0.0,
        batch_size: int = 32,
    ) -> Iterator[Answer]:
        """Answer many photos, a batch at a time. A broken photo is an answer with an error, not the end.

        Args:
            photos: paths.
            top, near, merge: as `locate`.
            exif_radius_m: search only within this distance of the position in a photo's EXIF data, where it has one.
            threshold: confidence below which an answer says "don't know"; needs a calibration.

        Yields:
            Answers in the order of the photos.
        """
        if threshold > 0 and self.calibration is None:
            raise GenGeoError("a threshold needs confidences: make a calibration with gengeo calibrate, and give it")
        for start in range(0, len(photos), batch_size):
            batch = [_read_photo(photo) for photo in photos[start : start + batch_size]]
            images = [image for image, _, _ in batch if image is not None]
            priors = [
                (gps.lat, gps.lon, exif_radius_m) if gps is not None and exif_radius_m is not None else near
                for image, gps, _ in batch
                if image is not None
            ]
            found: Iterator[list[Place]] = iter(())
            if images:
                found = iter(self._places(self.encoder.encode(images, view="ground"), top, priors, merge))
            for photo, (image, truth, error) in zip(photos[start : start + batch_size], batch, strict=True):
                places = next(found) if image is not None else []
                known = not places or (places[0].confidence or 0.0) >= threshold
                yield Answer(str(photo), places, truth, error, known)

    def _places(self, descriptors: np.ndarray, top: int, priors: Sequence[Any], merge: bool) -> list[list[Place]]:
        """Hits of each photo as places."""
        asked = max(top * VOTES_FOR_EACH, 20) if merge else top + 1  # one more, for the margin of a confidence
        if len(set(priors)) == 1:
            all_hits = self.index.search(descriptors, asked, priors[0])
        else:
            each = zip(descriptors, priors, strict=True)
            all_hits = [self.index.search(vector, asked, near)[0] for vector, near in each]
        results = []
        for hits in all_hits:
            places = merge_hits(hits) if merge else [_place([hit], rank) for rank, hit in enumerate(hits, 1)]
            results.append((self.calibration.apply(places) if self.calibration else places)[:top])
        return results


def open_index(where: str | Path) -> GeoIndex | StoreIndex:
    """An index folder, or a store by its address."""
    from gengeo_hf.places.stores import connect, is_address

    return connect(str(where)) if is_address(str(where)) else GeoIndex.load(where)


def merge_hits(hits: Sequence[Hit]) -> list[Place]:
    """Merge votes of overlapping tiles, best first.

    The best hit that is left takes every other hit whose tile overlaps its own; tiles of unknown size never merge.
    """
    left = list(hits)
    places: list[Place] = []
    while left:
        best = left[0]
        votes = [hit for hit in left if hit is best or _overlap(best, hit)]
        left = [hit for hit in left if all(hit is not vote for vote in votes)]
        places.append(_place(votes, len(places) + 1))
    return places


def caveat_of(record: dict[str, Any]) -> str:
    """What a user must know before believing the answers of a model with this training record."""
    if not record:
        return (
            "unknown training data: this checkpoint has no training record, and its weights may even be random; "
            "believe its answers only after an evaluation"
        )
    if record.get("synthetic"):
        return (
            f"this model was trained on the synthetic {record.get('trained_on', 'world')} only and has never seen a "
            "real photo: its answers on real photos mean nothing"
        )
    return ""


def find_photos(paths: Iterable[str | Path]) -> list[Path]:
    """Photos that are named, and those in folders that are named, in name order.

    Raises:
        GenGeoError: a folder without photos. A missing file is left for the answer to say.
    """
    photos: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            photos.append(path)
            continue
        inside = sorted(child for child in path.rglob("*") if child.suffix.lower() in PHOTO_SUFFIXES)
        if not inside:
            raise GenGeoError(f"{path} holds no photo ({', '.join(PHOTO_SUFFIXES)})")
        photos.extend(inside)
    return photos


def to_geojson(answers: Sequence[Answer], caveat: str = "") -> str:
    """Answers as a GeoJSON FeatureCollection (RFC 7946): one point for each place and each EXIF position."""
    features = []
    for answer in answers:
        for place in answer.places:
            values = {key: value for key, value in vars(place).items() if key not in ("lat", "lon", "bounds")}
            values |= {"bounds": list(place.bounds) if place.bounds else None, "known": answer.known}
            features.append(_feature(place.lat, place.lon, {"photo": answer.photo, "kind": "place"} | values))
        if answer.truth is not None:
            properties = {"photo": answer.photo, "kind": "exif", "error_m": answer.truth_error_m}
            features.append(_feature(answer.truth.lat, answer.truth.lon, properties))
    errors = {answer.photo: answer.error for answer in answers if answer.error}
    collection = {"type": "FeatureCollection", "features": features, "caveat": caveat, "errors": errors}
    return json.dumps(collection, indent=1, allow_nan=False) + "\n"


def opened(photo: Any) -> Any:
    """A PIL image from a path, bytes, an open file or an image."""
    from gengeo_hf.data.images import open_image

    return photo if hasattr(photo, "getbands") else open_image(photo)


def _feature(lat: float, lon: float, properties: dict[str, Any]) -> dict[str, Any]:
    point = {"type": "Point", "coordinates": [round(lon, 7), round(lat, 7)]}
    return {"type": "Feature", "geometry": point, "properties": properties}


def _read_photo(photo: str | Path) -> tuple[Any, PhotoPosition | None, str]:
    """Pixels, EXIF position and error of one photo."""
    from gengeo_hf.data.images import photo_position

    try:
        image = opened(photo)
        return image, photo_position(photo), ""
    except GenGeoError as error:
        return None, None, str(error)


def _place(votes: Sequence[Hit], rank: int) -> Place:
    """One place from its votes, the best of which comes first."""
    best = votes[0]
    lat, lon = (np.array([getattr(hit, name) for hit in votes]) for name in ("lat", "lon"))
    weights = np.exp(SHARPNESS * (np.array([hit.score for hit in votes]) - best.score))
    middle = mean_position(lat, lon, weights) if len(votes) > 1 else (best.lat, best.lon)
    spread = float(np.average(great_circle_m(lat, lon, *middle) ** 2, weights=weights))
    # A photo stands anywhere in its tile: the mean square distance from the middle of a w x h box is (w^2 + h^2) / 12.
    within = sum(side**2 for side in size_of(best.bounds)) / 12 if best.bounds else 0.0
    radius = math.sqrt(spread + within) or None
    return Place(
        rank, *middle, best.score, best.tile_id, best.bounds, radius, len(votes), area=best.area, source=best.source
    )


def _overlap(a: Hit, b: Hit) -> bool:
    """True where two tiles share ground."""
    if a.bounds is None or b.bounds is None:
        return False
    apart = (b.lon - a.lon + 180.0) % 360.0 - 180.0
    width = sum((box.east - box.west) % 360.0 for box in (a.bounds, b.bounds)) / 2
    height = ((a.bounds.north - a.bounds.south) + (b.bounds.north - b.bounds.south)) / 2
    return abs(apart) < width * (1 - 1e-6) and abs(b.lat - a.lat) < height * (1 - 1e-6)
