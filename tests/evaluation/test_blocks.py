"""Scores at and within the tolerance, in galleries where few chunks of scores are compared, and where all are."""

import numpy as np
import pytest

from gengeo_hf.evaluation import rank_of_positives, scan

FEW, ALL = 600, 20  # gallery sizes: one of 19 chunks has scores near that of the right tile; there is one chunk


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


@pytest.mark.parametrize(("near", "exact"), [(5000, True), (65_536, True), (65_537, False)])
def test_scan_of_more_than_65536_near_ties_counts_all_as_ties(near, exact):
    own = np.float32(0.25)
    gallery = np.full((near + 3, 1), own)  # the right tile, near ties, and two clearly better tiles
    gallery[1 : near + 1 : 2] = np.nextafter(own, np.float32(1))
    gallery[-2:] = 0.5
    found = scan(np.ones((1, 1), np.float32), gallery, np.array([0]), block=(1, near + 3))
    higher = (near + 1) // 2 if exact else 0
    assert (found.above[0, 0], found.tied[0, 0]) == (2 + higher, near - higher)


@pytest.mark.parametrize("size", [FEW, ALL])
def test_scan_counts_ties_of_positives_and_semi_positives_of_several_queries(size):
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


@pytest.mark.parametrize("size", [992, 1023, 1024, 1056, 3100])
def test_ranks_count_every_higher_score_in_galleries_of_any_size(size):
    gallery = np.random.default_rng(size).integers(0, 3, (size, 1)).astype(np.float32)
    gallery[:4, 0] = [0, 1, 2, -1]
    found = rank_of_positives(np.ones((4, 1), np.float32), gallery, np.arange(4), ties="sample4geo")
    assert found.tolist() == [int((gallery > own).sum()) for own in gallery[:4, 0]]
    assert found.tolist()[2:] == [0, size - 1]
