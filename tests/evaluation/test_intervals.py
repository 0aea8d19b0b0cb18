"""Intervals of values without variance."""

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
