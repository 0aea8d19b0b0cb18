"""A module from pixel values to descriptors that can be traced for any image size, for ONNX and OpenVINO."""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoModel


class Descriptor(torch.nn.Module):
    """Computes descriptors of pixel values, without the size checks of the model: the encoder makes them."""

    def __init__(self, model: GenGeoModel, head: str) -> None:
        super().__init__()
        if model.config.aerial_keep is not None:
            raise GenGeoError(
                "a model that chooses aerial tokens (aerial_keep) has no exported form: use backend torch"
            )
        self.backbone, self.head = model.backbone_of(head), model.heads[head]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Descriptors (B, dim) of pixel values (B, 3, H, W)."""
        from gengeo_hf.model.backbones import read_tokens, run_backbone

        descriptor: torch.Tensor = self.head(*read_tokens(self.backbone, run_backbone(self.backbone, pixel_values)))[0]
        return descriptor


@contextlib.contextmanager
def free_positions(model: GenGeoModel) -> Iterator[None]:
    """Resize the position grid by matrices that depend on the image size, inside this context.

    Without it, the exporter writes the scale of the traced image into the graph.
    """
    from gengeo_hf.model.backbones import HUB_OFFSET, GenGeoDinov2Embeddings, family_of

    family = family_of(model.config.backbone_config)
    if not family.has_position_grid:
        yield
        return
    every = [family.embeddings(part) for part in model.backbones]
    offset = HUB_OFFSET if isinstance(every[0], GenGeoDinov2Embeddings) else 0.0
    backbone: Any = model.config.backbone_config
    smooth = family.smooth_positions

    def resize(self: Any, tokens: torch.Tensor, height: Any, width: Any) -> torch.Tensor:
        rows, columns = height // backbone.patch_size, width // backbone.patch_size
        return resized_positions(self.position_embeddings, rows, columns, offset, smooth, family.global_tokens)

    for embeddings in every:
        embeddings.interpolate_pos_encoding = types.MethodType(resize, embeddings)
    try:
        yield
    finally:
        for embeddings in every:
            del embeddings.interpolate_pos_encoding  # restores the method of the class


def resized_positions(
    positions: torch.Tensor, rows: Any, columns: Any, offset: float, smooth: bool, first: int = 1
) -> torch.Tensor:
    """Position embeddings (1, first + side^2, C) for a grid of rows x columns, (1, first + rows columns, C).

    The result equals bicubic `torch.nn.functional.interpolate` with the scale (new + offset) / side, with antialiasing
    if `smooth`, but uses only operations on tensors. A grid of the native size is not changed.
    """
    side, width = math.isqrt(int(positions.shape[1]) - first), int(positions.shape[2])
    down, across = (torch.arange(count, dtype=torch.float32) for count in (rows, columns))
    native = (down[-1] == side - 1) & (across[-1] == side - 1)
    grid = positions[0, first:].reshape(side, side * width)
    grid = (_axis_weights(down, side, offset, smooth, native) @ grid).reshape(-1, side, width)
    grid = (_axis_weights(across, side, offset, smooth, native) @ grid).reshape(1, -1, width)
    return torch.cat((positions[:, :first], grid), dim=1)


def _axis_weights(target: torch.Tensor, side: int, offset: float, smooth: bool, native: torch.Tensor) -> torch.Tensor:
    """Bicubic weights (new, side) of one axis for the positions `target` = 0 .. new - 1."""
    source = torch.arange(side, dtype=torch.float32)
    scale = side / (target[-1] + 1 + offset)
    centre = (target + 0.5) * scale - 0.5
    if smooth:
        weights = _cubic((source - centre[:, None]) / scale.clamp(min=1), -0.5)
        weights = weights / weights.sum(dim=1, keepdim=True)
    else:
        taps = centre.floor()[:, None] + torch.arange(-1.0, 3.0)
        hits = taps.clamp(0, side - 1)[:, :, None] == source  # values beyond the border are repeated
        weights = (_cubic(centre[:, None] - taps, -0.75)[:, :, None] * hits).sum(dim=1)
    return torch.where(native, (target[:, None] == source).float(), weights)


def _cubic(distance: torch.Tensor, a: float) -> torch.Tensor:
    """Keys' cubic convolution kernel (1981, equation 4)."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
