"""Batch sampling, mining and losses, on arrays only: this package reads no images and no files."""

from gengeo_hf.learning.grad_cache import FrozenPrefix, cached_backward
from gengeo_hf.learning.loss import gather_rows, symmetric_info_nce
from gengeo_hf.learning.mining import similar_photos, similar_tiles
from gengeo_hf.learning.plan import Pairs, Plan, Rules, plan_epoch
from gengeo_hf.learning.sampler import HardNegativeBatchSampler

__all__ = [
    "FrozenPrefix",
    "HardNegativeBatchSampler",
    "Pairs",
    "Plan",
    "Rules",
    "cached_backward",
    "gather_rows",
    "plan_epoch",
    "similar_photos",
    "similar_tiles",
    "symmetric_info_nce",
]
