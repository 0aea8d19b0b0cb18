"""Coverage of every reported interval, by simulation: 95 % intervals must contain the true value in 93 to 97 % of runs.

Shares are drawn around a value, because the coverage of a discrete interval changes abruptly with the share. For shares
near 1, where few queries are misses, intervals may be wider than needed; the upper bound is 98.5 there.
"""

import numpy as np
import pytest

from gengeo_hf.evaluation.intervals import Groups, mean_interval, median_interval, paired_interval

pytestmark = pytest.mark.slow
RUNS = 1500  # the standard error of a coverage of 95 % is 0.6 points


def coverage(draw, interval, seed=0):
    """Share of runs whose interval contains the true value; `draw` returns values, groups and the true value."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(RUNS):
        values, groups, truth = draw(rng)
        low, high = interval(values, groups)
        held += low - 1e-12 <= truth <= high + 1e-12
    return held / RUNS


def streets(count, photos):
    return Groups(np.repeat(np.arange(count), photos), "streets")


@pytest.mark.parametrize(
    ("count", "low", "high", "most"),
    [
        (500, 0.4, 0.6, 0.97),
        (64, 0.85, 0.95, 0.97),
        (64, 0.02, 0.1, 0.985),
        (500, 0.99, 0.999, 0.985),
        (500, 0.002, 0.01, 0.985),
        (8884, 0.985, 0.992, 0.97),
        (25, 0.3, 0.7, 0.97),
    ],
)
def test_mean_interval_of_independent_hits_covers_the_true_share(count, low, high, most):
    def draw(rng):
        share = rng.uniform(low, high)
        return (rng.random(count) < share).astype(float), None, share

    assert 0.93 <= coverage(draw, mean_interval) <= most


@pytest.mark.parametrize(
    ("count", "photos", "share", "alike"),
    [
        (25, 20, 0.8, 0.5),
        (25, 20, 0.5, 0.5),
        (25, 20, 0.95, 0.3),
        (50, 10, 0.9, 0.3),
        (10, 50, 0.7, 0.3),
        (200, 3, 0.95, 0.2),
        (25, 20, 0.8, 0.02),
    ],
)
def test_mean_interval_of_grouped_hits_covers_the_true_share(count, photos, share, alike):
    """Each street has its own share, beta-distributed with the intraclass correlation `alike`."""

    def draw(rng):
        own = rng.beta(share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike, count)
        return (rng.random((count, photos)) < own[:, None]).astype(float).ravel(), streets(count, photos), share

    assert 0.93 <= coverage(draw, mean_interval) <= 0.975
    if alike >= 0.3 and photos >= 10:  # coverage if photos were taken as independent
        assert coverage(lambda rng: (draw(rng)[0], None, share), mean_interval) < 0.85


@pytest.mark.parametrize(("count", "share"), [(64, 0.5), (500, 0.9), (500, 0.99)])
def test_mean_interval_of_average_precision_covers_the_true_mean(count, share):
    ranks = np.arange(1, 5000)
    truth = float((share * (1 - share) ** (ranks - 1) / ranks).sum())
    assert 0.93 <= coverage(lambda rng: (1 / rng.geometric(share, count), None, truth), mean_interval) <= 0.975


@pytest.mark.parametrize(("count", "most"), [(64, 0.975), (500, 0.97)])
def test_median_interval_of_independent_errors_covers_the_true_median(count, most):
    assert 0.93 <= coverage(lambda rng: (rng.lognormal(2, 1, count), None, np.exp(2)), median_interval) <= most


@pytest.mark.parametrize(("count", "photos"), [(25, 20), (50, 5), (12, 40)])
def test_median_interval_of_grouped_errors_covers_the_true_median(count, photos):
    def draw(rng):
        logarithms = 2 + rng.normal(0, 0.8, count)[:, None] + rng.normal(0, 0.6, (count, photos))
        return np.exp(logarithms).ravel(), streets(count, photos), np.exp(2)

    assert 0.93 <= coverage(draw, median_interval) <= 0.975


@pytest.mark.parametrize(
    ("count", "gains", "losses", "most"),
    [
        (500, 0.05, 0.05, 0.97),
        (500, 0.03, 0.01, 0.97),
        (500, 0.006, 0.0, 0.985),
        (64, 0.1, 0.1, 0.97),
        (500, 0.3, 0.25, 0.97),
        (500, 0.004, 0.004, 0.99),
        (100, 0.2, 0.02, 0.97),
    ],
)
def test_paired_interval_of_independent_queries_covers_the_true_difference(count, gains, losses, most):
    def draw(rng):
        drawn = rng.random(count)
        values = np.where(drawn < gains, 1.0, np.where(drawn < gains + losses, -1.0, 0.0))
        return values, None, gains - losses

    assert 0.93 <= coverage(draw, lambda values, groups: paired_interval(values, groups)[1]) <= most


@pytest.mark.parametrize(
    ("count", "photos", "gains", "losses"), [(25, 20, 0.1, 0.1), (25, 20, 0.2, 0.1), (50, 10, 0.05, 0.02)]
)
def test_paired_interval_of_grouped_queries_covers_the_true_difference(count, photos, gains, losses):
    def draw(rng):
        own = rng.dirichlet(3 * np.array([gains, losses, 1 - gains - losses]), count)
        drawn = rng.random((count, photos))
        values = np.where(drawn < own[:, :1], 1.0, np.where(drawn < own[:, :1] + own[:, 1:2], -1.0, 0.0))
        return values.ravel(), streets(count, photos), gains - losses

    assert 0.93 <= coverage(draw, lambda values, groups: paired_interval(values, groups)[1]) <= 0.97
