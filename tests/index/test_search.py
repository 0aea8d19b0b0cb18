import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index.search import Searcher, choose_kind, measure_and_write, sample_queries


def gallery(count=4000, dim=64, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_the_kind_follows_from_the_number_of_tiles():
    assert [choose_kind(count)[0] for count in (5, 20_000, 20_001, 200_000, 200_001)] == [
        "flat", "flat", "fp16", "fp16", "rabitq",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["flat", "fp16"])
def test_exact_kinds_equal_a_full_comparison(kind):
    vectors = gallery()
    queries = sample_queries(vectors, 20)
    scores, rows = Searcher(kind, vectors).search(queries, 10)
    full = queries @ vectors.astype(np.float32).T
    assert np.array_equal(rows, np.argsort(-full, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(scores, np.take_along_axis(full, rows, axis=1), atol=1e-5)


def test_the_scan_gives_exact_scores_and_says_what_it_loses(tmp_path):
    vectors = gallery()
    loss = measure_and_write(vectors, tmp_path / "search.faiss", samples=50)
    assert loss["recall_at_1"] > 0.95 and loss["recall_at_10"] > 0.9
    queries = sample_queries(vectors, 20, seed=3)
    scores, rows = Searcher("rabitq", vectors, tmp_path / "search.faiss").search(queries, 10)
    for query, line, found in zip(queries, scores, rows, strict=True):
        np.testing.assert_allclose(line, vectors[found].astype(np.float32) @ query, atol=1e-5)
        assert np.all(np.diff(line) <= 0)
    rebuilt = Searcher("rabitq", vectors, None).search(queries, 10)
    assert np.mean(rebuilt[1][:, 0] == rows[:, 0]) > 0.9


def test_a_structure_of_other_vectors_or_a_broken_one_is_refused(tmp_path):
    measure_and_write(gallery(1000), tmp_path / "search.faiss", samples=5)
    with pytest.raises(GenGeoError, match="1000 vectors"):
        Searcher("rabitq", gallery(999), tmp_path / "search.faiss")
    (tmp_path / "search.faiss").write_bytes((tmp_path / "search.faiss").read_bytes()[:500])
    with pytest.raises(GenGeoError, match="cannot be read"):
        Searcher("rabitq", gallery(1000), tmp_path / "search.faiss")


def test_rows_are_scored_exactly_over_blocks(monkeypatch):
    monkeypatch.setattr("gengeo_hf.index.search.BLOCK", 7)
    vectors = gallery(100)
    queries, rows = sample_queries(vectors, 3), np.arange(0, 100, 2)
    _, found = Searcher("flat", vectors).search_rows(queries, rows, 5)
    full = queries @ vectors[rows].astype(np.float32).T
    assert np.array_equal(found, rows[np.argsort(-full, axis=1, kind="stable")[:, :5]])


def test_equal_scores_come_in_row_order():
    vectors = np.repeat(gallery(1), 9, axis=0)
    _, rows = Searcher("flat", vectors).search(vectors[:1].astype(np.float32), 5)
    assert rows[0].tolist() == [0, 1, 2, 3, 4]


def test_sample_queries_stand_at_the_stated_cosine():
    vectors = gallery(50)
    queries = sample_queries(vectors, 50)
    np.testing.assert_allclose((queries * vectors.astype(np.float32)).sum(axis=1), 0.65, atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-3)
