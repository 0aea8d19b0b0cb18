# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""Aggregation heads: SALAD or another aggregator, then a linear projection to the descriptor.

`register_aggregator` adds a new subclass of `GenGeoAggregator`; see docs/extend.md.
This file is copied into published checkpoints and therefore imports only torch and its siblings.
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
    """Normalised mean of the patch tokens."""

    title = "mean pooling"

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.width_out = width

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Aggregate patch tokens (B, n, C) to (B, C)."""
        return functional.normalize(tokens.float().mean(dim=1), dim=1), None


class GenGeoCls(GenGeoAggregator):
    """Normalised global token of the backbone; both global tokens, concatenated, of a distilled DeiT."""

    title = "CLS token"

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.width_out = family_of(config.backbone_config).global_width(config.backbone_config)

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Normalise the global token (B, C)."""
        return functional.normalize(global_token.float(), dim=1), None


class GenGeoGem(GenGeoAggregator):
    """Normalised generalised mean pooling (Radenovic et al. 2019, equation 3) with one learned exponent.

    Values are clamped to at least `smallest`, so that all negative values of signed features are lost.
    """

    title = "GeM pooling"
    exponent_init = 3.0
    smallest = 1e-6

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.width_out = width
        self.exponent = nn.Parameter(torch.tensor(self.exponent_init))

    def init_weights(self, init: Any) -> None:
        """Set the exponent to `exponent_init`."""
        init.constant_(self.exponent, self.exponent_init)

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Aggregate patch tokens (B, n, C) to (B, C)."""
        with float32_island(tokens.device):
            exponent = self.exponent.float()
            pooled = tokens.float().clamp(min=self.smallest).pow(exponent).mean(dim=1).pow(1 / exponent)
            return functional.normalize(pooled, dim=1), None


class GenGeoNetVlad(GenGeoAggregator):
    """NetVLAD (Arandjelovic et al. 2016, equation 4): soft-assigned residuals to learned centroids.

    Tokens are first reduced to `cluster_dim` by an MLP (None keeps their width) and normalised. Random centroids work
    poorly: initialise them from data with `set_centroids`.
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
        """Initialise the centroids at random with a norm of about 1."""
        init.normal_(self.centroids, std=self.centroids.shape[1] ** -0.5)

    def local_features(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the unit vectors that are assigned to clusters, float32 (B, n, l)."""
        return functional.normalize(self.cluster_features(tokens).float(), dim=-1)

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Aggregate patch tokens (B, n, C) to (B, m l), cluster by cluster; also return the assignment (B, m, n)."""
        features = self.local_features(tokens)
        with float32_island(tokens.device):
            weights = self.assignment(features).softmax(dim=2).transpose(1, 2)
            # sum_i w (x - c) = (sum_i w x) - (sum_i w) c, which avoids a tensor of n x m x l.
            residuals = weights @ features - weights.sum(dim=2, keepdim=True) * self.centroids.float()
            residuals = functional.normalize(residuals, dim=2)
            return functional.normalize(residuals.flatten(1), dim=1), weights

    @torch.no_grad()
    def set_centroids(self, centroids: torch.Tensor, sharpness: float) -> None:
        """Initialise centroids and assignment from clusters of data.

        Args:
            centroids: Means of `local_features`, shape (m, l).
            sharpness: Scale alpha of the assignment logits: larger values give a harder assignment.
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
    """Return a class decorator that registers an aggregator for `GenGeoConfig(aggregator=name)`.

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
    """An aggregator, the linear projection and the final L2 normalisation, all in float32.

    Args:
        config: A `GenGeoConfig`.
        width: Width C of the tokens of the backbone.
        view: View of the head, "ground" or "aerial", or "shared" for a head of both views.

    Raises:
        ValueError: The aggregator needs a number of tokens that is not set, or `truncate_dim` or `matryoshka_dims` are
            larger than the width of the descriptor.
    """

    def __init__(self, config: Any, width: int, view: str = "shared") -> None:
        super().__init__()
        self.truncate_dim = config.truncate_dim
        kind: Any = AGGREGATORS[config.aggregator]
        more = {"tokens": _token_count(config, view)} if kind.needs_token_counts else {}
        aggregator: Any = kind(config, width, **more)
        self.aggregator = aggregator
        self.width_out: int = config.descriptor_dim or aggregator.width_out
        # The width of an aggregator without projection is not known to the configuration.
        if max([config.truncate_dim or 1, *(config.matryoshka_dims or ())]) > self.width_out:
            raise ValueError(
                f"truncate_dim {config.truncate_dim} and matryoshka_dims {config.matryoshka_dims} must not be above "
                f"{self.width_out}, the width of {config.aggregator} without a projection"
            )
        # The bias is initialised to zero: PyTorch's default is as large as the signal and makes descriptors similar.
        self.projection = Float32Linear(aggregator.width_out, config.descriptor_dim) if config.descriptor_dim else None

    def forward(
        self, tokens: torch.Tensor, global_token: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Compute the descriptors of a batch.

        Args:
            tokens: Patch tokens, shape (B, n, C).
            global_token: Global token, shape (B, C).

        Returns:
            Unit descriptors (B, D); the vectors of the aggregator before projection and truncation; and its assignment
            of tokens to clusters, None for aggregators without clusters.
        """
        unprojected, assignment = self.aggregator(tokens, global_token)
        return self.project(unprojected), unprojected, assignment

    def project(self, unprojected: torch.Tensor) -> torch.Tensor:
        """Project the vector of the aggregator (B, width_out) to the descriptor (B, D)."""
        with float32_island(unprojected.device):
            descriptor = unprojected if self.projection is None else self.projection(unprojected)
            return functional.normalize(descriptor[:, : self.truncate_dim], dim=1)


def _token_count(config: Any, view: str) -> int:
    """Return the number of patch tokens of an image for the head of a view.

    Raises:
        ValueError: The number is not set, or differs between the views of a shared head.
    """
    counts = config.token_counts or {}
    wanted = ("ground", "aerial") if view == "shared" else (view,)
    found = {int(counts[name]) for name in wanted if name in counts}
    if len(found) != 1 or any(name not in counts for name in wanted):
        raise ValueError(
            f"the {config.aggregator} aggregator needs a fixed number of tokens, and token_counts is "
            f"{config.token_counts}: give the number for {' and '.join(wanted)}"
            + ("; a head that both views share needs equal numbers" if len(found) > 1 else "")
        )
    return found.pop()


__all__ = ["AGGREGATORS", "GenGeoHead", "GenGeoNetVlad", "register_aggregator"]
