"""Numbers that show whether an aggregation head learns: cosine of clusters, entropy of the plan, effective rank.

A head whose clusters are all alike is in effect mean pooling, whatever its loss says. See docs/learning.md for the
values of runs that learn and of runs that stay on the plateau.
"""

import math

import torch
from torch.nn import functional


def cluster_cosine(clusters: torch.Tensor) -> float:
    """Mean cosine between the cluster vectors of the same image.

    Args:
        clusters: (B, m, l) cluster vectors, of any length.

    Returns:
        1 when all m clusters of an image point in the same direction; about 0 when they are unrelated. NaN for m = 1.
    """
    vectors = functional.normalize(clusters.float(), dim=2)
    count = vectors.shape[1]
    between = vectors.sum(dim=1).square().sum(dim=1) - count  # sum over ordered pairs of different clusters
    return (between / (count * (count - 1))).mean().item() if count > 1 else math.nan


def plan_entropy(plan: torch.Tensor) -> float:
    """How evenly tokens are divided among clusters, relative to an equal division.

    Args:
        plan: (B, m, n) mass that each of m clusters takes from each of n tokens, without the dustbin.

    Returns:
        Entropy of a token's division among the clusters divided by ln m, averaged with the mass that clusters take
        from each token as weight: 1 for a flat plan, 0 when each token goes to one cluster. NaN for m = 1.
    """
    if plan.shape[1] < 2:
        return math.nan
    mass = plan.float().sum(dim=1)  # (B, n)
    entropy = torch.special.entr(plan.float() / mass.clamp(min=1e-12).unsqueeze(1)).sum(dim=1) / math.log(plan.shape[1])
    return (entropy * mass).sum().div(mass.sum()).item()


def effective_rank(descriptors: torch.Tensor) -> float:
    """Number of directions that descriptors use (Roy and Vetterli 2007): exp of the entropy of the singular values.

    Args:
        descriptors: (B, D), not centred.

    Returns:
        1 when all rows are parallel, min(B, D) when all singular values are equal.
    """
    if not bool(descriptors.isfinite().all()):
        return float("nan")  # a diverging run says so by its loss
    values = torch.linalg.svdvals(descriptors.float())
    return torch.special.entr(values / values.sum()).sum().exp().item()
