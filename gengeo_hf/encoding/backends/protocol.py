"""What computes descriptors: one small contract for torch, onnxruntime and OpenVINO."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.protocol import View

if TYPE_CHECKING:
    import torch

BACKENDS = ("auto", "torch", "openvino", "onnx")
DTYPES = ("auto", "float32", "bfloat16", "int8")
FEW = 16  # images that a trial of backends is not worth its time for
LOWEST_COSINE = 0.999  # between a descriptor of a faster way and that of torch in float32
# Descriptors of two backends may meet in one index because of this bound: it is as if each had noise of 2.5 degrees at
# most, where other places are tens of degrees away. So the fingerprint leaves the backend out, and a manifest names it.


class Backend(Protocol):
    """Pixel values in, unit descriptors out.

    Args:
        name: "torch", "openvino" or "onnx".
        dtype: What it multiplies in, for example "float32".
    """

    name: str
    dtype: str

    def encode_pixels(self, pixels: torch.Tensor | np.ndarray, view: View) -> np.ndarray:
        """Unit descriptors, float32 (B, at least the encoder's dim), of pixel values (B, 3, H, W).

        Raises:
            ValueError: The model cannot take images of this size.
        """
        ...


@dataclass(frozen=True)
class Choice:
    """A backend and why it was taken.

    Args:
        backend: Ready to encode.
        reason: One line for people; empty where there was nothing to choose.
        name: Of the way among those of a trial; empty for torch in float32.
    """

    backend: Backend
    reason: str = ""
    name: str = ""


def check_words(backend: str, dtype: str) -> None:
    """Refuse unknown names.

    Raises:
        GenGeoError: An unknown backend or precision.
    """
    for what, word, known in (("backend", backend, BACKENDS), ("dtype", dtype, DTYPES)):
        if word not in known:
            raise GenGeoError(f"unknown {what} {word!r}: expected {', '.join(known[:-1])} or {known[-1]}")


def as_float32(pixels: torch.Tensor | np.ndarray) -> np.ndarray:
    """Pixel values as an array in memory, for engines that are not torch."""
    values: Any = pixels if isinstance(pixels, np.ndarray) else pixels.float().cpu().numpy()
    return np.ascontiguousarray(values, dtype=np.float32)


def number_of_threads() -> int:
    """Threads that an engine may use: as many as torch, whether or not it is imported; 0 leaves it to the engine."""
    if (torch := sys.modules.get("torch")) is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else 0
