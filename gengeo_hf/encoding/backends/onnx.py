"""Backend that runs exported graphs with onnxruntime.

It does not import torch, so a process that encodes one photo starts much faster.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends.exported import INPUT, OUTPUT, ExportedGraphs, graph_errors
from gengeo_hf.encoding.backends.protocol import as_float32, number_of_threads

if TYPE_CHECKING:
    import torch

    from gengeo_hf.encoding.protocol import View


class OnnxBackend:
    """Runs the graphs of `gengeo export --onnx`. Its descriptors can be compared with those of torch.

    Args:
        graphs: The export.
        device: "cpu", or "cuda" with onnxruntime-gpu; None is "cpu".

    Raises:
        GenGeoError: onnxruntime is missing, or does not support the device.
    """

    name = "onnx"

    def __init__(self, graphs: ExportedGraphs, device: str | torch.device | None = None) -> None:
        self._graphs, self.device, self.dtype = graphs, _device(str(device or "cpu")), graphs.dtype
        self._provider = _provider(self.device)
        self._sessions: dict[Path, Any] = {}

    def encode_pixels(self, pixels: torch.Tensor | np.ndarray, view: View) -> np.ndarray:
        """Encode pixel values, see `Backend`."""
        self._graphs.check_size(*pixels.shape[2:])
        found: np.ndarray = self._session(view).run([OUTPUT], {INPUT: as_float32(pixels)})[0]
        return found

    def _session(self, view: View) -> Any:
        """Session of the graph of a view, opened on first use.

        Raises:
            GenGeoError: onnxruntime cannot open it.
        """
        import onnxruntime

        path = self._graphs.graph(view)
        if path not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = number_of_threads()  # respects OMP_NUM_THREADS, like torch
            with graph_errors(path, "onnxruntime"):
                self._sessions[path] = onnxruntime.InferenceSession(path, options, providers=[self._provider])
        return self._sessions[path]


def _device(name: str) -> str:
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise GenGeoError(f"the device {name} cannot be used with --backend onnx: give --device cpu or cuda")
    return name


def _provider(device: str) -> Any:
    """Provider of onnxruntime for a device; raises an error if onnxruntime does not have it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise GenGeoError("--backend onnx needs onnxruntime: pip install 'gengeo_hf[onnx]'") from error
    kind, _, number = device.partition(":")
    name = "CUDAExecutionProvider" if kind == "cuda" else "CPUExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        raise GenGeoError(f"this onnxruntime has no {name}: install onnxruntime-gpu, or give --device cpu")
    return (name, {"device_id": int(number or 0)}) if kind == "cuda" else name
