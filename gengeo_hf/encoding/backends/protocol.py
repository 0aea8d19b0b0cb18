"""What computes descriptors: one small contract for torch, onnxruntime and OpenVINO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gengeo_hf.encoding.protocol import View

if TYPE_CHECKING:
    import numpy as np
    import torch

BACKENDS = ("auto", "torch", "openvino", "onnx")
DTYPES = ("auto", "float32", "bfloat16")
LOWEST_COSINE = 0.999  # between a descriptor of a faster way and that of torch in float32
# Descriptors of two backends may meet in one index because of this bound: it is as if each had noise of 2.5 degrees at
# most, where other places are tens of degrees away. So the fingerprint leaves the backend out, and a manifest names it.


class Backend(Protocol):
    """Pixel values in, unit descriptors out.

    Args:
        name: "torch", "openvino" or "onnx".
        dtype: what it multiplies in, for example "float32".
    """

    name: str
    dtype: str

    def encode_pixels(self, pixels: torch.Tensor, view: View) -> np.ndarray:
        """Unit descriptors, float32 (B, at least the encoder's dim), of pixel values (B, 3, H, W).

        Raises:
            ValueError: the model cannot take images of this size.
        """
        ...
