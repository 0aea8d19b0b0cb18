"""Adapts descriptors to a target area without training, by centring and mirror images.

*Centring* subtracts from each descriptor the mean descriptor of its view over the target area, which removes a part of
the domain shift. *Mirror* encodes an image and its mirror image and concatenates both, [d, d_mirror] / sqrt(2): the dot
product is then the mean of two similarities, so indexes and stores work unchanged at twice the size. Both are
extensions to GenGeo and off by default; results state them. docs/learning.md gives their effect on recall.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.encoding.encoder import Encoder, View

if TYPE_CHECKING:
    import torch

LEAST_IMAGES = 30  # from different locations: with ten photos recall fell on the synthetic world
MOST_IMAGES = 2000  # enough for a mean
SAME_PLACE_M = 25.0  # photos closer than this count as one location
GALLERY, PHOTOS = "gallery", "photos"
Means = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Adaptation:
    """Transformation of descriptors after the model.

    Args:
        flip: Also use the descriptor of the mirror image.
        means: Mean descriptor of "ground" and "aerial", float32 (dim,), or (2 * dim,) with `flip`: of the image, then
            of the mirror image. Empty without centring.
        centering: "gallery" if both means are those of the tiles, "photos" if the ground mean is that of photos, None
            without centring.
        images: Number of images of the ground mean.

    Raises:
        GenGeoError: The means are not finite, or their shapes differ.
    """

    flip: bool = False
    means: Means = field(default_factory=dict)
    centering: str | None = None
    images: int = 0

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
        """Text for results and manifests, for example "centering=gallery flip"; empty without an adaptation."""
        return " ".join([f"centering={self.centering}"] * bool(self.centering) + ["flip"] * self.flip)

    def dim(self, base: int) -> int:
        """Number of values of an adapted descriptor, from that of the encoder."""
        return base * (1 + self.flip)

    def fingerprint(self, base: str) -> str:
        """SHA-256 of the encoder's fingerprint and the adaptation; `base` without an adaptation."""
        if not self.name:
            return base
        digest = hashlib.sha256(f"{base} {self.name}".encode())
        for view in sorted(self.means):
            digest.update(np.asarray(self.means[view], dtype="<f4").tobytes())
        return digest.hexdigest()

    def check_width(self, base: int) -> None:
        """Check that the means fit the width of an encoder.

        Args:
            base: Number of values of the encoder's descriptors.

        Raises:
            GenGeoError: The means have another width.
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


def fit_adaptation(
    tiles: np.ndarray | None = None,
    photos: np.ndarray | None = None,
    *,
    flip: bool = False,
    photo_positions: np.ndarray | None = None,
) -> Adaptation:
    """Fit the means of a target area.

    Args:
        tiles: (N, dim) descriptors of at least 30 tiles of the area, for example of the rows of `sample_rows`. With
            `flip` (N, 2 * dim) descriptors of an encoder with `Adaptation(flip=True)`. None for no centring.
        photos: Descriptors of photos from at least 30 different locations of the area; positions and matching tiles are
            not needed. None uses the mean of the tiles for both views, which needs a model with one head for both.
        flip: Also use the descriptor of the mirror image.
        photo_positions: (photos, 2) latitude and longitude in degrees, NaN where unknown, to check that the photos are
            from different locations.

    Raises:
        GenGeoError: There are too few images, or the photos are from too few locations.
    """
    if tiles is None:
        if photos is not None:
            raise GenGeoError("centring with photos needs tiles of the area too")
        return Adaptation(flip=flip)
    _check_count("tiles", len(tiles))
    means = {view: _mean(tiles, flip) for view in ("ground", "aerial")}
    if photos is None:
        return Adaptation(flip, means, GALLERY, len(tiles))
    _check_count("photos", len(photos))
    _check_places(photo_positions, len(photos))
    return Adaptation(flip, means | {"ground": _mean(photos, flip)}, PHOTOS, len(photos))


def sample_rows(count: int) -> np.ndarray:
    """Rows of a table of `count` images for a mean: all rows, or 2,000 evenly spaced rows of a large table."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(int))


def _mean(descriptors: np.ndarray, flip: bool) -> np.ndarray:
    """Mean of unit descriptors; with flip of both halves, rescaled from length 1 / sqrt(2) to 1."""
    mean: np.ndarray = (descriptors.mean(axis=0, dtype=np.float64) * 2 ** (flip / 2)).astype(np.float32)
    return mean


def _check_count(what: str, count: int) -> None:
    if count < LEAST_IMAGES:
        raise GenGeoError(f"centring needs at least {LEAST_IMAGES} {what} from different locations, found {count}")


def _check_places(positions: np.ndarray | None, count: int) -> None:
    """Raise an error if photos are from too few locations; photos of unknown position count as different."""
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
            f"centring needs photos from at least {LEAST_IMAGES} different locations; {len(known)} of {count} photos "
            f"have a position, from {len(apart)} locations {SAME_PLACE_M:g} m apart: give photos from more streets"
        )


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(length, 1e-12)
    return unit


class AdaptedEncoder(Encoder):
    """An encoder with adapted descriptors; it shares model, preprocessing and backend with the original encoder.

    Args:
        encoder: Original encoder.
        adaptation: Transformation of its descriptors.

    Raises:
        GenGeoError: The means have another width; or the mean of the tiles is used for both views, and the model has a
            head for each view.

    Example:
        >>> mirrored = AdaptedEncoder(encoder, Adaptation(flip=True))
        >>> adaptation = fit_adaptation(mirrored.encode(tiles, "aerial"), flip=True)
        >>> adapted = AdaptedEncoder(encoder, adaptation)
    """

    def __init__(self, encoder: Encoder, adaptation: Adaptation) -> None:
        adaptation.check_width(encoder.dim)
        if adaptation.flip and not encoder.can_mirror:
            raise GenGeoError("a fused model cannot compare mirror images: leave flip out")
        if adaptation.centering == GALLERY and not encoder.model.config.share_aggregator:
            raise GenGeoError(
                "this model has one head for each view, so the mean of the gallery cannot be used for photos: "
                "give photos of the area"
            )
        vars(self).update(vars(encoder))
        self.base, self.adaptation = encoder, adaptation

    @property
    def dim(self) -> int:
        """Number of values of an adapted descriptor."""
        return self.adaptation.dim(self.base.dim)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights, preprocessing and adaptation."""
        return self.adaptation.fingerprint(self.base.fingerprint)

    def truncate(self, dim: int) -> None:
        """Not supported: truncate the encoder before it is adapted.

        Raises:
            GenGeoError: Always.
        """
        raise GenGeoError("an adapted encoder cannot be truncated: truncate the encoder, then adapt it")

    def scale_input(self, scale: float | Literal["fast"]) -> None:
        """Not supported: scale the input of the encoder before it is adapted.

        Raises:
            GenGeoError: Always.
        """
        raise GenGeoError("an adapted encoder cannot take another input scale: scale the encoder, then adapt it")

    def encode_pixels(self, pixels: torch.Tensor | np.ndarray, view: View) -> np.ndarray:
        """Adapted descriptors, float32 (B, dim), of pixel values (B, 3, H, W) on any device.

        Raises:
            ValueError: The model cannot take images of this size.
        """
        parts = [self.base.encode_pixels(pixels, view)]
        if self.adaptation.flip:
            mirrored = pixels[..., ::-1] if isinstance(pixels, np.ndarray) else pixels.flip(-1)
            parts.append(self.base.encode_pixels(mirrored, view))
        return self.adaptation.apply(parts, view)


def adaptation_name(encoder: object) -> str:
    """Name of an encoder's adaptation, for results; empty if it has none."""
    return encoder.adaptation.name if isinstance(encoder, AdaptedEncoder) else ""
