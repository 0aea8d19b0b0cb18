"""`EncoderProtocol`: the members of an encoder that index, localisation and service use.

`gengeo_hf.encoding.encoder.Encoder` has them; any other encoder with these members can be used as well. A type checker
checks an encoder against the protocol; `isinstance(encoder, EncoderProtocol)` checks only the names.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

View = Literal["ground", "aerial"]


@runtime_checkable
class EncoderProtocol(Protocol):
    """Computes unit descriptors of images."""

    @property
    def dim(self) -> int:
        """Number of values of a descriptor."""
        ...

    @property
    def truncate_dim(self) -> int | None:
        """Number of values to which descriptors are truncated; None if they are not."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing: descriptors of different fingerprints cannot be compared."""
        ...

    @property
    def batch_size(self) -> int:
        """Images in one forward pass."""
        ...

    @property
    def patch(self) -> int:
        """Width of a patch in pixels, at least 1; widths of images that are not resized are multiples of it."""
        ...

    @property
    def view_sizes(self) -> Mapping[str, Mapping[str, int]]:
        """`height` and `width` in pixels at which "ground" and "aerial" images are encoded."""
        ...

    @property
    def ground_camera(self) -> str | None:
        """Type of the ground images in training: "panorama", "photo", or None if unknown."""
        ...

    @property
    def ground_vertical_fov(self) -> float | None:
        """Vertical field of view in degrees of the panoramas in training; None if unknown."""
        ...

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Settings of the preprocessing as plain JSON values, for display; only `fingerprint` is compared."""
        ...

    @property
    def training_record(self) -> Mapping[str, Any]:
        """Training record of the checkpoint, for example with `trained_on`; empty if there is none."""
        ...

    @property
    def computed_by(self) -> str:
        """Backend and precision, for example "torch float32"; empty if unknown."""
        ...

    @property
    def choice_reason(self) -> str:
        """Reason for the choice of the backend in one line; empty if there was no choice."""
        ...

    def encode(self, images: Any, view: View, *, resize: bool = True) -> np.ndarray:
        """Encode images.

        Args:
            images: One image or a sequence of images.
            view: "ground" for photos, "aerial" for tiles.
            resize: Resize to the size of the view. False keeps the images' own size, which must be equal.

        Returns:
            Unit descriptors, float32: (dim,) for one image, (images, dim) for several.

        Raises:
            GenGeoError: An image is missing or broken.
            ValueError: The model cannot take images of this size.
        """
        ...


__all__ = ["EncoderProtocol", "View"]
