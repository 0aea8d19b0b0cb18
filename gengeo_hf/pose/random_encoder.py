"""An encoder with random weights, as a baseline: how exact a pose head is on colours and texture alone.

The two views of the synthetic world share colours, so a head finds positions even on tokens of random weights. Its
errors are reported beside those of the trained encoder.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from gengeo_hf.encoding.encoder import Encoder

SUBFOLDER = "random_encoder"  # beside a head: the same head fitted on random weights
SEED = 0


def random_encoder(encoder: Encoder, seed: int = SEED) -> Encoder:
    """An encoder of the same architecture and preprocessing with random weights, the same for the same seed.

    Args:
        encoder: With a torch model.
        seed: Of the weights.
    """
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.model import GenGeoModel

    config = copy.deepcopy(encoder.model.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GenGeoModel(config)
    return Encoder(model, encoder.processor, device=encoder.device, batch_size=encoder.batch_size)
