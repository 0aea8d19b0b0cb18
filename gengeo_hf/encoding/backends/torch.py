"""Backend that runs the model with torch, in the precision of its weights or under bfloat16 autocast."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.transfer import first_line

if TYPE_CHECKING:
    from gengeo_hf.encoding.protocol import View
    from gengeo_hf.model import GenGeoModel


class TorchBackend:
    """Runs the model on its device.

    Args:
        model: Model on its device, in evaluation mode.
        dtype: "bfloat16" multiplies in bfloat16 for weights of any type (autocast, with a copy of the backbone whose
            weights are rounded once; the model is not changed); None uses the precision of the weights.
    """

    name = "torch"

    def __init__(self, model: GenGeoModel, dtype: str | None = None) -> None:
        self._autocast = dtype == "bfloat16" and model.dtype == torch.float32
        self._model = _rounded(model) if self._autocast else model
        self.dtype = "bfloat16" if self._autocast else str(model.dtype).removeprefix("torch.")

    @torch.inference_mode()
    def encode_pixels(self, pixels: torch.Tensor | np.ndarray, view: View) -> np.ndarray:
        """Encode pixel values, see `Backend`."""
        device: Any = self._model.device
        cast: Any = torch.autocast(device.type, torch.bfloat16) if self._autocast else contextlib.nullcontext()
        with cast:
            found = self._model(torch.as_tensor(pixels).to(device), view=view).pooler_output.float()
        if self._autocast:  # rounding changes the norm
            found = torch.nn.functional.normalize(found, dim=1)
        descriptors: np.ndarray = found.cpu().numpy()
        return descriptors


def _rounded(model: GenGeoModel) -> GenGeoModel:
    """Copy a model with the linear layers of its backbone in bfloat16, to which autocast would cast them in every pass.

    The head is shared with the model, because some of its layers compute in float32.
    """
    rounded = copy.copy(model)
    rounded._modules = dict(model._modules)  # a copy, so that the backbone of `model` is not replaced
    for name in ("backbone", "aerial_backbone"):
        if name not in model._modules:
            continue
        rounded._modules[name] = copy.deepcopy(model._modules[name])
        for layer in rounded.get_submodule(name).modules():
            if isinstance(layer, torch.nn.Linear):
                layer.to(torch.bfloat16)
    return rounded


def usable_device(name: str | torch.device) -> torch.device:
    """Return a device after a test allocation on it.

    Raises:
        GenGeoError: The name is unknown, or the device is not available.
    """
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise GenGeoError(f"the device {name} cannot be used here: {reason}; give --device cpu, or none") from error
