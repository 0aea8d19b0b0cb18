"""The model on OpenVINO's kernels, on a CPU: converted from the weights in memory when it is first needed.

Takes any batch size and image size.
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

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}  # in OpenVINO's words
EXAMPLE = (2, 3, 5)  # batch, rows and columns of patches that the model is traced with; no size is kept


def installed() -> bool:
    """Whether the extra is there; without importing it."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoBackend:
    """Runs a converted copy of the model; the model stays as it is, for whatever needs its tokens.

    Args:
        model: float32 weights on the CPU, in evaluation mode.
        dtype: "float32" or "bfloat16"; on a CPU without instructions for it, OpenVINO computes in float32 all the same.

    Raises:
        GenGeoError: The package is missing, the weights are not float32 on a CPU, or the model cannot be converted.
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
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),  # what OMP_NUM_THREADS asks for, as with torch
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._one_at_a_time = threading.Lock()  # a compiled graph has one place for its results
        core = openvino.Core()
        self._heads = {name: core.compile_model(_converted(model, name), "CPU", options) for name in model.heads}
        used = next(iter(self._heads.values())).get_property("INFERENCE_PRECISION_HINT")
        self.dtype = "bfloat16" if used == openvino.Type.bf16 else "float32"

    def encode_pixels(self, pixels: torch.Tensor | np.ndarray, view: View) -> np.ndarray:
        """Unit descriptors, float32 (B, the whole width), of pixel values; see the contract."""
        self._model._token_grid(torch.as_tensor(pixels))  # its checks of the size; the converted graph has none
        compiled = self._heads["shared" if self._model.config.share_aggregator else view]
        with self._one_at_a_time:
            found: np.ndarray = np.array(compiled(as_float32(pixels))[0])  # a copy: its buffer is used again
        return found / np.linalg.norm(found, axis=1, keepdims=True)  # bfloat16 leaves lengths a little off 1


def _converted(model: GenGeoModel, head: str) -> Any:
    """One head and the backbone as a graph with free batch size, height and width, and descriptors of whole width."""
    import openvino

    from gengeo_hf.encoding.backends.traceable import Descriptor, free_positions
    from gengeo_hf.model.backbones import patch_sides

    batch, rows, columns = EXAMPLE
    high, wide = patch_sides(model.config.backbone_config)
    pixels = torch.randn(batch, 3, rows * high, columns * wide)
    part: Any = model.heads[head]
    width, part.truncate_dim = part.truncate_dim, None
    try:
        with warnings.catch_warnings(), torch.no_grad(), free_positions(model), _without_advice():
            warnings.simplefilter("ignore")  # the tracer's, about checks of sizes that are the same for all images
            return openvino.convert_model(Descriptor(model, head).eval(), example_input=pixels)
    except Exception as error:  # whatever a converter meets in an architecture that it does not know
        raise GenGeoError(f"OpenVINO cannot convert this model ({first_line(error)}): use --backend torch") from error
    finally:
        part.truncate_dim = width


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Inside, nothing below an error is logged: the library's advice about losses is not about this."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
