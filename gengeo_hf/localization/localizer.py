"""From photos to places.

Before: an index, the model that made it, and photos. After: ranked places for maps.py, GeoJSON and people.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.tiles import EncoderLike
from gengeo_hf.index.adapt import adapted_for
from gengeo_hf.index.index import GeoIndex, Hit
from gengeo_hf.localization.answers import Answer, Place, merge_hits, place_of, to_geojson
from gengeo_hf.localization.confidence import Calibration
from gengeo_hf.localization.drive import Motion, follow, in_order
from gengeo_hf.localization.photos import (
    Photo,
    TooNarrowError,
    camera_note,
    encode_pictures,
    find_photos,
    ground_size,
    panorama_canvas,
    patch_of,
    pictures,
    read_photo,
)

if TYPE_CHECKING:
    from gengeo_hf.index.stores import StoreIndex

__all__ = [
    "Answer", "CameraView", "GeoLocalizer", "Motion", "Place", "caveat_of", "find_photos", "merge_hits",
    "open_index", "to_geojson",
]  # fmt: skip
VOTES_FOR_EACH = 8  # hits that are asked for, for each place wanted: enough for overlaps of 50 % and some strangers
# Places for which hits are asked at the least: a confidence, which needs the best place elsewhere, must not change with
# how many places the user wants to see.
LEAST_PLACES = 5
DRIVE_CANDIDATES = 20  # places of each frame that a drive may choose from


class GeoLocalizer:
    """A model and the index that it made, ready for photos.

    Args:
        encoder: see `gengeo_hf.encoding.encoder.Encoder`.
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
        self._off = calibration.caveat(len(index)) if calibration is not None else ""
        self._canvas, self._patch, self._target = panorama_canvas(encoder), patch_of(encoder), ground_size(encoder)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, index: str | Path, calibration: str | Path | None = None, **options: Any
    ) -> GeoLocalizer:
        """Load a checkpoint folder or Hub id, an index, and a calibration file if there is one.

        Args:
            index: a folder, or the address of a store such as `milvus:http://host:19530`.
            options: passed to `Encoder.from_pretrained`, for example `device="cpu"`; `backend` and `dtype` are "auto"
                unless given, which on a CPU takes what is fastest and agrees with float32. An index or a store of
                shortened descriptors (`truncate_dim`) shortens those of the photos by itself.
        """
        from gengeo_hf.encoding.encoder import Encoder

        table = Calibration.load(calibration) if calibration is not None else None
        gallery = open_index(index)  # before the model: it is quick to say that it is not there
        if isinstance(gallery, GeoIndex) and (width := gallery.manifest.model.truncate_dim):
            options.setdefault("truncate_dim", int(width))
        encoder = Encoder.from_pretrained(model, **({"backend": "auto", "dtype": "auto"} | options))
        if not isinstance(gallery, GeoIndex) and options.get("truncate_dim") is None:
            width = gallery.width_for(encoder.fingerprint, encoder.dim)
            if width is not None:
                encoder.truncate(width)
        if isinstance(gallery, GeoIndex):
            encoder = adapted_for(encoder, gallery.manifest)
        return cls(encoder, gallery, table)

    @property
    def caveat(self) -> str:
        """Warnings about what the model was trained on and about confidences; empty where there is nothing to say."""
        return "; ".join(filter(None, (caveat_of(getattr(self.encoder, "training_record", {})), self._off)))

    def locate(
        self,
        photo: Any,
        top: int = 5,
        near: tuple[float, float, float] | None = None,
        merge: bool = True,
        camera: CameraView | None = None,
    ) -> list[Place]:
        """Places where a photo may have been taken, best first.

        Args:
            photo: a path, bytes, an open file or a PIL image; a panorama, north-aligned, or an ordinary photo.
            top: how many places at most.
            near: only places within (lat, lon, radius in metres).
            merge: merge overlapping tiles into one place; False gives one place for each tile.
            camera: How the photo was taken, where the user knows better than its file; see `CameraView`.

        Raises:
            GenGeoError: the photo is missing or broken.
        """
        found = read_photo(photo, self._target)
        if found.image is None:
            raise GenGeoError(found.error)
        return self._places([found], top, [near], merge, camera or CameraView())[0]

    def locate_many(
        self,
        photos: Sequence[str | Path],
        top: int = 5,
        near: tuple[float, float, float] | None = None,
        merge: bool = True,
        exif_radius_m: float | None = None,
        threshold: float = 0.0,
        batch_size: int = 32,
        camera: CameraView | None = None,
    ) -> Iterator[Answer]:
        """Answer many photos, a batch at a time. A broken photo is an answer with an error, not the end.

        Args:
            photos: paths.
            top, near, merge, camera: as `locate`.
            exif_radius_m: search only within this distance of the position in a photo's EXIF data, where it has one.
            threshold: confidence below which an answer says "don't know"; needs a calibration.

        Yields:
            Answers in the order of the photos.

        Raises:
            GenGeoError: a threshold without a calibration.
        """
        if threshold > 0 and self.calibration is None:
            raise GenGeoError("a threshold needs confidences: make a calibration with gengeo calibrate, and give it")
        camera = camera or CameraView()
        for start in range(0, len(photos), batch_size):
            names = photos[start : start + batch_size]
            batch = [read_photo(name, self._target) for name in names]
            asked = [photo for photo in batch if photo.image is not None]
            own = [exif_radius_m is not None and photo.position is not None for photo in batch]
            priors = [
                (photo.position.lat, photo.position.lon, exif_radius_m) if mine and photo.position else near
                for photo, mine in zip(batch, own, strict=True)
                if photo.image is not None
            ]
            found = iter(self._places_each(asked, top, priors, merge, camera))
            for name, photo, mine in zip(names, batch, own, strict=True):
                places = next(found) if photo.image is not None else []
                known = not places or (places[0].confidence or 0.0) >= threshold
                note = camera_note(photo, camera, self._canvas)
                yield Answer(str(name), places, photo.position, photo.error, known, mine, note, photo.time)

    def locate_drive(
        self, photos: Sequence[str | Path], top: int = 5, motion: Motion | None = None, **options: Any
    ) -> list[Answer]:
        """Answer the frames of a drive together: see drive.py for the motion model.

        Args:
            photos: in the order of the drive; where all that can be read tell their time in EXIF, that is the order.
            top: how many places at most, the one on the way first.
            motion: top speed and interval.
            options: as `locate_many`.

        Returns:
            One answer for each frame, in the order of the drive.
        """
        motion = motion or Motion()
        found = list(self.locate_many(photos, top=max(top, DRIVE_CANDIDATES), **options))
        together = follow(*in_order(found, motion.interval_s), motion, options.get("threshold", 0.0))
        return [replace(answer, places=answer.places[:top]) for answer in together]

    def _places_each(
        self, photos: Sequence[Photo], top: int, priors: Sequence[Any], merge: bool, camera: CameraView
    ) -> list[list[Place]]:
        """As `_places`; a photo that is too narrow for the model gets none, and says so in its `error`."""
        try:
            return self._places(photos, top, priors, merge, camera)
        except TooNarrowError as error:
            if len(photos) == 1:
                photos[0].error = str(error)
                return [[]]
        pairs = zip(photos, priors, strict=True)
        return [self._places_each([photo], top, [near], merge, camera)[0] for photo, near in pairs]

    def _places(
        self, photos: Sequence[Photo], top: int, priors: Sequence[Any], merge: bool, camera: CameraView
    ) -> list[list[Place]]:
        """Hits of each photo as places."""
        views = [pictures(photo, camera, self._canvas, self._patch) for photo in photos]
        flat = [view for several in views for view in several]
        if not flat:
            return []
        asked = max(top, LEAST_PLACES) * VOTES_FOR_EACH if merge or self.calibration else top
        each = [prior for prior, several in zip(priors, views, strict=True) for _ in several]
        found = iter(self._search(encode_pictures(self.encoder, flat), asked, each))
        results = []
        for several in views:
            hits, headings = _best_of([(next(found), view.heading) for view in several], asked)
            places = merge_hits(hits) if merge else [place_of([hit], rank) for rank, hit in enumerate(hits, 1)]
            if len(several) > 1:
                places = [replace(place, heading=headings[place.tile_id]) for place in places]
            results.append((self.calibration.apply(places) if self.calibration else places)[:top])
        return results

    def _search(self, descriptors: np.ndarray, k: int, priors: Sequence[Any]) -> list[list[Hit]]:
        """Hits of each descriptor, each within its own prior."""
        if len(set(priors)) == 1:
            return self.index.search(descriptors, k, priors[0])
        return [self.index.search(vector, k, near)[0] for vector, near in zip(descriptors, priors, strict=True)]


def open_index(where: str | Path) -> GeoIndex | StoreIndex:
    """An index folder, or a store by its address."""
    from gengeo_hf.index.stores import connect, is_address

    return connect(str(where)) if is_address(str(where)) else GeoIndex.load(where)


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


def _best_of(several: Sequence[tuple[list[Hit], float]], k: int) -> tuple[list[Hit], dict[str, float]]:
    """The k best tiles over the pictures of one photo, each with its best score, and the heading that gave it."""
    if len(several) == 1:
        return several[0][0], {}
    best: dict[str, tuple[Hit, float]] = {}
    for hits, heading in several:
        for hit in hits:
            if hit.tile_id not in best or hit.score > best[hit.tile_id][0].score:
                best[hit.tile_id] = (hit, heading)
    ranked = sorted(best.values(), key=lambda pair: (-pair[0].score, pair[0].tile_id))[:k]
    return [hit for hit, _ in ranked], {hit.tile_id: heading for hit, heading in ranked}
