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
