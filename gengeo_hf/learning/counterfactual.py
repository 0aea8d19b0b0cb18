"""The counterfactual loss of GeoDTR (Zhang et al., AAAI 2023): descriptors must depend on the learned layout.

The tokens of an image are aggregated a second time with a random layout. If both descriptors are similar, the learned
layout has no effect, and the loss is large: ln 2 for equal descriptors, 4.5e-5 for orthogonal ones.
"""

from torch import Tensor
from torch.nn import functional


def counterfactual_loss(actual: Tensor, other: Tensor, sharpness: float = 5.0) -> Tensor:
    """Compute ln(1 + exp(sharpness (2 cos - 2))) of each image.

    Args:
        actual: Unit descriptors, shape (batch, dim).
        other: Unit descriptors of the same images with a random layout, shape (batch, dim).
        sharpness: Factor of the negative squared distance 2 cos - 2.

    Returns:
        Loss of each image, float32 (batch,).
    """
    cosine = (actual.float() * other.float()).sum(dim=1)
    return functional.softplus(sharpness * (2 * cosine - 2))
