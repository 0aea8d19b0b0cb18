"""Which rows a search requests from compressed structures, and with which threads."""

import functools
import itertools
import threading

import faiss
import numpy as np
import pytest

from gengeo_hf.index import search
from gengeo_hf.index.scan import build_scan, sample_queries
from gengeo_hf.index.search import Part, Searcher, needs_scan, whole_depth
from tests.index.test_search import brute_force, cut
from tests.index.test_search import gallery as unit_vectors


@pytest.fixture
def requests(monkeypatch):
    """(Number of rows of the structure, number of requested rows, name of the thread) of each scan of FAISS."""
    found, scan = [], faiss.IndexPreTransform.search

    def recorded(self, queries, count):
        found.append((self.ntotal, count, threading.current_thread().name))
        return scan(self, queries, count)

    monkeypatch.setattr(faiss.IndexPreTransform, "search", recorded)
    return found


def gallery(count=2000, seed=0):
    """Vectors of 16 dimensions, so that quantisers are learned quickly."""
    return unit_vectors(count, 16, seed)


@functools.cache
def learned(first, end):
    return build_scan(gallery()[first:end])[0]


def scanned(sizes, dead=()):
    """Parts with a quantiser of their own each; `dead` are removed rows, counted through all parts."""
    edges = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    removed = np.isin(np.arange(edges[-1]), dead)
    return [
        Part(gallery()[a:b], removed[a:b] if len(dead) else None, [faiss.clone_index(learned(a, b))])
        for a, b in itertools.pairwise(edges)
    ]


def all_estimates(parts, queries):
    """Estimates of all live rows, row by row in all structures: (queries, rows), -inf for removed rows."""
    columns = []
    for part in parts:
        for index in part.scan:
            estimates, rows = index.search(queries, index.ntotal)
            columns.append(np.take_along_axis(estimates, np.argsort(rows, axis=1), axis=1))
    dead = np.concatenate([np.zeros(len(p.descriptors), bool) if p.dead is None else p.dead for p in parts])
    return np.where(dead, -np.inf, np.concatenate(columns, axis=1))


def test_whole_depth_is_the_root_of_the_sum_of_squares_within_320_and_16384():
    assert [whole_depth(depths) for depths in ([], [320], [321, 321], [300, 400], [16_383], [16_000, 4_000])] == [
        320,
        320,
        454,
        500,
        16_383,
        16_384,
    ]
    assert whole_depth([3, 4], least=2) == 5 and whole_depth([3, 4], least=6) == 6
    assert whole_depth([6], least=5) == 6


@pytest.mark.parametrize(("count", "bytes_per_tile"), [(20_000, 4 * 2), (20_001, 2 * 2)])
def test_exact_search_of_more_than_20000_tiles_takes_half_the_memory(monkeypatch, count, bytes_per_tile):
    searched = []
    for kind in (faiss.IndexFlatIP, faiss.IndexScalarQuantizer):

        def recorded(self, queries, k, exact=kind.search):
            searched.append((self.ntotal, self.sa_code_size()))
            return exact(self, queries, k)

        monkeypatch.setattr(kind, "search", recorded)
    Searcher([Part(np.full((count, 2), 0.5, np.float16))]).search(np.full((1, 2), 0.5, np.float32), 1)
    assert searched == [(count, bytes_per_tile)] and not needs_scan(count, count)


def test_search_without_queries_or_tiles_has_no_columns():
    searcher = Searcher([Part(unit_vectors(5, 8))])
    shapes = [
        [found.shape for found in searcher.search(np.zeros((queries, 8), np.float32), k)]
        for queries, k in ((0, 3), (2, 0), (2, 9))
    ]
    assert shapes == [[(0, 0)] * 2, [(2, 0)] * 2, [(2, 5)] * 2]
    assert [found.shape for found in Searcher([]).search(np.zeros((2, 8), np.float32), 4)] == [(2, 0)] * 2
    assert [found.shape for found in Searcher([]).search_runs(np.zeros((2, 8), np.float32), [], 4)] == [(2, 0)] * 2
    rows = searcher.ranked_candidates(np.zeros((2, 8), np.float32), 3)
    assert rows.shape == (2, 0) and rows.dtype == np.int64


@pytest.mark.parametrize(("k", "candidates"), [(1, 400), (10, 400), (11, 440), (25, 1000)])
def test_search_scores_more_candidates_for_more_requested_tiles(monkeypatch, k, candidates):
    """A depth of 400 is for ten tiles; fewer tiles do not lessen it."""
    (part,), depths = scanned((2000,)), []
    part.depth = 400
    searcher = Searcher([part])
    ranked = Searcher.ranked_candidates

    def recorded(self, queries, depth):
        depths.append(depth)
        return ranked(self, queries, depth)

    monkeypatch.setattr(Searcher, "ranked_candidates", recorded)
    assert searcher.search(gallery()[:2].astype(np.float32), k)[1].shape == (2, k)
    assert depths == [candidates]


@pytest.mark.parametrize(("own", "threads"), [(1, 1), (2, 3)])
def test_search_of_one_query_uses_one_thread_of_faiss(monkeypatch, own, threads):
    monkeypatch.setattr(search, "THREADS", 3)
    before = faiss.omp_get_max_threads()
    try:
        Searcher([Part(gallery(50))]).search(gallery(own, seed=1).astype(np.float32), 2)
        assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("depth", [40, 300])
@pytest.mark.parametrize("sizes", [(1500,), (900, 500, 100)])
def test_ranked_candidates_are_the_live_rows_with_the_best_estimates(sizes, depth):
    """The best rows of the first query are removed, those of the others are not."""
    queries = sample_queries(gallery()[:1500], 5)
    best = np.argsort(-(queries[0] @ gallery()[:1500].astype(np.float32).T))[:350]
    parts = scanned(sizes, dead=best)
    estimates = all_estimates(parts, queries)
    rows = Searcher(parts).ranked_candidates(queries, depth)
    assert rows.shape == (5, depth) and all(len(set(line)) == depth for line in rows.tolist())
    found = np.take_along_axis(estimates, rows, axis=1)
    assert np.array_equal(found, -np.sort(-estimates, axis=1)[:, :depth])


def test_ranked_candidates_of_one_structure_are_requested_once(requests):
    parts = scanned((1500,))
    for number in (1, 4):
        Searcher(parts).ranked_candidates(gallery()[:number].astype(np.float32), 60)
    assert [count for _, count, _ in requests] == [60, 60]


def test_ranked_candidates_of_several_structures_request_shares_with_a_margin(requests):
    """The share, 20 % and three standard deviations and 16 rows more: 75 is 90 + 26.0 + 16, 25 is 30 + 15 + 16."""
    parts = scanned((1500, 500))
    Searcher(parts).ranked_candidates(sample_queries(gallery(), 8), 100)
    assert [(rows, count) for rows, count, _ in requests] == [(1500, 132), (500, 61)]


def test_ranked_candidates_of_removed_rows_are_requested_again_in_double_numbers(requests):
    """63 of 600 live rows are 105 of all, 10 % and 16 rows more are 132; all are removed, and twice as many as well."""
    query = gallery()[:1].astype(np.float32)
    best = learned(0, 1000).search(query, 400)[1][0]
    parts = scanned((1000,), dead=best)
    requests.clear()
    rows = Searcher(parts).ranked_candidates(query, 63)
    assert [count for _, count, _ in requests] == [132, 264, 528]
    assert rows.shape == (1, 63) and not np.isin(rows, best).any()


def test_ranked_candidates_of_few_live_rows_request_all_rows(requests):
    parts = scanned((1000,), dead=np.arange(60, 1000))
    rows = Searcher(parts).ranked_candidates(gallery()[:3].astype(np.float32), 60)
    assert [count for _, count, _ in requests] == [1000]
    assert np.sort(rows[rows >= 0].reshape(3, 60)).tolist() == [list(range(60))] * 3


@pytest.mark.parametrize(
    ("limit", "queries", "threads", "in_pool"),
    [(1799, 1, 3, True), (1800, 1, 3, False), (1799, 2, 3, False), (1799, 1, 1, False)],
)
def test_one_query_scans_several_large_structures_with_threads(monkeypatch, requests, limit, queries, threads, in_pool):
    monkeypatch.setattr(search, "THREADS", threads)
    monkeypatch.setattr(search, "THREADED_ROWS", limit)
    parts = scanned((600, 500, 400, 200, 100))
    for part in parts:
        part.depth = len(part.descriptors)
    samples = sample_queries(gallery()[:1800], queries)
    assert np.array_equal(Searcher(parts).search(samples, 10)[1], brute_force(parts, samples, 10))
    assert sorted(rows for rows, _, _ in requests) == [100, 200, 400, 500, 600]
    assert {name.startswith("scan") for _, _, name in requests} == {in_pool}


def test_one_structure_is_scanned_without_the_pool(monkeypatch, requests):
    monkeypatch.setattr(search, "THREADS", 3)
    monkeypatch.setattr(search, "THREADED_ROWS", 10)
    Searcher(scanned((600,))).search(gallery()[:1].astype(np.float32), 3)
    assert [name.startswith("scan") for _, _, name in requests] == [False]


@pytest.mark.parametrize(("limit", "merged"), [(2000, [2000]), (1999, [1000, 1000])])
@pytest.mark.parametrize("without", [0, 1, None])
def test_scans_of_one_quantiser_are_merged_up_to_a_number_of_rows(monkeypatch, requests, limit, merged, without):
    """Also if only one of them has removed rows."""
    monkeypatch.setattr(search, "SCAN_ROWS", limit)
    vectors = gallery()
    parts = cut(vectors, 2, 0.3)
    if without is not None:
        parts[without].dead = None
    parts[0].scan = [faiss.clone_index(learned(0, 1000))]
    parts[1].scan = build_scan(parts[1].descriptors, like=parts[0].scan[0])
    samples = sample_queries(vectors, 10)
    for part in parts:
        part.depth = 2000
    searcher = Searcher(parts)
    assert np.array_equal(searcher.search(samples, 10)[1], brute_force(parts, samples, 10))
    assert [rows for rows, _, _ in requests] == merged


def test_scan_of_several_files_with_removed_rows_equals_a_full_comparison(monkeypatch):
    vectors = gallery(1000)
    for module in ("scan", "search"):
        monkeypatch.setattr(f"gengeo_hf.index.{module}.SCAN_ROWS", 300)
    dead = np.random.default_rng(3).random(1000) < 0.4
    part = Part(vectors, dead, build_scan(vectors), depth=1000)
    samples = sample_queries(vectors, 12)
    assert np.array_equal(Searcher([part]).search(samples, 7)[1], brute_force([part], samples, 7))


def test_scores_of_missing_rows_are_minus_infinity(monkeypatch):
    monkeypatch.setattr(search, "BLOCK", 3)
    parts = cut(unit_vectors(20, 6), 3)
    searcher, query = Searcher(parts), unit_vectors(1, 6, seed=5)[0].astype(np.float32)
    rows = np.array([-1, -1, 0, 3, 6, 7, 12, 15, 19])
    exact = np.concatenate([part.descriptors for part in parts]).astype(np.float64) @ query.astype(np.float64)
    scores = searcher.scores(query, rows)
    assert scores.dtype == np.float32 and np.isneginf(scores[:2]).all()
    np.testing.assert_allclose(scores[2:], exact[rows[2:]], atol=1e-6)
    assert np.isneginf(searcher.scores(query, np.full(4, -1))).all()
    np.testing.assert_allclose(searcher.scores(query, np.arange(20)), exact, atol=1e-6)


@pytest.mark.parametrize(("block", "k"), [(7, 5), (16_384, 40)])
def test_search_runs_of_whole_parts_equals_a_full_comparison(monkeypatch, block, k):
    """Runs that begin inside a part and cover several blocks."""
    monkeypatch.setattr(search, "BLOCK", block)
    vectors = gallery(1000)
    parts, queries = cut(vectors, 2), sample_queries(vectors, 6)
    runs = [(3, 500, None), (503, 961, None)]
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    scores[:, [*range(3), *range(500, 503), *range(961, 1000)]] = -np.inf
    expected = np.argsort(-scores, axis=1)[:, :k]
    found = Searcher(parts).search_runs(queries, runs, k)
    assert np.array_equal(found[1], expected)
    np.testing.assert_allclose(found[0], np.take_along_axis(scores, expected, axis=1), atol=1e-6)
