"""Exported graphs as a backend: onnxruntime, for machines that encode images without torch.

torch is not imported here: a process that encodes one photo starts in a fraction of the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends.exported import INPUT, OUTPUT, ExportedGraphs, opening
from gengeo_hf.encoding.backends.protocol import as_float32, number_of_threads

if TYPE_CHECKING:
    import torch

    from gengeo_hf.encoding.protocol import View


class OnnxBackend:
    """Runs the graphs of `gengeo export --onnx`. An index that torch made can be searched with it, and vice versa.

    Args:
        graphs: The export.
        device: "cpu" (also for None), or "cuda" with onnxruntime-gpu.

    Raises:
        GenGeoError: onnxruntime is missing, or cannot compute on this device.
    """

    name = "onnx"

    def __init__(self, graphs: ExportedGraphs, device: str | torch.device | None = None) -> None:
        self._graphs, self.device, self.dtype = graphs, _device(str(device or "cpu")), graphs.dtype
        self._provider = _provider(self.device)
        self._sessions: dict[Path, Any] = {}

    def encode_pixels(self, pixels: torch.Tensor | np.ndarray, view: View) -> np.ndarray:
        """Unit descriptors, float32 (B, dim); see the contract."""
        self._graphs.check_size(*pixels.shape[2:])
        found: np.ndarray = self._session(view).run([OUTPUT], {INPUT: as_float32(pixels)})[0]
        return found

    def _session(self, view: View) -> Any:
        """The graph of a view, opened when it is first needed.

        Raises:
            GenGeoError: onnxruntime cannot open it.
        """
        import onnxruntime

        path = self._graphs.graph(view)
        if path not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = number_of_threads()  # what OMP_NUM_THREADS asks for, as with torch
            with opening(path, "onnxruntime"):
                self._sessions[path] = onnxruntime.InferenceSession(path, options, providers=[self._provider])
        return self._sessions[path]


def _device(word: str) -> str:
    kind, _, number = word.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise GenGeoError(f"the device {word} cannot be used with --backend onnx: give --device cpu or cuda")
    return word


def _provider(device: str) -> Any:
    """What onnxruntime calls the device, after it was asked whether it has it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise GenGeoError("--backend onnx needs onnxruntime: pip install 'gengeo_hf[onnx]'") from error
    kind, _, number = device.partition(":")
    name = "CUDAExecutionProvider" if kind == "cuda" else "CPUExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        raise GenGeoError(f"this onnxruntime has no {name}: install onnxruntime-gpu, or give --device cpu")
    return (name, {"device_id": int(number or 0)}) if kind == "cuda" else name
