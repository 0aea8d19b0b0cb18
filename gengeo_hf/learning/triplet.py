"""The soft-margin triplet loss over all negatives of a batch (Hu et al., CVM-Net, CVPR 2018, equation 6).

SAFA, TransGeo and GeoDTR use it. It has no learned temperature.
"""

import torch
from torch import Tensor
from torch.nn import functional


def soft_margin_triplet(
    ground: Tensor,
    aerial: Tensor,
    *,
    scale: float = 20.0,
    positives: Tensor | None = None,
    ignored: Tensor | None = None,
) -> Tensor:
    """Mean of ln(1 + exp(scale (s_ij - s_ii))) over both directions and all negatives j of each i; s is the cosine.

    A factor of 10 on squared distances d = 2 - 2 s, as in the papers, is a scale of 20. The mean over all negatives
    reduces the weight of hard ones in large batches. For two pairs the loss equals InfoNCE at the same scale without
    label smoothing.

    Args:
        ground: Unit descriptors of the ground photos, shape (batch, dim).
        aerial: Unit descriptors of the tiles, row i being the tile of ground row i, shape (batch, dim).
        scale: Factor of the difference of cosines.
        positives: Bool (batch, batch), True where a ground photo and a tile match; such tiles are not negatives.
        ignored: Bool (batch, batch), True where a tile is neither a positive nor a negative of a photo; excluded too.

    Returns:
        The loss, 0-d float32.

    Raises:
        ValueError: The descriptors are not two matrices of one shape, or no photo has a negative.
    """
    if ground.shape != aerial.shape or ground.ndim != 2:
        raise ValueError(f"expected two (batch, dim) matrices of one shape, found {ground.shape} and {aerial.shape}")
    negative = ~torch.eye(len(ground), dtype=torch.bool, device=ground.device)
    for mask in (positives, ignored):
        if mask is not None:
            negative &= ~mask.to(negative.device)
    if not bool(negative.any()):
        raise ValueError("a batch without negatives: the triplet loss needs at least two pairs of different places")
    with torch.autocast(ground.device.type, enabled=False):
        cosines = ground.float() @ aerial.float().T
        right = cosines.diagonal()
        by_photo = functional.softplus(scale * (cosines - right[:, None]))
        by_tile = functional.softplus(scale * (cosines - right[None]))
        return (by_photo[negative].mean() + by_tile[negative].mean()) / 2
