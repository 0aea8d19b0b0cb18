"""An encoder with random weights, as a baseline of pose heads that uses only colours and texture.

The two views of the synthetic world have the same colours, so a head can estimate positions even from tokens of random
weights. Its errors are reported together with those of the trained encoder.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from gengeo_hf.encoding.encoder import Encoder

SUBFOLDER = "random_encoder"  # subdirectory of a head with the head fitted on random weights
SEED = 0


def random_encoder(encoder: Encoder, seed: int = SEED) -> Encoder:
    """Create an encoder with the same architecture and preprocessing and random weights.

    Args:
        encoder: Encoder with a torch model.
        seed: Seed of the weights.
    """
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.model import GenGeoModel

    config = copy.deepcopy(encoder.model.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GenGeoModel(config)
    return Encoder(model, encoder.processor, device=encoder.device, batch_size=encoder.batch_size)
