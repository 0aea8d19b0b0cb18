"""Confidence intervals of proportions."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def wilson(share: ArrayLike, count: ArrayLike, z: float = 1.96) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Confidence interval of a proportion (Wilson 1927), valid for small counts and near 0 and 1.

    Args:
        share: Observed proportions, 0 to 1, which the interval always contains.
        count: Number of observations of each proportion; both broadcast against each other.
        z: Quantile of the normal distribution; 1.96 gives 95 %.

    Returns:
        Lower and upper bounds, of the broadcast shape; 0 and 1 where there is no observation.
    """
    share, count = np.broadcast_arrays(np.asarray(share, np.float64), np.asarray(count, np.float64))
    known = np.maximum(count, 1)
    middle = (share + z**2 / (2 * known)) / (1 + z**2 / known)
    half = z / (1 + z**2 / known) * np.sqrt(share * (1 - share) / known + z**2 / (4 * known**2))
    low, high = np.minimum(middle - half, share), np.maximum(middle + half, share)
    return np.where(count > 0, np.clip(low, 0, 1), 0.0), np.where(count > 0, np.clip(high, 0, 1), 1.0)
