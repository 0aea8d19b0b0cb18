# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""Attention-guided choice of aerial tokens: a first model says which patches of a larger tile a second one looks at.

TransGeo's "attend and zoom" (Zhu et al., CVPR 2022, section 3.3). The guide's pass over the tile is a part of the
model, so a gallery pays for both passes. This file travels with published checkpoints.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional

from .backbones import family_of


def attention_map(guide: Any, pixels: torch.Tensor) -> torch.Tensor:
    """How much the global tokens attend to each patch in the last block, summed over heads.

    Args:
        guide: a backbone with eager attention.
        pixels: (B, 3, H, W).

    Returns:
        float32 (B, rows, columns), the largest value of each image 1.
    """
    family = family_of(guide.config)
    high, wide = family.patch_sides(guide.config)
    output = family.run(guide, pixels, output_attentions=True)
    attention = output.attentions[-1].float().sum(dim=1)  # (B, 1 + n, 1 + n)
    first = 1 + family.other_tokens(guide.config)
    found = attention[:, : family.global_tokens, first:].sum(dim=1)
    found = found / found.amax(dim=1, keepdim=True).clamp(min=1e-12)
    return found.unflatten(1, (pixels.shape[-2] // high, pixels.shape[-1] // wide))


def choose_tokens(importance: torch.Tensor, grid: tuple[int, int], keep: float) -> torch.Tensor:
    """The most important tokens of a grid.

    Args:
        importance: (B, rows, columns) of any grid; it is resized bilinearly.
        grid: rows and columns of the tokens to choose from.
        keep: share of the tokens to keep, above 0 and up to 1.

    Returns:
        int64 (B, k), indices in row-major order, ascending.
    """
    count = max(1, round(keep * math.prod(grid)))
    resized = functional.interpolate(importance[:, None], grid, mode="bilinear").flatten(1)
    return resized.topk(count, dim=1).indices.sort(dim=1).values


def run_chosen(backbone: Any, pixels: torch.Tensor, kept: torch.Tensor) -> Any:
    """The backbone on some of an image's patches, each with its own position.

    Args:
        backbone: with a sequence of blocks and learned positions.
        pixels: (B, 3, H, W).
        kept: int64 (B, k), indices of patches.

    Returns:
        An output with `last_hidden_state`, (B, 1 + k, C) after the final norm.
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
