"""Adapting descriptors to a target area without training: centring and the mirror image.

*Centring* subtracts from each descriptor the mean descriptor of its view over the target area. Part of the shift
between the area of training and another one is a shift of this mean. *Mirror* describes an image and its mirror image
and keeps both as [d, d_mirror] / sqrt(2): a dot product is then the mean of two similarities, so each index and store
works unchanged at twice the size. Both are extensions to GenGeo, off by default; results name them. docs/learning.md
tells what they are worth and where they cost recall.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m

LEAST_IMAGES = 30  # of different places: from ten photos recall fell on the synthetic world
MOST_IMAGES = 2000  # a mean does not need more
SAME_PLACE_M = 50.0  # photos nearer than this count as one place
GALLERY, PHOTOS = "gallery", "photos"
Means = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What is done to descriptors after the model.

    Args:
        flip: Keep the descriptor of the mirror image too.
        means: Mean descriptor of "ground" and "aerial", float32 (dim,), or (2 * dim,) with `flip`: of the image, then
            of the mirror image. Empty without centring.
        centering: "gallery" when the mean of the tiles serves both views, "photos" when photos gave the ground mean,
            None without centring.
        images: How many images of each view gave the means.

    Raises:
        GenGeoError: Means that are not finite or do not fit each other.
    """

    flip: bool = False
    means: Means = field(default_factory=dict)
    centering: str | None = None
    images: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.centering not in (None, GALLERY, PHOTOS):
            raise GenGeoError(f"centering is {self.centering!r}; expected {GALLERY!r}, {PHOTOS!r} or null")
        if (self.centering is None) != (not self.means):
            raise GenGeoError("an adaptation has means exactly when it has a centering")
        if self.means:
            shapes = {np.shape(mean) for mean in self.means.values()}
            finite = all(np.isfinite(mean).all() for mean in self.means.values())
            if set(self.means) != {"ground", "aerial"} or len(shapes) != 1 or not finite or len(shapes.pop()) != 1:
                raise GenGeoError("an adaptation needs a finite mean of ground and of aerial, of equal width")

    @property
    def name(self) -> str:
        """For results and manifests: "centering=gallery flip"; empty when nothing is done."""
        return " ".join([f"centering={self.centering}"] * bool(self.centering) + ["flip"] * self.flip)

    def dim(self, base: int) -> int:
        """Number of values of an adapted descriptor."""
        return base * (1 + self.flip)

    def fingerprint(self, base: str) -> str:
        """SHA-256 of the encoder's fingerprint and of everything that is done; the base where nothing is done."""
        if not self.name:
            return base
        digest = hashlib.sha256(f"{base} {self.name}".encode())
        for view in sorted(self.means):
            digest.update(np.asarray(self.means[view], dtype="<f4").tobytes())
        return digest.hexdigest()

    def check_width(self, base: int) -> None:
        """Check that the means are of an encoder of this width.

        Raises:
            GenGeoError: They are of another one.
        """
        for mean in self.means.values():
            if len(mean) != self.dim(base):
                raise GenGeoError(
                    f"the means have {len(mean)} values and the encoder's descriptors {self.dim(base)}: "
                    "they were fitted with another model, width or mirror setting"
                )

    def apply(self, parts: Sequence[np.ndarray], view: str) -> np.ndarray:
        """Adapt the descriptors of one view.

        Args:
            parts: Unit descriptors (B, dim) of the images and, with `flip`, of their mirror images.
            view: "ground" or "aerial".

        Returns:
            Unit descriptors, float32 (B, `self.dim(dim)`).
        """
        if self.means:
            means = np.split(self.means[view], len(parts))
            parts = [_unit(part - mean) for part, mean in zip(parts, means, strict=True)]
        joined = np.concatenate(parts, axis=1) / np.float32(len(parts) ** 0.5)
        return joined.astype(np.float32, copy=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for manifests and files."""
        return {
            "flip": self.flip,
            "centering": self.centering,
            "images": dict(self.images),
            "means": {view: np.asarray(mean, dtype=np.float32).tolist() for view, mean in self.means.items()},
        }

    @classmethod
    def from_dict(cls, values: Any) -> "Adaptation":
        """Read what `to_dict` gave.

        Raises:
            GenGeoError: It is something else.
        """
        try:
            means = {str(view): np.asarray(mean, dtype=np.float32) for view, mean in values["means"].items()}
            images = {str(view): int(count) for view, count in values["images"].items()}
            if not isinstance(values["flip"], bool):
                raise TypeError(f"flip is {values['flip']!r}")
            return cls(values["flip"], means, values["centering"], images)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GenGeoError(f"this is not a stored adaptation ({error!r:.80}): build the index again") from error


def fit_adaptation(
    encoder: Any,
    tiles: Sequence[Any] | None = None,
    photos: Sequence[Any] | None = None,
    *,
    photo_positions: np.ndarray | None = None,
    flip: bool = False,
) -> Adaptation:
    """Fit the means of a target area.

    Args:
        encoder: Without an adaptation of its own.
        tiles: Tiles of the area, indexable; at most 2,000, evenly spread over the sequence, are encoded. None for no
            centring.
        photos: Photos of at least 30 different places of the area; they need no positions and no matching tiles. None
            takes the mean of the tiles for both views, which needs one head for both.
        photo_positions: (photos, 2) latitude and longitude in degrees, NaN where unknown, to check that the photos are
            of different places.
        flip: Keep the descriptor of the mirror image too.

    Raises:
        GenGeoError: Too few images, or photos of too few places; or one mean for both views of a model with two heads.
    """
    if tiles is None:
        if photos is not None:
            raise GenGeoError("centring with photos needs tiles of the area too")
        return Adaptation(flip=flip)
    if photos is None and not getattr(encoder, "shares_head", True):
        raise GenGeoError(
            "this model has one head for each view, so the gallery's mean says nothing about photos: "
            "give photos of the area"
        )
    _check_count("tiles", len(tiles))
    if photos is not None:
        _check_count("photos", len(photos))
        _check_places(photo_positions, len(photos))
    plain = Adaptation(flip=flip)
    images = {"aerial": tiles} if photos is None else {"aerial": tiles, "ground": photos}
    means = {view: _mean(encoder, found, view, plain) for view, found in images.items()}
    counts = {view: min(len(found), MOST_IMAGES) for view, found in images.items()}
    if photos is None:
        means["ground"], counts["ground"] = means["aerial"], 0
    return Adaptation(flip, means, GALLERY if photos is None else PHOTOS, counts)


def _mean(encoder: Any, images: Sequence[Any], view: str, plain: Adaptation) -> np.ndarray:
    """Mean descriptor of a view, of the image and, with flip, of the mirror image behind it."""
    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).round().astype(int))
    encoder.adapt(plain if plain.flip else None)
    try:
        total = np.zeros(encoder.dim)
        for block in encoder.encode_stream((images[int(row)] for row in rows), view):
            total += block.sum(axis=0, dtype=np.float64)
    finally:
        encoder.adapt(None)
    return (total / len(rows) * plain.dim(1) ** 0.5).astype(np.float32)


def _check_count(what: str, count: int) -> None:
    if count < LEAST_IMAGES:
        raise GenGeoError(f"centring needs at least {LEAST_IMAGES} {what} of different places, found {count}")


def _check_places(positions: np.ndarray | None, count: int) -> None:
    """Refuse photos of few places, as far as their positions are known."""
    if positions is None:
        return
    known = np.asarray(positions, dtype=float)
    known = known[np.isfinite(known).all(axis=1)]
    apart: list[np.ndarray] = []
    for position in known:
        if not apart or (great_circle_m(*np.array(apart).T, *position) >= SAME_PLACE_M).all():
            apart.append(position)
            if len(apart) == LEAST_IMAGES:
                return
    possible = len(apart) + count - len(known)
    if possible < LEAST_IMAGES:
        raise GenGeoError(
            f"centring needs photos of at least {LEAST_IMAGES} different places; of {count} photos {len(known)} have a "
            f"position, and those lie in {len(apart)} places {SAME_PLACE_M:g} m apart: the mean of one street is not "
            "the mean of the area"
        )


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(length, 1e-12)
    return unit


def load_adaptation(text: str) -> Adaptation:
    """Read an adaptation from the text of a JSON file.

    Raises:
        GenGeoError: It is something else.
    """
    try:
        return Adaptation.from_dict(json.loads(text))
    except ValueError as error:
        if isinstance(error, GenGeoError):
            raise
        raise GenGeoError(f"this is not a stored adaptation: {error}") from error
