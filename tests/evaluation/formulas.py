"""Textbook formulas that several tests compare with."""

import math


def wilson(share, count, z):
    """Wilson's interval of a share among `count` values, as (low, high)."""
    middle, half = share + z**2 / 2 / count, z * math.sqrt(share * (1 - share) / count + z**2 / 4 / count**2)
    return (middle - half) / (1 + z**2 / count), (middle + half) / (1 + z**2 / count)
