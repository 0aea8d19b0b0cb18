"""Interface of the backends that compute descriptors."""

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
FEW = 16  # for fewer images a trial of backends takes longer than it saves
# Lowest cosine between a descriptor of a faster backend and that of torch in float32. A cosine of 0.999 is an angle of
# 2.5 degrees, while descriptors of other locations are tens of degrees away. Descriptors of two backends may therefore
# be in one index: the fingerprint does not depend on the backend, and a manifest states it.
LOWEST_COSINE = 0.999


class Backend(Protocol):
    """Computes unit descriptors of pixel values.

    Args:
        name: "torch", "openvino" or "onnx".
        dtype: Precision of the multiplications, for example "float32".
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
    """A backend and the reason for its choice.

    Args:
        backend: Backend that is ready to encode.
        reason: One line for users; empty if there was no choice.
        name: Name of the candidate of a trial; empty for torch in float32.
    """

    backend: Backend
    reason: str = ""
    name: str = ""


def check_backend(backend: str, dtype: str) -> None:
    """Check the names of a backend and a precision.

    Raises:
        GenGeoError: A name is unknown.
    """
    for what, name, known in (("backend", backend, BACKENDS), ("dtype", dtype, DTYPES)):
        if name not in known:
            raise GenGeoError(f"unknown {what} {name!r}: expected {', '.join(known[:-1])} or {known[-1]}")


def as_float32(pixels: torch.Tensor | np.ndarray) -> np.ndarray:
    """Convert pixel values to a contiguous float32 array, for engines other than torch."""
    values: Any = pixels if isinstance(pixels, np.ndarray) else pixels.float().cpu().numpy()
    return np.ascontiguousarray(values, dtype=np.float32)


def number_of_threads() -> int:
    """Number of threads for an engine: that of torch if it is imported, else OMP_NUM_THREADS; 0 if neither is set."""
    if (torch := sys.modules.get("torch")) is not None:
        return int(torch.get_num_threads())
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdigit() else 0
