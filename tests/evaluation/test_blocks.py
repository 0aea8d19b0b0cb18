"""Scores at and within the tolerance, in blocks whose chunks are compared one by one and in others."""

import numpy as np
import pytest
import torch

from gengeo_hf.evaluation import blocks, rank_of_positives, scan

FEW, ALL = 600, 20  # gallery sizes: one chunk in 19 has scores near that of the right tile; the only chunk


def ranks(scores, size, ties):
    """Ranks of the first tile, with the scores of the first tiles; all others score -0.5."""
    gallery = np.full((size, 1), -0.5, np.float32)
    gallery[: len(scores), 0] = scores
    return rank_of_positives(np.ones((1, 1), np.float32), gallery, np.array([0]), ties=ties)[0]


@pytest.mark.parametrize("size", [FEW, ALL])
def test_scores_within_the_tolerance_are_compared_exactly(size):
    # Two scores within 2e-6 * 0.5 of each other are compared in float64, also where they differ by a bit.
    own = np.float32(0.25)
    up, down = np.nextafter(own, np.float32(1)), np.nextafter(own, np.float32(0))
    scores = [own, up, up, down, own, own, own, 0.4, 0.5]
    assert ranks(scores, size, "sample4geo") == 4
    assert ranks(scores, size, "pessimistic") == 7
    assert ranks(scores, size, "mid") == 5.5


@pytest.mark.parametrize("size", [FEW, ALL])
def test_scores_at_the_limits_of_the_tolerance_count_once(size):
    limit = np.float32(2e-6 * 0.5)  # of a right tile whose score is 0, where the longest descriptor is 0.5
    assert ranks([0, limit, 0.5, -limit], size, "pessimistic") == 2
    assert ranks([0, limit, limit, -limit, -limit], size, "sample4geo") == 2


@pytest.mark.parametrize(("most", "tied"), [(6, 3), (5, 6)])
def test_scan_of_more_near_ties_than_the_limit_counts_all_as_ties(monkeypatch, most, tied):
    monkeypatch.setattr(blocks, "_MOST_RECHECKS", most)
    own = np.float32(0.25)
    up, down = np.nextafter(own, np.float32(1)), np.nextafter(own, np.float32(0))
    gallery = np.array([[own, up, up, down, own, own, own, 0.5]], np.float32).T
    found = scan(np.ones((1, 1), np.float32), gallery, np.array([0]))
    assert found.tied[0, 0] == tied and found.above[0, 0] == (3 if tied == 3 else 1)


@pytest.mark.parametrize("size", [FEW, ALL])
def test_scan_compares_near_ties_of_several_queries_and_semi_positives_in_parts(monkeypatch, size):
    monkeypatch.setattr(blocks, "_RECHECK_ROWS", 3)
    gallery = np.random.default_rng(0).integers(-2, 3, (size, 4)).astype(np.float32)
    gallery[:5] = gallery[5:10]
    queries = gallery[:4] + 0.5
    rows, semi = np.array([3, 0, 7, 2]), np.array([[5, -1], [-1, -1], [2, 6], [12, -1]])
    found = scan(queries, gallery, rows, semi_positive_rows=semi, block=(3, 70), top=3)
    scores = queries @ gallery.T
    for query in range(4):
        outside = np.setdiff1d(np.arange(size), [rows[query], *semi[query]])
        for column, row in enumerate([rows[query], *semi[query]]):
            others, own = scores[query, outside], scores[query, row]
            if row >= 0:
                assert found.above[query, column] == (others > own).sum()
                assert found.tied[query, column] == (others == own).sum()
        assert found.top_scores[query].tolist() == sorted(scores[query], reverse=True)[:3]
        assert scores[query, found.top_rows[query]].tolist() == found.top_scores[query].tolist()


@pytest.mark.parametrize("columns", [5, 1023, 1024, 1025, 3100])
def test_count_above_equals_a_sum_for_any_number_of_columns(columns):
    scores = torch.from_numpy(np.random.default_rng(columns).integers(0, 3, (4, columns)).astype(np.float32))
    limit = torch.tensor([[0.0], [1.0], [2.0], [-1.0]])
    assert blocks._count_above(scores, limit).tolist() == (scores > limit).sum(dim=1).tolist()
    assert blocks._count_above(scores, limit)[2:].tolist() == [0, columns]
