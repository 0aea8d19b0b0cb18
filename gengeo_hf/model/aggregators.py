# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""From tokens to a descriptor: SALAD or another aggregator, then the projection.

An aggregator of your own is a subclass of `GenGeoAggregator`, added by `register_aggregator`; see docs/extend.md.
This file travels with published checkpoints, so it imports only torch and its siblings.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .aggregation import Float32Linear, GenGeoAggregator, float32_island, token_mlp
from .backbones import family_of
from .layout import GenGeoLayout
from .salad import GenGeoSalad


class GenGeoMean(GenGeoAggregator):
    """The average of the patch tokens, with length 1."""

    title = "mean pooling"

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.width_out = width

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Aggregate tokens (B, n, C) to (B, C)."""
        return functional.normalize(tokens.float().mean(dim=1), dim=1), None


class GenGeoCls(GenGeoAggregator):
    """The backbone's own global token, with length 1; of a distilled DeiT both of them, one behind the other."""

    title = "CLS token"

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.width_out = family_of(config.backbone_config).global_width(config.backbone_config)

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Pass the global token (B, C) on."""
        return functional.normalize(global_token.float(), dim=1), None


class GenGeoGem(GenGeoAggregator):
    """Generalised mean pooling (Radenovic et al. 2019, equation 3) with one learned exponent, with length 1.

    Negative values count as the smallest allowed one, so it discards about half of what signed features say.
    """

    title = "GeM pooling"
    exponent_init = 3.0
    smallest = 1e-6

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.width_out = width
        self.exponent = nn.Parameter(torch.tensor(self.exponent_init))

    def init_weights(self, init: Any) -> None:
        """The exponent at its start."""
        init.constant_(self.exponent, self.exponent_init)

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Aggregate tokens (B, n, C) to (B, C)."""
        with float32_island(tokens.device):
            exponent = self.exponent.float()
            pooled = tokens.float().clamp(min=self.smallest).pow(exponent).mean(dim=1).pow(1 / exponent)
            return functional.normalize(pooled, dim=1), None


class GenGeoNetVlad(GenGeoAggregator):
    """NetVLAD (Arandjelovic et al. 2016, equation 4): soft-assigned residuals to learned centroids.

    Tokens are first reduced to `cluster_dim` by an MLP (None keeps them as they are) and scaled to length 1. Random
    centroids work poorly: start them from data with `set_centroids`.
    """

    title = "NetVLAD"

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        local = config.cluster_dim or width
        self.width_out = config.num_clusters * local
        hidden, dropout = config.head_hidden_dim, config.head_dropout
        self.cluster_features = token_mlp(width, hidden, local, dropout) if config.cluster_dim else nn.Identity()
        self.assignment = Float32Linear(local, config.num_clusters, bias=False)
        self.centroids = nn.Parameter(torch.randn(config.num_clusters, local))

    def init_weights(self, init: Any) -> None:
        """Random centroids of about unit length."""
        init.normal_(self.centroids, std=self.centroids.shape[1] ** -0.5)

    def local_features(self, tokens: torch.Tensor) -> torch.Tensor:
        """The vectors that are clustered: (B, n, l), float32, each with length 1."""
        return functional.normalize(self.cluster_features(tokens).float(), dim=-1)

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Aggregate tokens (B, n, C) to (B, m l), cluster by cluster; and the soft assignment (B, m, n)."""
        features = self.local_features(tokens)
        with float32_island(tokens.device):
            weights = self.assignment(features).softmax(dim=2).transpose(1, 2)
            # sum_i w (x - c) as (sum_i w x) - (sum_i w) c: no tensor of n x m x l.
            residuals = weights @ features - weights.sum(dim=2, keepdim=True) * self.centroids.float()
            residuals = functional.normalize(residuals, dim=2)
            return functional.normalize(residuals.flatten(1), dim=1), weights

    @torch.no_grad()
    def set_centroids(self, centroids: torch.Tensor, sharpness: float) -> None:
        """Start from clusters found in data.

        Args:
            centroids: (m, l) means of `local_features`.
            sharpness: alpha, how much a feature prefers its nearest centroid's direction over the next.
        """
        self.centroids.copy_(centroids)
        self.assignment.weight.copy_(sharpness * functional.normalize(centroids, dim=1))


AGGREGATORS: dict[str, type[GenGeoAggregator]] = {
    "salad": GenGeoSalad,
    "netvlad": GenGeoNetVlad,
    "gem": GenGeoGem,
    "mean": GenGeoMean,
    "cls": GenGeoCls,
    "layout": GenGeoLayout,
}


def register_aggregator(name: str) -> Callable[[type[GenGeoAggregator]], type[GenGeoAggregator]]:
    """A class decorator that adds an aggregator, which `GenGeoConfig(aggregator=name)` then uses.

    Args:
        name: Name of the aggregator in configurations.

    Raises:
        ValueError: Another aggregator has this name.
    """

    def add(aggregator: type[GenGeoAggregator]) -> type[GenGeoAggregator]:
        present = AGGREGATORS.get(name)
        if present is not None and present.__qualname__ != aggregator.__qualname__:
            raise ValueError(f"the aggregator {name!r} exists: choose another name")
        AGGREGATORS[name] = aggregator
        return aggregator

    return add


class GenGeoHead(nn.Module):
    """An aggregator, the linear projection, and the last L2 normalisation, all in float32.

    Args:
        config: see `GenGeoConfig`.
        width: width C of the backbone's tokens.
        view: "ground" or "aerial" for a head of one view, "shared" for a head of both.

    Raises:
        ValueError: an aggregator does not know the number of tokens that it is tied to, or descriptors are to be
            truncated to more values than they have.
    """

    def __init__(self, config: Any, width: int, view: str = "shared") -> None:
        super().__init__()
        self.truncate_dim = config.truncate_dim
        kind: Any = AGGREGATORS[config.aggregator]
        more = {"tokens": _token_count(config, view)} if kind.needs_token_counts else {}
        aggregator: Any = kind(config, width, **more)
        self.aggregator = aggregator
        self.width_out: int = config.descriptor_dim or aggregator.width_out
        # Only here is the width of an aggregator without projection known.
        if max([config.truncate_dim or 1, *(config.matryoshka_dims or ())]) > self.width_out:
            raise ValueError(
                f"truncate_dim {config.truncate_dim} and matryoshka_dims {config.matryoshka_dims} must not be above "
                f"{self.width_out}, the values that {config.aggregator} gives without a projection"
            )
        # The bias starts at zero: at PyTorch's default it is as long as the signal and pulls all descriptors together.
        self.projection = Float32Linear(aggregator.width_out, config.descriptor_dim) if config.descriptor_dim else None

    def forward(
        self, tokens: torch.Tensor, global_token: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Encode a batch of images.

        Returns:
            The descriptor (B, D) with length 1, what it was projected from, and the aggregator's assignment of tokens
            to clusters (None for aggregators without clusters).
        """
        unprojected, assignment = self.aggregator(tokens, global_token)
        return self.project(unprojected), unprojected, assignment

    def project(self, unprojected: torch.Tensor) -> torch.Tensor:
        """The descriptor (B, D) of an aggregator's vector (B, width_out)."""
        with float32_island(unprojected.device):
            descriptor = unprojected if self.projection is None else self.projection(unprojected)
            return functional.normalize(descriptor[:, : self.truncate_dim], dim=1)


def _token_count(config: Any, view: str) -> int:
    """The number of patch tokens that a head of a view sees.

    Raises:
        ValueError: it is not known, or differs between the views of a shared head.
    """
    counts = config.token_counts or {}
    wanted = ("ground", "aerial") if view == "shared" else (view,)
    found = {int(counts[name]) for name in wanted if name in counts}
    if len(found) != 1 or any(name not in counts for name in wanted):
        raise ValueError(
            f"the {config.aggregator} aggregator is tied to a number of tokens, and token_counts is "
            f"{config.token_counts}: give the number for {' and '.join(wanted)}"
            + ("; a head that both views share needs equal numbers" if len(found) > 1 else "")
        )
    return found.pop()


__all__ = ["AGGREGATORS", "GenGeoHead", "GenGeoNetVlad", "register_aggregator"]
