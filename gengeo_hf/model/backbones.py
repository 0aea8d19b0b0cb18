"""What GenGeo needs from an image backbone: its tokens, its position grid, and which of its blocks are trained.

Before: a transformers backbone and its config. After: (patch tokens, global token, grid) of a batch of images.
This file travels with published checkpoints, so it imports only torch, transformers and its siblings.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

from .configuration_gengeo import GenGeoConfig

# The original DINOv2 code adds this to the new number of patches before it divides by the old one.
HUB_OFFSET = 0.1


class GenGeoDinov2Embeddings(Dinov2Embeddings):
    """DINOv2 embeddings whose position grid is resized exactly as the original DINOv2 code resizes it.

    The original passes a scale factor of (new + 0.1) / old, and so samples the grid at slightly other points than
    transformers, which passes the size. Only this module is replaced: a subclass of `Dinov2Model` itself would lose
    the renaming of checkpoint weights that transformers keeps per class.
    """

    def interpolate_pos_encoding(self, embeddings: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Position embeddings for an image of height x width pixels, (1, 1 + n, C)."""
        positions = self.position_embeddings
        side = round((positions.shape[1] - 1) ** 0.5)
        rows, columns = height // self.patch_embeddings.patch_size[0], width // self.patch_embeddings.patch_size[1]
        if rows == side and columns == side:
            return positions
        grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        # In float32: bicubic weights in half precision shift the embeddings.
        grid = nn.functional.interpolate(
            grid.float(),
            scale_factor=((rows + HUB_OFFSET) / side, (columns + HUB_OFFSET) / side),
            mode="bicubic",
            align_corners=False,
        )
        grid = grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
        return torch.cat((positions[:, :1], grid), dim=1)


def build_backbone(config: GenGeoConfig) -> PreTrainedModel:
    """Make the backbone with random weights, with the position interpolation that the config asks for."""
    backbone = AutoModel.from_config(config.backbone_config)
    if backbone.config.model_type == "dinov2" and config.position_interpolation == "hub":
        backbone.embeddings = GenGeoDinov2Embeddings(backbone.config)
    return backbone


def token_width(backbone_config: Any) -> int:
    """Width C of the backbone's tokens."""
    if backbone_config.model_type == "convnext":
        return backbone_config.hidden_sizes[-1]
    return backbone_config.hidden_size


def patch_sides(backbone_config: Any) -> tuple[int, int]:
    """Height and width in pixels of what becomes one token."""
    if backbone_config.model_type == "convnext":
        side = backbone_config.patch_size * 2 ** (len(backbone_config.hidden_sizes) - 1)
        return side, side
    patch = backbone_config.patch_size
    return (patch, patch) if isinstance(patch, int) else (patch[0], patch[1])


def read_tokens(backbone: Any, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch tokens (B, n, C) in row-major order and the global token (B, C), both after the final norm."""
    if backbone.config.model_type == "convnext":
        # The last map is not normalised; its own final norm is applied to each position as it is to the average.
        tokens = backbone.layernorm(output.last_hidden_state.flatten(2).transpose(1, 2))
        return tokens, output.pooler_output
    skip = 1 + getattr(backbone.config, "num_register_tokens", 0)
    return output.last_hidden_state[:, skip:], output.last_hidden_state[:, 0]


def set_trainable(backbone: Any, blocks: int | None) -> None:
    """Freeze all but the last `blocks` transformer blocks and the final norm.

    Args:
        backbone: its parameters' `requires_grad` is set.
        blocks: 0 freezes the backbone with its final norm, None trains all of it.
    """
    train_all = blocks is None
    for parameter in backbone.parameters():
        parameter.requires_grad_(train_all)
    if blocks:
        norm = backbone.norm if backbone.config.model_type == "dinov3_vit" else backbone.layernorm
        for module in (*transformer_blocks(backbone)[-blocks:], norm):
            module.requires_grad_(True)
    mask_token = getattr(getattr(backbone, "embeddings", None), "mask_token", None)
    if mask_token is not None:
        # It never enters a forward pass, and a parameter without gradient stops distributed training.
        mask_token.requires_grad_(False)


def frozen_stages(backbone: Any) -> list[nn.Module]:
    """The embeddings and the transformer blocks before the first one that trains, in the order in which they run.

    Empty where the embeddings train, and for a ConvNeXt, whose stages are not a row of equals.
    """
    if backbone.config.model_type == "convnext":
        return []
    stages = [backbone.embeddings, *transformer_blocks(backbone)]
    first = next((i for i, stage in enumerate(stages) if any(p.requires_grad for p in stage.parameters())), len(stages))
    return stages[:first]


def transformer_blocks(backbone: Any) -> list[nn.Module]:
    """The blocks in the order in which they run; a ConvNeXt has none."""
    if backbone.config.model_type == "convnext":
        return []
    return list(backbone.model.layer if backbone.config.model_type == "dinov3_vit" else backbone.encoder.layer)


__all__ = [
    "GenGeoDinov2Embeddings", "build_backbone", "frozen_stages", "patch_sides", "read_tokens", "set_trainable",
    "token_width", "transformer_blocks",
]  # fmt: skip
