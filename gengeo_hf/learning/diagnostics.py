"""Diagnostics of an aggregation head: cosine of clusters, entropy of the plan, effective rank.

A head with nearly equal clusters is equivalent to mean pooling, for any value of the loss. docs/learning.md has the
values of runs that learn and of runs that stay on the plateau.
"""

import math

import torch
from torch.nn import functional


def cluster_cosine(clusters: torch.Tensor) -> float:
    """Mean cosine between the cluster vectors of the same image.

    Args:
        clusters: Cluster vectors of any norm, shape (B, m, l).

    Returns:
        1 if all m clusters of an image have the same direction, about 0 if they are unrelated, NaN for m = 1.
    """
    vectors = functional.normalize(clusters.float(), dim=2)
    count = vectors.shape[1]
    between = vectors.sum(dim=1).square().sum(dim=1) - count  # sum over ordered pairs of different clusters
    return (between / (count * (count - 1))).mean().item() if count > 1 else math.nan


def plan_entropy(plan: torch.Tensor) -> float:
    """Entropy of the assignment of tokens to clusters, relative to that of a uniform assignment.

    Args:
        plan: Mass of each of m clusters and n tokens, without the dustbin, shape (B, m, n).

    Returns:
        Entropy of the clusters of a token divided by ln m, averaged over tokens with their kept mass as weight: 1 for
        a uniform plan, 0 if each token belongs to one cluster, NaN for m = 1.
    """
    if plan.shape[1] < 2:
        return math.nan
    mass = plan.float().sum(dim=1)  # (B, n)
    entropy = torch.special.entr(plan.float() / mass.clamp(min=1e-12).unsqueeze(1)).sum(dim=1) / math.log(plan.shape[1])
    return (entropy * mass).sum().div(mass.sum()).item()


def effective_rank(descriptors: torch.Tensor) -> float:
    """Effective rank of descriptors (Roy and Vetterli 2007): exp of the entropy of the normalised singular values.

    Args:
        descriptors: Descriptors, not centred, shape (B, D).

    Returns:
        1 if all rows are parallel, min(B, D) if all singular values are equal, NaN if a value is not finite.
    """
    if not bool(descriptors.isfinite().all()):
        return float("nan")  # the loss of a diverging run is reported elsewhere
    values = torch.linalg.svdvals(descriptors.float())
    return torch.special.entr(values / values.sum()).sum().exp().item()
