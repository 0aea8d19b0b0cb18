# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""Layout descriptors: learned masks over the token grid, each of which gives a weighted sum of the tokens.

Written from the description of GeoDTR+ (Zhang et al., "GeoDTR+: Toward Generic Cross-View Geolocalization via Geometric
Disentanglement", TPAMI 2024). This file is copied into published checkpoints and therefore imports only torch and its
siblings.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .aggregation import Float32Linear, GenGeoAggregator, float32_island


class GenGeoLayout(GenGeoAggregator):
    """K layout masks Q in 0..1 from a small transformer over the tokens X; the descriptor is the normalised vec(X Q).

    The masks are for a fixed number of tokens: images of another size are refused.

    Args:
        config: A `GenGeoConfig`: `num_clusters` is K, `head_hidden_dim` the width of the feed-forward layers,
            `layout_layers` and `layout_heads` the size of the transformer, `head_dropout` its dropout.
        width: Width C of the tokens of the backbone.
        tokens: Number n of patch tokens of an image.
    """

    title = "layout descriptors"
    needs_token_counts = has_layout = True

    def __init__(self, config: Any, width: int, tokens: int) -> None:
        super().__init__()
        self.num_layouts, self.tokens = config.num_clusters, tokens
        self.width_out = config.num_clusters * width
        self.positions = nn.Parameter(torch.zeros(1, tokens, width))
        layer = nn.TransformerEncoderLayer(
            width, config.layout_heads, config.head_hidden_dim, config.head_dropout, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(
            layer, config.layout_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.score = nn.Linear(width, config.num_clusters)
        # Two linear maps over the positions for each mask, without a nonlinearity between them, as published.
        half = max(1, tokens // 2)
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(Float32Linear(tokens, half), Float32Linear(half, tokens)) for _ in range(self.num_layouts)
        )

    def init_weights(self, init: Any) -> None:
        """Initialise the position embeddings with a standard deviation of 0.02."""
        init.trunc_normal_(self.positions, std=0.02)

    def layout(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute the masks Q, (B, K, n) in 0..1, of tokens (B, n, C).

        Raises:
            ValueError: The number of tokens is not that of the masks.
        """
        if tokens.shape[1] != self.tokens:
            raise ValueError(
                f"an image gives {tokens.shape[1]} tokens, and the layout masks of this model need {self.tokens}: "
                "encode images of the size, and with the field of view, that it was trained with"
            )
        scores = self.score(self.transformer(tokens.to(self.positions.dtype) + self.positions)).transpose(1, 2)
        found = [bottleneck(scores[:, k]) for k, bottleneck in enumerate(self.bottlenecks)]
        return torch.stack(found, dim=1).sigmoid()

    def aggregate(self, tokens: torch.Tensor, layout: torch.Tensor) -> torch.Tensor:
        """Sum tokens (B, n, C) by masks (B, K, n) to unit vectors, float32 (B, K C), mask by mask."""
        with float32_island(tokens.device):
            return functional.normalize((layout.float() @ tokens.float()).flatten(1), dim=1)

    def counterfactual(self, tokens: torch.Tensor) -> torch.Tensor:
        """Aggregate tokens by masks that are drawn uniformly from 0..1."""
        layout = torch.rand(len(tokens), self.num_layouts, tokens.shape[1], device=tokens.device)
        return self.aggregate(tokens, layout)

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Aggregate tokens (B, n, C) to (B, K C); also return the masks (B, K, n)."""
        layout = self.layout(tokens)
        return self.aggregate(tokens, layout), layout


__all__ = ["GenGeoLayout"]
