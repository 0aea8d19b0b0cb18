"""Intervals of values without variance."""

import math

import numpy as np
import pytest

from gengeo_hf.evaluation.intervals import Groups, mean_interval


@pytest.mark.parametrize("groups", [11, 40])
def test_mean_interval_of_only_hits_uses_the_number_of_groups(groups):
    codes = np.repeat(np.arange(groups), 9)
    found = mean_interval(np.ones(len(codes)), Groups(codes, "streets"))
    alone = mean_interval(np.ones(groups))
    assert found == alone and found.high == 1.0
    # Under a share at Wilson's lower bound, this many groups without a miss have a probability of about 2.5 %.
    assert 0.005 < found.low**groups < 0.06


@pytest.mark.parametrize("hits", [1, 2, 3])
def test_mean_interval_of_few_hits_has_the_bound_of_poisson(hits):
    """Below the bound, as many hits or more have a probability of at most 5 % (Brown, Cai and DasGupta 2001)."""
    count = 400
    values = np.zeros(count)
    values[:hits] = 1
    found, mirrored = mean_interval(values), mean_interval(1 - values)
    expected = found.low * count
    fewer = sum(math.exp(-expected) * expected**k / math.factorial(k) for k in range(hits))
    assert 1 - fewer == pytest.approx(0.05, abs=1e-6)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))
    assert found.low < hits / count < found.high
