"""Backend that runs the model with OpenVINO on a CPU, converted from the weights in memory.

It takes any batch size and image size.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.transfer import first_line
from gengeo_hf.encoding.backends.protocol import as_float32

if TYPE_CHECKING:
    from gengeo_hf.encoding.protocol import View
    from gengeo_hf.model import GenGeoModel

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}  # names of OpenVINO
EXAMPLE = (2, 3, 5)  # batch size, rows and columns of patches of the traced example; the graph takes any size


def installed() -> bool:
    """Whether the extra is installed; does not import it."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoBackend:
    """Runs a converted copy of the model; the model itself is not changed.

    Args:
        model: Model with float32 weights on the CPU, in evaluation mode.
        dtype: "float32" or "bfloat16"; on a CPU without bfloat16 instructions OpenVINO computes in float32.

    Raises:
        GenGeoError: OpenVINO is missing, the weights are not float32 on a CPU, or the model cannot be converted.
    """

    name = "openvino"

    def __init__(self, model: GenGeoModel, dtype: str) -> None:
        try:
            import openvino
        except ImportError as error:
            raise GenGeoError("--backend openvino needs OpenVINO: pip install 'gengeo_hf[openvino]'") from error
        if model.device.type != "cpu" or model.dtype != torch.float32:
            raise GenGeoError(
                f"OpenVINO computes on the CPU, from float32 weights; found {model.dtype} on {model.device}: "
                "give --device cpu --dtype float32, or --backend torch"
            )
        self._model = model
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),  # respects OMP_NUM_THREADS, like torch
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._one_at_a_time = threading.Lock()  # a compiled graph has one output buffer
        core = openvino.Core()
        graphs = {name: _converted(model, name) for name in model.heads}
        try:
            self._heads = {name: core.compile_model(graph, "CPU", options) for name, graph in graphs.items()}
        except RuntimeError as error:  # no kernel for this processor
            raise GenGeoError(
                f"OpenVINO cannot run this model on this CPU ({first_line(error)}): use --backend torch"
            ) from error
        used = next(iter(self._heads.values())).get_property("INFERENCE_PRECISION_HINT")
        self.dtype = "bfloat16" if used == openvino.Type.bf16 else "float32"

    def encode_pixels(self, pixels: torch.Tensor | np.ndarray, view: View) -> np.ndarray:
        """Encode pixel values without truncation, see `Backend`."""
        self._model._token_grid(torch.as_tensor(pixels))  # checks the image size; the converted graph does not
        compiled = self._heads["shared" if self._model.config.share_aggregator else view]
        with self._one_at_a_time:
            found: np.ndarray = np.array(compiled(as_float32(pixels))[0])  # copied, because the buffer is reused
        return found / np.linalg.norm(found, axis=1, keepdims=True)  # with bfloat16 norms differ slightly from 1


def _converted(model: GenGeoModel, head: str) -> Any:
    """Convert backbone and one head to a graph with any batch size, height and width, without truncation."""
    import openvino

    from gengeo_hf.encoding.backends.traceable import Descriptor, free_positions
    from gengeo_hf.model.backbones import patch_sides

    batch, rows, columns = EXAMPLE
    high, wide = patch_sides(model.config.backbone_config)
    pixels = torch.randn(batch, 3, rows * high, columns * wide)
    part: Any = model.heads[head]
    width, part.truncate_dim = part.truncate_dim, None
    try:
        with warnings.catch_warnings(), torch.no_grad(), free_positions(model), _without_warnings():
            warnings.simplefilter("ignore")  # warnings of the tracer about size checks
            return openvino.convert_model(Descriptor(model, head).eval(), example_input=pixels)
    except Exception as error:  # a converter may raise anything for an unknown architecture
        raise GenGeoError(f"OpenVINO cannot convert this model ({first_line(error)}): use --backend torch") from error
    finally:
        part.truncate_dim = width


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress log messages below errors, such as warnings of transformers about losses."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
