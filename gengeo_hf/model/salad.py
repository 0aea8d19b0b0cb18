# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""SALAD: patch tokens are assigned to clusters by optimal transport and summed per cluster.

Written from the equations of Izquierdo and Civera, "Optimal Transport Aggregation for Visual Place Recognition"
(CVPR 2024, section 3) and of the GenGeo paper (Remote Sensing 2026, 18(8), 1116, section 3.3).

Patch tokens (B, n, C) and one global token (B, C) of a backbone give one unit vector (B, g + l m).
This file is copied into published checkpoints and therefore imports only torch and its siblings.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .aggregation import Float32Linear, GenGeoAggregator, float32_island, token_mlp


def sinkhorn(scores: torch.Tensor, row_mass: torch.Tensor, iterations: int) -> torch.Tensor:
    """Optimal transport with entropic regularisation 1, in the log domain (SALAD, equations 4-6).

    Columns (tokens) are scaled last, so that each column of the plan sums to 1; rows only approximate their mass.

    Args:
        scores: Scores of rows and tokens, float32 (B, rows, n).
        row_mass: Logarithm of the mass of each row, broadcastable to (B, rows). Every column has mass 1.
        iterations: Number of row and column updates.

    Returns:
        Transport plan, float32 (B, rows, n).
    """
    columns = scores.new_zeros(scores.shape[0], 1, scores.shape[2])
    rows = columns
    for _ in range(iterations):
        rows = row_mass.unsqueeze(-1) - torch.logsumexp(scores + columns, dim=2, keepdim=True)
        columns = -torch.logsumexp(scores + rows, dim=1, keepdim=True)
    return torch.exp(scores + rows + columns)


class GenGeoSalad(GenGeoAggregator):
    """The SALAD aggregation. Its parameter names are those of the published SALAD checkpoints.

    Two parameters have no effect and are kept for those checkpoints: `dust_bin` (a constant added to a whole row, which
    the row update removes) and the last bias of `score` (one constant for each row). Their gradients are zero up to
    rounding.

    Args:
        config: A `GenGeoConfig`.
        width: Width C of the tokens of the backbone.
    """

    title = "SALAD"

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.num_clusters = config.num_clusters
        self.iterations = config.sinkhorn_iterations
        cluster_dim = config.cluster_dim or width
        self.width_out = config.token_dim + config.num_clusters * cluster_dim
        hidden, dropout = config.head_hidden_dim, config.head_dropout
        self.token_features = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, config.token_dim))
        self.cluster_features = token_mlp(width, hidden, cluster_dim, dropout)
        self.score = token_mlp(width, hidden, config.num_clusters, dropout, last=Float32Linear)
        self.dust_bin = nn.Parameter(torch.ones(())) if config.use_dustbin else None
        self.dustbin_shift = Float32Linear(width, 1) if config.dustbin_mass == "learned" else None

    def init_weights(self, init: Any) -> None:
        """Initialise the dustbin to 1, and a learned dustbin mass to that of SALAD."""
        if self.dust_bin is not None:
            init.ones_(self.dust_bin)
        if self.dustbin_shift is not None:
            init.zeros_(self.dustbin_shift.weight)

    @property
    def fewest_tokens(self) -> int:
        """Minimum number of patch tokens: m + 1 with a dustbin, whose mass is n - m."""
        return self.num_clusters + 1 if self.dust_bin is not None else 1

    @property
    def has_dustbin(self) -> bool:
        """Whether the last row of the plan is the dustbin."""
        return self.dust_bin is not None

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Aggregate the tokens of images.

        Args:
            tokens: Patch tokens, shape (B, n, C). The caller ensures that n >= `fewest_tokens`.
            global_token: Global token, shape (B, C).

        Returns:
            Unit vector, float32 (B, g + l m): the global part first, then the clusters, with the cluster index varying
            fastest. And the transport plan (B, m + 1, n), the dustbin last; (B, m, n) without a dustbin.
        """
        features = self.cluster_features(tokens)
        scores = self.score(tokens).transpose(1, 2)
        summary = self.token_features(global_token)
        with float32_island(tokens.device):
            plan = self.assign(scores, global_token)
            clusters = functional.normalize(plan[:, : self.num_clusters] @ features.float(), dim=2)
            summary = functional.normalize(summary.float(), dim=1)
            joined = torch.cat((summary, clusters.transpose(1, 2).flatten(1)), dim=1)
            return functional.normalize(joined, dim=1), plan

    def assign(self, scores: torch.Tensor, global_token: torch.Tensor) -> torch.Tensor:
        """Compute the transport plan from cluster scores (B, m, n); the last row is the dustbin, if there is one."""
        batch, clusters, count = scores.shape
        if self.dust_bin is None:
            # All token mass goes to the clusters, in equal parts.
            row_mass = scores.new_full((1, 1), count / clusters).log()
            return sinkhorn(scores, row_mass, self.iterations)
        dustbin = self.dust_bin.float().expand(batch, 1, count)
        scores = torch.cat((scores, dustbin), dim=1)
        return sinkhorn(scores, self.row_mass(scores, global_token), self.iterations)

    def row_mass(self, scores: torch.Tensor, global_token: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the mass of each cluster and of the dustbin, (1 or B, m + 1).

        "fixed" is SALAD: 1 for a cluster, n - m for the dustbin. "learned" shifts the logit of the fraction of the
        dustbin, (n - m) / n, by a linear function of the global token, and splits the rest evenly among the clusters.
        """
        clusters, count = self.num_clusters, scores.shape[2]
        dustbin = scores.new_full((1, 1), count - clusters).log()
        if self.dustbin_shift is None:
            return torch.cat((dustbin.new_zeros(1, clusters), dustbin), dim=1)
        logit = self.dustbin_shift(global_token) + dustbin - scores.new_full((), clusters).log()
        total = scores.new_full((), count).log()
        per_cluster = total + functional.logsigmoid(-logit) - scores.new_full((), clusters).log()
        return torch.cat((per_cluster.expand(-1, clusters), total + functional.logsigmoid(logit)), dim=1)


__all__ = ["GenGeoSalad", "sinkhorn"]
