"""Runs exported graphs with OpenVINO, without torch: int8 graphs of `gengeo export --int8`, or float32 ONNX graphs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends.exported import ExportedGraphs, graph_errors
from gengeo_hf.encoding.backends.onnx import OnnxBackend
from gengeo_hf.encoding.backends.protocol import as_float32, number_of_threads

if TYPE_CHECKING:
    import torch

    from gengeo_hf.encoding.protocol import View


class OpenVinoGraphs:
    """Runs exported graphs on a CPU.

    Args:
        graphs: Export with ONNX or OpenVINO graphs.

    Raises:
        GenGeoError: OpenVINO is missing.
    """

    name = "openvino"

    def __init__(self, graphs: ExportedGraphs) -> None:
        try:
            import openvino
        except ImportError as error:
            raise GenGeoError("--backend openvino needs OpenVINO: pip install 'gengeo_hf[openvino]'") from error
        self._graphs, self.dtype, self.device = graphs, graphs.dtype, "cpu"
        self._core: Any = openvino.Core()
        self._compiled: dict[Path, Any] = {}
        self._one_at_a_time = threading.Lock()  # a compiled graph has one output buffer

    def encode_pixels(self, pixels: torch.Tensor | np.ndarray, view: View) -> np.ndarray:
        """Encode pixel values, see `Backend`."""
        self._graphs.check_size(*pixels.shape[2:])
        with self._one_at_a_time:
            found: np.ndarray = np.array(
                self._graph(view)(as_float32(pixels))[0]
            )  # copied, because the buffer is reused
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def _graph(self, view: View) -> Any:
        """Compiled graph of a view, compiled on first use."""
        path = self._graphs.graph(view)
        if path not in self._compiled:
            options: dict[str, Any] = {
                "INFERENCE_PRECISION_HINT": "f32",  # for layers that are not int8
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": number_of_threads(),
            }
            with graph_errors(path, "OpenVINO"):
                self._compiled[path] = self._core.compile_model(path, "CPU", options)
        return self._compiled[path]


def graph_backend(graphs: ExportedGraphs, backend: str, device: Any = None) -> OnnxBackend | OpenVinoGraphs:
    """Create the backend that runs exported graphs.

    Args:
        graphs: The export.
        backend: "openvino"; any other value uses onnxruntime.
        device: Device on which the graphs run; None is the CPU.

    Raises:
        GenGeoError: The engine is missing, or does not support the device.
    """
    if backend != "openvino":
        return OnnxBackend(graphs, device)
    if str(device or "cpu") != "cpu":
        raise GenGeoError(f"the device {device} cannot be used with --backend openvino: give --device cpu, or none")
    return OpenVinoGraphs(graphs)
