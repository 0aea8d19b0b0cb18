# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""The base class of aggregators, and layers that compute in float32.

This file is copied into published checkpoints and therefore imports only torch.
"""

import contextlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class GenGeoAggregator(nn.Module):
    """Base class of aggregators, which reduce the tokens of an image to one vector.

    A subclass implements `forward` and sets `width_out` in `__init__(config, width)`, where `config` is a
    `GenGeoConfig` and `width` the width C of the tokens.

    Attributes:
        title: Name in model cards and messages.
        needs_token_counts: Whether it needs a fixed number of patch tokens; `__init__` then also gets `tokens`, from
            `GenGeoConfig.token_counts`.
        has_layout: Whether it sums tokens by masks that `counterfactual` can replace.
        width_out: Width of the vector.
    """

    title = "an aggregator"
    needs_token_counts = False
    has_layout = False
    width_out: int

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Aggregate tokens to one vector.

        Args:
            tokens: Patch tokens, shape (B, n, C).
            global_token: Global token, shape (B, C).

        Returns:
            Unit vector, float32 (B, width_out); and the fraction of each token that is assigned to each cluster,
            (B, m, n), or None for an aggregator without clusters.
        """
        raise NotImplementedError

    def init_weights(self, init: Any) -> None:
        """Initialise the parameters of this module; submodules initialise themselves.

        Args:
            init: Module `transformers.initialization`, whose functions do not change loaded weights.
        """

    def counterfactual(self, tokens: torch.Tensor) -> torch.Tensor:
        """Aggregate tokens with a random layout, for counterfactual losses.

        Args:
            tokens: Patch tokens, shape (B, n, C).

        Returns:
            Unit vector, float32 (B, width_out).

        Raises:
            NotImplementedError: The aggregator has no layout.
        """
        raise NotImplementedError

    @property
    def fewest_tokens(self) -> int:
        """Minimum number of patch tokens of an image."""
        return 1

    @property
    def has_dustbin(self) -> bool:
        """Whether the last row of the assignment is the dustbin, whose mass is rejected."""
        return False


def float32_island(device: torch.device) -> contextlib.AbstractContextManager:
    """Return a context that disables autocast, so that float32 inputs give float32 results."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32, also under autocast and with half precision weights."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map inputs (..., in) of any dtype to float32 (..., out)."""
        with float32_island(inputs.device):
            bias = None if self.bias is None else self.bias.float()
            return functional.linear(inputs.float(), self.weight.float(), bias)


def token_mlp(
    width_in: int, hidden: int, width_out: int, dropout: float, last: type[nn.Linear] = nn.Linear
) -> nn.Sequential:
    """Build the token-wise MLP of SALAD. Layers 0 and 3 have the weights, as in the published checkpoints.

    Args:
        width_in: Width C of the tokens.
        hidden: Width q of the hidden layer.
        width_out: Width of the output.
        dropout: Dropout probability of the hidden layer in training; 0 adds no dropout layer.
        last: Class of the last layer.
    """
    return nn.Sequential(
        nn.Linear(width_in, hidden),
        nn.Dropout(dropout) if dropout > 0 else nn.Identity(),
        nn.ReLU(),
        last(hidden, width_out),
    )


__all__ = ["Float32Linear", "GenGeoAggregator", "float32_island", "token_mlp"]
