"""`GeoLocalizer`: locates photos with a model and an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, overload

import numpy as np
from PIL import Image

from gengeo_hf.common.area import Area
from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.checkpoints import caveat_of
from gengeo_hf.encoding.inputs import is_single_image
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.index.adapt import adapted_for, encoder_options
from gengeo_hf.index.hits import Hit
from gengeo_hf.index.index import GeoIndex
from gengeo_hf.localization.answers import Answer, Place, Track, merge_hits, merge_votes, to_geojson
from gengeo_hf.localization.area_notes import far_note
from gengeo_hf.localization.confidence import Calibration, absence_notes
from gengeo_hf.localization.drive import Motion, correct_drive, order_frames
from gengeo_hf.localization.photos import (
    Photo,
    Picture,
    TooNarrowError,
    camera_notes,
    encode_pictures,
    find_photos,
    panorama_canvas,
    pictures,
    read_photo,
    widened_note,
)
from gengeo_hf.localization.sources import batched, load_photo, source_name, video_seconds

if TYPE_CHECKING:
    from gengeo_hf.index.stores import StoreIndex
    from gengeo_hf.localization.pose import PoseFinder, PoseSettings

__all__ = [
    "Answer",
    "CameraView",
    "GeoLocalizer",
    "Motion",
    "Place",
    "Track",
    "caveat_of",
    "find_photos",
    "merge_hits",
    "open_index",
    "to_geojson",
]
VOTES_FOR_EACH = 8  # hits requested for each place: enough for tiles that overlap by 50 %, and some other hits
# Minimum number of places for which hits are requested: a confidence, which needs the best place at another location,
# must not depend on the number of places that the user requests.
LEAST_PLACES = 10
DRIVE_CANDIDATES = 20  # places of each frame that a drive may choose from
OnePhoto: TypeAlias = str | Path | bytes | BinaryIO | Image.Image | np.ndarray


class GeoLocalizer:
    """Locates photos with an index.

    Args:
        encoder: `Encoder`, or another encoder with the members of `EncoderProtocol`.
        index: Index of aerial tiles, made by the same model.
        calibration: Converts scores to confidences; None gives no confidences.
        pose: Estimates position and heading inside the tiles; None returns the positions of the tiles.

    Raises:
        GenGeoError: The index or the calibration belongs to another model, or the index holds no tiles.

    Example:
        >>> localizer = GeoLocalizer.from_pretrained("./gengeo-cvusa", "city.gengeo")
        >>> answer = localizer.locate("photo.jpg")
        >>> print(answer.best.lat, answer.best.lon)
    """

    def __init__(
        self,
        encoder: EncoderProtocol,
        index: GeoIndex | StoreIndex,
        *,
        calibration: Calibration | None = None,
        pose: PoseFinder | None = None,
    ) -> None:
        index.check_model(encoder)
        if not len(index):
            raise GenGeoError("the index holds no tiles: add some with gengeo index SOURCE --out INDEX --model M --add")
        if calibration is not None:
            calibration.check_model(encoder)
        self.encoder, self.index, self.calibration, self.pose = encoder, index, calibration, pose
        self._calibration_caveat = calibration.caveat(len(index)) if calibration is not None else ""
        self._size_caveat = "" if isinstance(index, GeoIndex) else index.size_caveat(encoder.dim)
        self._canvas, self._patch = panorama_canvas(encoder), encoder.patch

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        index: str | Path,
        *,
        calibration: str | Path | None = None,
        pose: PoseSettings | bool | None = None,
        **options: Any,
    ) -> GeoLocalizer:
        """Load a checkpoint, an index, and optionally a calibration.

        Args:
            model: Checkpoint directory or Hub id.
            index: Index directory, or address of a store such as `milvus:http://host:19530`.
            calibration: File of `gengeo calibrate`; None gives no confidences.
            pose: True or `PoseSettings` estimates position and heading inside the tiles.
            options: Arguments of `Encoder.from_pretrained`, for example `device="cpu"`. `backend` and `compute_dtype`
                default to "auto", which on a CPU takes the fastest backend that agrees with float32. `truncate_dim` and
                `input_scale` default to those of the index or store.

        Raises:
            GenGeoError: Model, index or calibration is missing or damaged, or they do not fit together.
        """
        from gengeo_hf.encoding.encoder import Encoder

        table = Calibration.load(calibration) if calibration is not None else None
        gallery = open_index(index)  # before the model, because it fails faster
        options = {"needs_model": bool(pose)} | options
        if isinstance(gallery, GeoIndex):
            options = encoder_options(gallery.manifest) | options
        encoder = Encoder.from_pretrained(model, **({"backend": "auto", "compute_dtype": "auto"} | options))
        if not isinstance(gallery, GeoIndex) and options.get("truncate_dim") is None:
            width = gallery.width_for(encoder.fingerprint, encoder.dim)
            if width is not None:
                encoder.truncate(width)
        finder = None
        if pose:
            from gengeo_hf.localization.pose import open_finder  # imports torch

            finder = open_finder(encoder, model, gallery, index, calibration, pose, options)
        if isinstance(gallery, GeoIndex):
            encoder = adapted_for(encoder, gallery.manifest)
        return cls(encoder, gallery, calibration=table, pose=finder)

    @property
    def caveat(self) -> str:
        """Warnings about training data, confidences, and ground sizes that a store does not fuse; empty without any."""
        found = (caveat_of(self.encoder.training_record), self._calibration_caveat, self._size_caveat)
        return "; ".join(filter(None, found))

    @overload
    def locate(self, photo: OnePhoto, *, sequence: Literal[False] = False, **options: Any) -> Answer: ...

    @overload
    def locate(self, photo: Iterable[Any], *, sequence: Literal[True], **options: Any) -> Track: ...

    @overload
    def locate(self, photo: Iterable[Any], *, sequence: bool = False, **options: Any) -> list[Answer]: ...

    def locate(
        self, photo: Any, *, sequence: bool = False, motion: Motion | None = None, top: int = 5, **options: Any
    ) -> Answer | list[Answer]:
        """Locate one photo or several photos.

        A photo that cannot be read gives an answer with an `error`.

        Args:
            photo: One photo (a path, an http(s) address, bytes, an open binary file, a PIL image or a uint8 array), or
                a sequence of photos. A string is always one photo.
            sequence: Whether the photos are frames of one drive. They are sorted by their times in EXIF if all readable
                photos have one, else they keep their order. The answers are corrected together, see
                `gengeo_hf.localization.drive`.
            motion: Top speed and interval of the frames; None takes the defaults of `Motion`.
            top: Maximum number of places for each photo.
            options: Arguments of `locate_many`: `near`, `merge`, `camera`, `exif_radius_m`, `threshold`, `batch_size`.

        Returns:
            The answer for one photo; a list of answers for several, in their order; a `Track` with `sequence`.

        Raises:
            GenGeoError: A threshold is given without a calibration, or `sequence` for one photo.

        Example:
            >>> answer = localizer.locate("photo.jpg")
            >>> answer.best.lat, answer.best.lon
            >>> track = localizer.locate(sorted(Path("drive").iterdir()), sequence=True)
            >>> track.line
        """
        single = is_single_image(photo)
        if single and sequence:
            raise GenGeoError("sequence=True takes the frames of a drive: give a list of photos")
        photos = [load_photo(photo)] if single else map(load_photo, photo)
        if sequence:
            motion = motion or Motion()
            found = list(self.locate_many(photos, top=max(top, DRIVE_CANDIDATES), **options))
            corrected = correct_drive(*order_frames(found, motion.interval_s), motion, options.get("threshold", 0.0))
            return Track(replace(answer, places=answer.places[:top]) for answer in corrected)
        answers = list(self.locate_many(list(photos) if single else photos, top=top, **options))
        return answers[0] if single else answers

    def locate_many(
        self,
        photos: Iterable[Any],
        *,
        top: int = 5,
        near: tuple[float, float, float] | Area | None = None,
        merge: bool = True,
        exif_radius_m: float | None = None,
        threshold: float = 0.0,
        batch_size: int = 32,
        camera: CameraView | None = None,
    ) -> Iterator[Answer]:
        """Locate many photos in batches; only one batch of images is in memory.

        Args:
            photos: Paths, bytes, open binary files, PIL images or frames of `Video.frames`. Addresses are not fetched.
            top: Maximum number of places for each photo.
            near: Search only tiles within (lat, lon, radius in metres), or in an area.
            merge: Merge overlapping tiles into one place; False gives one place for each tile.
            camera: How the photos were taken; overrides the data in their files.
            exif_radius_m: Search only within this many metres of the position in a photo's EXIF data, if it has one.
            threshold: Confidence below which an answer is not `known`; needs a calibration.
            batch_size: Number of photos that are encoded and searched together.

        Yields:
            Answers in the order of the photos; a photo that cannot be read gives an answer with an error.

        Raises:
            GenGeoError: A threshold is given without a calibration; or there is only one photo and its pose cannot be
                estimated (with several photos, the answer has a note instead).
        """
        if threshold > 0 and self.calibration is None:
            raise GenGeoError("a threshold needs confidences: make a calibration with gengeo calibrate and pass it")
        camera = camera or CameraView()
        alone = isinstance(photos, Sequence) and len(photos) == 1
        for names in batched(photos, batch_size):
            batch = [read_photo(name) for name in names]
            readable = [photo for photo in batch if photo.image is not None]
            has_own_prior = [exif_radius_m is not None and photo.position is not None for photo in batch]
            priors = [
                (photo.position.lat, photo.position.lon, exif_radius_m) if mine and photo.position else near
                for photo, mine in zip(batch, has_own_prior, strict=True)
                if photo.image is not None
            ]
            found = iter(self._places_each(readable, top, priors, merge, camera))
            for name, photo, mine in zip(names, batch, has_own_prior, strict=True):
                places = next(found) if photo.image is not None else []
                if alone and photo.refused is not None:
                    raise photo.refused
                yield Answer(
                    photo=source_name(name),
                    places=places,
                    notes=(
                        *camera_notes(photo, camera, self._canvas),
                        *filter(None, [photo.note, "" if places or photo.error else far_note(self.index, near)]),
                        *absence_notes(photo.not_in_index),
                    ),
                    error=photo.error,
                    exif_position=photo.position,
                    known=not places or (places[0].confidence or 0.0) >= threshold,
                    exif_is_prior=mine,
                    time=photo.time,
                    not_in_index=photo.not_in_index,
                    video_s=video_seconds(name),
                )

    def search_photo(self, photo: Any, camera: CameraView, tiles: int) -> tuple[Photo, list[Hit]] | None:
        """Read one photo and search its most similar tiles.

        Args:
            photo: Photo as in `locate_many`.
            camera: How the photo was taken.
            tiles: Number of tiles.

        Returns:
            The photo and its hits, best first; None if it cannot be read.
        """
        found = read_photo(photo)
        views = self._pictures(found, camera) if found.image is not None else []
        if not views:
            return None
        hits = self.index.search(encode_pictures(self.encoder, views)[0], tiles)
        return found, _best_of([(one, view.heading) for one, view in zip(hits, views, strict=True)], tiles)[0]

    def _places_each(
        self, photos: Sequence[Photo], top: int, priors: Sequence[Any], merge: bool, camera: CameraView
    ) -> list[list[Place]]:
        """As `_places`; a photo that is too narrow for the model gets no places and an `error`."""
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
        """Search the hits of each photo and merge them into places; none for a photo without pictures."""
        views = [self._pictures(photo, camera) for photo in photos]
        flat = [view for several in views for view in several]
        if not flat:
            return [[] for _ in photos]
        k = max(top, LEAST_PLACES) * VOTES_FOR_EACH if merge or self.calibration or self.pose else top
        each = [prior for prior, several in zip(priors, views, strict=True) for _ in several]
        descriptors, widened = encode_pictures(self.encoder, flat)
        for row, photo in enumerate(photo for photo, several in zip(photos, views, strict=True) for _ in several):
            photo.note = widened_note(widened[row]) if row in widened else photo.note
        found = iter(self._search(descriptors, k, each))
        results: list[list[Place]] = []
        for photo, several in zip(photos, views, strict=True):
            if not several:
                results.append([])
                continue
            hits, headings = _best_of([(next(found), view.heading) for view in several], k)
            places = merge_hits(hits) if merge else [merge_votes([hit], rank) for rank, hit in enumerate(hits, 1)]
            if len(several) > 1:
                places = [replace(place, heading=headings[place.tile_id]) for place in places]
            if self.calibration is not None:
                always = hits[: LEAST_PLACES * VOTES_FOR_EACH]  # independent of `top`
                window = len(merge_hits(always)) if merge else len(always)
                photo.not_in_index = self.calibration.not_in_index(places[:window])
                places = self.calibration.apply(places, window)
            places = places[:top]
            if self.pose is not None:
                places, note = self.pose.refine(photo, camera, hits, places)
                photo.note = "; ".join(filter(None, (photo.note, note)))
            results.append(places)
        return results

    def _pictures(self, photo: Photo, camera: CameraView) -> list[Picture]:
        """Images to encode for one photo; a photo that cannot be prepared gets an `error` and has none."""
        try:
            return pictures(photo, camera, self._canvas, self._patch)
        except GenGeoError as error:
            photo.error = str(error)
            return []

    def _search(self, descriptors: np.ndarray, k: int, priors: Sequence[Any]) -> list[list[Hit]]:
        """Search each descriptor within its own prior."""
        if len(set(priors)) == 1:
            return self.index.search(descriptors, k, priors[0])
        return [self.index.search(vector, k, near)[0] for vector, near in zip(descriptors, priors, strict=True)]


def open_index(where: str | Path) -> GeoIndex | StoreIndex:
    """Open an index directory, or a store by its address."""
    from gengeo_hf.index.stores import connect, is_address

    return connect(str(where)) if is_address(str(where)) else GeoIndex.load(where)


def _best_of(several: Sequence[tuple[list[Hit], float]], k: int) -> tuple[list[Hit], dict[str, float]]:
    """The k best tiles over the pictures of one photo, each with its best score, and the heading of that picture."""
    if len(several) == 1:
        return several[0][0], {}
    best: dict[str, tuple[Hit, float]] = {}
    for hits, heading in several:
        for hit in hits:
            if hit.tile_id not in best or hit.score > best[hit.tile_id][0].score:
                best[hit.tile_id] = (hit, heading)
    ranked = sorted(best.values(), key=lambda pair: (-pair[0].score, pair[0].tile_id))[:k]
    return [hit for hit, _ in ranked], {hit.tile_id: heading for hit, heading in ranked}
