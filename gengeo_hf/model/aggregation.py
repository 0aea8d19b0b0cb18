# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""What aggregators share: their base class, and layers that compute in float32.

This file travels with published checkpoints, so it imports only torch.
"""

import contextlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class GenGeoAggregator(nn.Module):
    """Tokens of an image to one vector; the base class of all aggregators.

    A subclass sets `width_out`, the width of its vector, in `__init__(config, width)`, where `config` is a
    `GenGeoConfig` and `width` the width C of the tokens. It implements `forward`.

    Attributes:
        title: How model cards call it.
        needs_token_counts: Whether it is tied to a number of patch tokens; `__init__` then also gets `tokens`, from
            `GenGeoConfig.token_counts`.
        has_layout: Whether it sums tokens by masks that may be replaced, see `counterfactual`.
    """

    title = "an aggregator"
    needs_token_counts = False
    has_layout = False
    width_out: int

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Aggregate patch tokens (B, n, C) and the global token (B, C).

        Returns:
            The vector (B, width_out), float32 of length 1, and the share of each token that goes to each cluster
            (B, m, n), or None for an aggregator without clusters.
        """
        raise NotImplementedError

    def init_weights(self, init: Any) -> None:
        """Initialise parameters of its own; layers inside initialise themselves.

        Args:
            init: `transformers.initialization`, whose functions leave loaded weights alone.
        """

    def counterfactual(self, tokens: torch.Tensor) -> torch.Tensor:
        """The vector (B, width_out) that patch tokens (B, n, C) give with a random layout, for counterfactual losses.

        Raises:
            NotImplementedError: The aggregator has no layout.
        """
        raise NotImplementedError

    @property
    def fewest_tokens(self) -> int:
        """Number of patch tokens that an image must have at least."""
        return 1

    @property
    def has_dustbin(self) -> bool:
        """Whether the last row of the assignment is mass that is left out."""
        return False


def float32_island(device: torch.device) -> contextlib.AbstractContextManager:
    """A block in which autocast does nothing. What is computed inside is float32 if its inputs are."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32, under autocast and with half precision weights too."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (..., in) of any dtype to (..., out), float32."""
        with float32_island(inputs.device):
            bias = None if self.bias is None else self.bias.float()
            return functional.linear(inputs.float(), self.weight.float(), bias)


def token_mlp(
    width_in: int, hidden: int, width_out: int, dropout: float, last: type[nn.Linear] = nn.Linear
) -> nn.Sequential:
    """The token-wise MLP of SALAD. Layers 0 and 3 carry the weights, as in the published checkpoints.

    Args:
        width_in: Width C of the tokens.
        hidden: Width q of the hidden layer.
        width_out: Width of the output.
        dropout: Share of hidden values that training drops; 0 leaves the layer out.
        last: Class of the last layer.
    """
    return nn.Sequential(
        nn.Linear(width_in, hidden),
        nn.Dropout(dropout) if dropout > 0 else nn.Identity(),
        nn.ReLU(),
        last(hidden, width_out),
    )


__all__ = ["Float32Linear", "GenGeoAggregator", "float32_island", "token_mlp"]
