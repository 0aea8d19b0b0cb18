# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""Attention-guided selection of aerial tokens: a guide selects the patches of a tile that the backbone encodes.

This is "attend and zoom" of TransGeo (Zhu et al., CVPR 2022, section 3.3). The guide is a part of the model, so that
encoding a gallery needs both passes. This file is copied into published checkpoints.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional

from .backbones import family_of


def attention_map(guide: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Attention of the global tokens to each patch in the last block, summed over heads.

    Args:
        guide: Backbone with eager attention.
        pixels: Pixel values, shape (B, 3, H, W).

    Returns:
        Attention, float32 (B, rows, columns), scaled so that the maximum of each image is 1.
    """
    family = family_of(guide.config)
    high, wide = family.patch_sides(guide.config)
    height, width = pixels.shape[2:]
    output = family.run(guide, pixels, output_attentions=True)
    attention = output.attentions[-1].float().sum(dim=1)  # (B, 1 + n, 1 + n)
    first = 1 + family.other_tokens(guide.config)
    found = attention[:, : family.global_tokens, first:].sum(dim=1)
    found = found / found.amax(dim=1, keepdim=True).clamp(min=1e-12)
    return found.unflatten(1, (height // high, width // wide))


def choose_tokens(importance: torch.Tensor, grid: tuple[int, int], keep: float) -> torch.Tensor:
    """Select the most important tokens of a grid.

    Args:
        importance: Importance on any grid, shape (B, rows, columns); it is resized bilinearly.
        grid: Rows and columns of the tokens.
        keep: Fraction of the tokens to keep, above 0 and up to 1.

    Returns:
        Ascending indices in row-major order, int64 (B, k).
    """
    count = max(1, round(keep * math.prod(grid)))
    resized = functional.interpolate(importance[:, None], grid, mode="bilinear").flatten(1)
    return resized.topk(count, dim=1).indices.sort(dim=1).values


def run_chosen(backbone: Any, pixels: torch.Tensor, kept: torch.Tensor) -> Any:
    """Run a backbone on a subset of the patches of an image, each with its own position.

    Args:
        backbone: Backbone with a sequence of blocks and learned positions.
        pixels: Pixel values, shape (B, 3, H, W).
        kept: Indices of the patches, int64 (B, k).

    Returns:
        Output with `last_hidden_state`, (B, 1 + k, C) after the final norm.
    """
    family = family_of(backbone.config)
    tokens = family.embed(backbone, pixels)
    first = 1 + family.other_tokens(backbone.config)
    rows = kept[:, :, None].expand(-1, -1, tokens.shape[-1])
    hidden = torch.cat((tokens[:, :first], tokens[:, first:].gather(1, rows)), dim=1)
    for block in family.blocks(backbone):
        hidden = block(hidden)
    return SimpleNamespace(last_hidden_state=family.final_norm(backbone)(hidden), hidden_states=None, attentions=None)


__all__ = ["attention_map", "choose_tokens", "run_chosen"]
