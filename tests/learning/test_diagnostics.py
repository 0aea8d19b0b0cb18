"""Diagnostics of a head on inputs with known values, and against a slow formula."""

import math

import pytest
import torch

from gengeo_hf.learning.diagnostics import cluster_cosine, effective_rank, plan_entropy


def test_cluster_cosine_equal_is_1_and_orthogonal_is_0():
    equal = torch.randn(3, 1, 6).expand(3, 4, 6) * torch.rand(3, 4, 1)
    assert cluster_cosine(equal) == pytest.approx(1, abs=1e-5)
    assert cluster_cosine(torch.eye(4).expand(2, 4, 4)) == pytest.approx(0, abs=1e-6)
    assert math.isnan(cluster_cosine(torch.randn(2, 1, 5)))


def test_cluster_cosine_equals_mean_over_pairs():
    clusters = torch.randn(2, 3, 5)
    pairs = [
        torch.cosine_similarity(clusters[image, first], clusters[image, second], dim=0)
        for image in range(2)
        for first in range(3)
        for second in range(first)
    ]
    assert cluster_cosine(clusters) == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)


def test_plan_entropy_uniform_is_1_and_hard_is_0():
    assert plan_entropy(torch.full((2, 4, 9), 0.1)) == pytest.approx(1, abs=1e-6)
    hard = torch.nn.functional.one_hot(torch.arange(9) % 4, 4).T[None].float() * torch.rand(1, 1, 9)
    assert plan_entropy(hard) == pytest.approx(0, abs=1e-6)
    half = torch.zeros(1, 4, 2)
    half[:, :2, 0] = 0.5  # a token divided between two clusters, with all of its mass
    half[:, 3, 1] = 1.0
    assert plan_entropy(half) == pytest.approx(0.25, abs=1e-6)


def test_effective_rank_parallel_is_1_and_orthogonal_is_full():
    assert effective_rank(torch.ones(8, 5)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.eye(6)) == pytest.approx(6, abs=1e-3)


def test_plan_entropy_equals_mean_weighted_by_kept_mass():
    plan = torch.tensor([[[0.6, 0.1], [0.2, 0.1]], [[0.05, 0.9], [0.15, 0.0]]])  # two images, two clusters, two tokens
    total = weight = 0.0
    for image in plan:
        for token in image.T:
            mass = float(token.sum())
            shares = [float(value) / mass for value in token if value > 0]
            total -= mass * sum(share * math.log(share) for share in shares) / math.log(2)
            weight += mass
    assert plan_entropy(plan) == pytest.approx(total / weight, rel=1e-5)


def test_plan_entropy_single_cluster_is_nan_and_single_token_is_not():
    assert math.isnan(plan_entropy(torch.full((2, 1, 9), 0.5)))
    assert plan_entropy(torch.full((2, 4, 1), 0.5)) == pytest.approx(1, abs=1e-6)


def test_cluster_cosine_of_two_clusters_is_their_cosine():
    clusters = torch.tensor([[[3.0, 0.0, 0.0], [1.0, 1.0, 0.0]], [[0.0, 2.0, 0.0], [0.0, 0.0, 5.0]]])
    assert cluster_cosine(clusters) == pytest.approx(math.sqrt(0.5) / 2, abs=1e-6)


def test_effective_rank_of_unequal_values_and_of_values_that_are_not_finite():
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))  # singular values 6 and 2
    assert effective_rank(torch.tensor([[6.0, 0.0], [0.0, 2.0], [0.0, 0.0]])) == pytest.approx(expected, rel=1e-5)
    descriptors = torch.eye(3)
    descriptors[1, 2] = torch.nan
    assert math.isnan(effective_rank(descriptors))
