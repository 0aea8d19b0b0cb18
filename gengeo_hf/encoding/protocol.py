"""What the index, localisation and the service need of an encoder: `EncoderProtocol`.

`gengeo_hf.encoding.encoder.Encoder` is one; an encoder of your own is usable everywhere once it has all members. A
type checker compares it with the protocol; `isinstance(encoder, EncoderProtocol)` compares the names.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

View = Literal["ground", "aerial"]


@runtime_checkable
class EncoderProtocol(Protocol):
    """Images in, unit descriptors out."""

    @property
    def dim(self) -> int:
        """Number of values of a descriptor."""
        ...

    @property
    def truncate_dim(self) -> int | None:
        """Number of values that descriptors are truncated to; None for whole ones."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing: descriptors of two fingerprints must never be compared."""
        ...

    @property
    def batch_size(self) -> int:
        """Images in one forward pass."""
        ...

    @property
    def patch(self) -> int:
        """Width in pixels of what becomes one token; images of their own size are multiples of it wide. At least 1."""
        ...

    @property
    def view_sizes(self) -> Mapping[str, Mapping[str, int]]:
        """`height` and `width` in pixels at which "ground" and "aerial" images are encoded."""
        ...

    @property
    def ground_camera(self) -> str | None:
        """What the ground images of training were: "panorama", "photo", or None where it is not known."""
        ...

    @property
    def ground_vertical_fov(self) -> float | None:
        """Degrees of elevation that the panoramas of training show; None where it is not known."""
        ...

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Settings of the preprocessing as plain JSON values, for people; `fingerprint` is what is compared."""
        ...

    @property
    def training_record(self) -> Mapping[str, Any]:
        """What training wrote beside the checkpoint, for example `trained_on`; empty where there is no record."""
        ...

    @property
    def computed_by(self) -> str:
        """Backend and precision, for example "torch float32"; empty where it is not known."""
        ...

    @property
    def choice_reason(self) -> str:
        """Why this backend computes, in one line; empty where there was no choice."""
        ...

    def encode(self, images: Any, view: View, *, resize: bool = True) -> np.ndarray:
        """Descriptors of images.

        Args:
            images: One image or a sequence of images.
            view: "ground" for photos, "aerial" for tiles.
            resize: Resize to the view's size. False keeps the images' own size, which must be the same for all.

        Returns:
            Unit descriptors, float32: (dim,) of one image, (images, dim) of several.

        Raises:
            GenGeoError: An image is missing or broken.
            ValueError: The model cannot take images of this size.
        """
        ...


__all__ = ["EncoderProtocol", "View"]
