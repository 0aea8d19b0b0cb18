"""Intervals where nothing spreads."""

import numpy as np
import pytest

from gengeo_hf.evaluation.intervals import Groups, mean_interval


@pytest.mark.parametrize("groups", [11, 40])
def test_hits_without_a_miss_are_worth_their_groups(groups):
    codes = np.repeat(np.arange(groups), 9)
    found = mean_interval(np.ones(len(codes)), Groups(codes, "streets"))
    alone = mean_interval(np.ones(groups))
    assert found == alone and found.high == 1.0
    # A share at the lower bound would give no miss in so many groups with a chance of about 2.5 %, as Wilson has it.
    assert 0.005 < found.low**groups < 0.06
