"""The learning rate of a step, with numbers worked out by hand."""

import pytest

from gengeo_hf.training.schedule import learning_rate, rate_factor
from tests.training.settings_with import settings_with


def plan(**values):
    return settings_with(**{f"optimisation__{name}": value for name, value in values.items()})


def test_learning_rate_of_a_short_run_is_exact():
    """10 steps: 3 of warm-up, then a half cosine over 7 steps from 8e-4 to 2e-4."""
    settings = plan(learning_rate=8e-4, final_learning_rate=2e-4, warmup=0.3)
    cosines = {0: 1.0, 3.5: 0.0, 7: -1.0}  # of pi * done / 7
    assert [learning_rate(step, 10, settings) for step in (0, 1, 2)] == pytest.approx([8e-4 / 3, 16e-4 / 3, 8e-4])
    for done, cosine in cosines.items():
        assert learning_rate(3 + done, 10, settings) == pytest.approx(5e-4 + 3e-4 * cosine)
    assert learning_rate(3 + 7 / 3, 10, settings) == pytest.approx(5e-4 + 1.5e-4)  # cos(pi / 3) = 1 / 2
    assert learning_rate(2.5, 10, settings) == pytest.approx(8e-4)  # never above the highest rate
    assert learning_rate(11, 10, settings) == pytest.approx(2e-4)  # nor below the last one


def test_learning_rate_of_default_plan_warms_up_for_one_epoch_of_80():
    """CVUSA: 138 batches of 256 pairs in an epoch."""
    settings = plan()
    total = 80 * 138
    assert learning_rate(0, total, settings) == pytest.approx(1e-4 / 138)
    assert learning_rate(136, total, settings) == pytest.approx(1e-4 * 137 / 138)
    assert learning_rate(138, total, settings) == pytest.approx(1e-4)
    assert learning_rate(138 + 79 * 138 / 2, total, settings) == pytest.approx(5e-5)
    assert learning_rate(total, total, settings) == pytest.approx(0, abs=1e-15)


def test_learning_rate_of_one_or_two_steps_has_no_empty_phase():
    settings = plan(warmup=0.0)
    assert learning_rate(0, 1, settings) == pytest.approx(1e-4)
    assert learning_rate(1.5, 2, settings) == pytest.approx(5e-5)  # one step of warm-up, half of the last step
    assert learning_rate(1.5, 1, plan(warmup=1.0)) == pytest.approx(5e-5)  # all steps are warm-up


@pytest.mark.parametrize(("rule", "factor"), [("sqrt", 2.0), ("linear", 4.0), ("none", 1.0)])
def test_rate_factor_of_four_times_the_batch(rule, factor):
    settings = plan(learning_rate_batch=64, batch_rule=rule)  # batch_size is 256
    assert rate_factor(settings) == factor
    assert learning_rate(138, 80 * 138, settings) == pytest.approx(1e-4 * factor)
    assert rate_factor(plan(batch_rule=rule)) == 1.0
