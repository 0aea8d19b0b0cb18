"""Intervals of shares."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def wilson(share: ArrayLike, count: ArrayLike, z: float = 1.96) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of a share (Wilson 1927): holds for small counts and near 0 and 1, and always contains the share.

    Args:
        share: Observed shares, 0 to 1.
        count: Number of observations behind each share; shapes that broadcast.
        z: Quantile of the normal distribution; 1.96 gives 95 %.

    Returns:
        Lower and upper ends, in the broadcast shape; 0 and 1 where there is no observation.
    """
    share, count = np.broadcast_arrays(np.asarray(share, np.float64), np.asarray(count, np.float64))
    known = np.maximum(count, 1)
    middle = (share + z**2 / (2 * known)) / (1 + z**2 / known)
    half = z / (1 + z**2 / known) * np.sqrt(share * (1 - share) / known + z**2 / (4 * known**2))
    low, high = np.minimum(middle - half, share), np.maximum(middle + half, share)
    return np.where(count > 0, np.clip(low, 0, 1), 0.0), np.where(count > 0, np.clip(high, 0, 1), 1.0)
