import faiss
import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index.scan import build_scan, measure_depth, read_scan, sample_queries
from gengeo_hf.index.search import Part, Searcher, needs_scan


def gallery(count=4000, dim=64, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def brute_force(parts, queries, k):
    """Rows of live tiles by a full comparison, an independent slow formula."""
    vectors = np.concatenate([part.descriptors for part in parts]).astype(np.float32)
    dead = np.concatenate([np.zeros(len(p.descriptors), bool) if p.dead is None else p.dead for p in parts])
    scores = np.where(dead, -np.inf, queries @ vectors.T)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def cut(vectors, count, dead_share=0.0, scanned=()):
    rng = np.random.default_rng(7)
    parts = []
    for number, some in enumerate(np.array_split(vectors, count)):
        dead = rng.random(len(some)) < dead_share if dead_share else None
        scan = build_scan(some) if number in scanned else ()
        parts.append(Part(some, dead, scan, depth=len(some)))
    return parts


def test_needs_scan_only_for_large_segments_of_large_indexes():
    assert [
        needs_scan(*sizes) for sizes in ((200_000, 200_000), (200_001, 200_001), (4095, 300_000), (4096, 300_000))
    ] == [False, True, False, True]


@pytest.mark.parametrize("flat_limit", [20_000, 100])
@pytest.mark.parametrize(("count", "dead"), [(1, 0.0), (1, 0.1), (20, 0.0), (20, 0.1)])
def test_exact_search_of_any_segments_equals_a_full_comparison(monkeypatch, flat_limit, count, dead):
    monkeypatch.setattr("gengeo_hf.index.search.FLAT_LIMIT", flat_limit)
    vectors = gallery()
    parts, queries = cut(vectors, count, dead), sample_queries(vectors, 20)
    scores, rows = Searcher(parts).search(queries, 10)
    assert np.array_equal(rows, brute_force(parts, queries, 10))
    full = queries @ vectors.astype(np.float32).T
    np.testing.assert_allclose(scores, np.take_along_axis(full, rows, axis=1), atol=1e-5)


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("scanned", [(0,), (0, 1, 2), (1,)])
def test_scan_with_all_rows_rescored_equals_a_full_comparison(scanned, queries):
    vectors = gallery()
    parts, samples = cut(vectors, 3, 0.1, scanned), sample_queries(vectors, queries)
    assert np.array_equal(Searcher(parts).search(samples, 10)[1], brute_force(parts, samples, 10))


@pytest.mark.parametrize("share", [0.1, 0.9, 0.999, 1.0])
def test_scan_never_returns_removed_rows(share):
    """The fast scan of FAISS cannot skip rows: removed rows must be dropped, even if they are the best."""
    vectors = gallery()
    queries = vectors[:30].astype(np.float32)  # whose best rows are removed first
    dead = np.zeros(len(vectors), bool)
    dead[: int(share * len(vectors))] = True
    part = Part(vectors, dead, build_scan(vectors), depth=10)
    for searcher, some in ((Searcher([part]), queries[:1]), (Searcher([part]), queries)):
        _, rows = searcher.search(some, 10)
        assert not dead[rows].any() and rows.shape[1] == min(10, int((~dead).sum()))


def test_measure_depth_reaches_the_wanted_recall(monkeypatch):
    monkeypatch.setattr("gengeo_hf.index.scan.SEGMENT_DEPTH", 10)
    vectors = gallery()
    made = build_scan(vectors)
    found = measure_depth(vectors, made, samples=50)
    assert found["recall_at_10"] > 0.99 and found["recall_at_1"] > 0.99 and found["samples"] == 50
    queries = sample_queries(vectors, 50)
    exact = brute_force([Part(vectors)], queries, 10)

    def recall(depth):
        rows = Searcher([Part(vectors, scan=made, depth=depth)], least_depth=10).search(queries, 10)[1]
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), exact.tolist(), strict=True)])

    assert recall(found["depth"]) == pytest.approx(found["recall_at_10"]) and recall(10) < found["recall_at_10"]


def test_measure_depth_grows_with_the_wanted_recall_and_with_fewer_queries(monkeypatch):
    monkeypatch.setattr("gengeo_hf.index.scan.SEGMENT_DEPTH", 10)
    vectors = gallery()
    made = build_scan(vectors)

    def depth(wanted, samples):
        monkeypatch.setattr("gengeo_hf.index.scan.WANTED_RECALL", wanted)
        return measure_depth(vectors, made, samples)["depth"]

    assert depth(0.5, 100) < depth(0.9, 100) < depth(0.99, 100)
    assert depth(0.9, 400) < depth(0.9, 10)


@pytest.mark.parametrize(("count", "dim"), [(1, 8), (5, 6), (300, 30)])
def test_scan_of_few_tiles_or_odd_dimensions_finds_them(count, dim):
    vectors = gallery(count, dim)
    part = Part(vectors, scan=build_scan(vectors), depth=count)
    assert Searcher([part]).search(vectors.astype(np.float32), 1)[1].ravel().tolist() == list(range(count))


def test_scan_of_equal_tiles_finds_them():
    vectors = np.repeat(gallery(1), 40, axis=0)
    found = Searcher([Part(vectors, scan=build_scan(vectors))]).search(vectors[:1].astype(np.float32), 5)[1]
    assert found[0].tolist() == [0, 1, 2, 3, 4]


def test_scan_read_from_a_file_gives_the_same_results(tmp_path):
    import faiss

    vectors = gallery(1000)
    (made,), queries = build_scan(vectors), sample_queries(vectors, 20)
    faiss.write_index(made, str(tmp_path / "scan.faiss"))
    read = read_scan(tmp_path / "scan.faiss", 64)
    for one, other in zip(made.search(queries, 50), read.search(queries, 50), strict=True):
        assert np.array_equal(one, other)


def test_scan_of_several_files_equals_that_of_one(monkeypatch):
    vectors = gallery()
    queries = sample_queries(vectors, 20)
    one = Searcher([Part(vectors, scan=build_scan(vectors), depth=4000)]).search(queries, 10)
    for module in ("scan", "search"):
        monkeypatch.setattr(f"gengeo_hf.index.{module}.SCAN_ROWS", 1500)
    made = build_scan(vectors)
    assert [index.ntotal for index in made] == [1500, 1500, 1000]
    monkeypatch.setattr("gengeo_hf.index.search.THREADED_ROWS", 10)
    several = Searcher([Part(vectors, scan=made, depth=4000)])
    assert np.array_equal(several.search(queries, 10)[1], one[1])
    assert np.array_equal(several.search(queries[:1], 10)[1], one[1][:1])


@pytest.mark.parametrize("dead", [0.0, 0.1])
def test_scans_of_one_quantiser_are_merged_and_equal_a_full_comparison(dead):
    vectors = gallery()
    parts = cut(vectors, 4, dead)
    parts[1].dead = None
    for number in (0, 2, 3):  # the part between them is searched exactly
        parts[number].scan = build_scan(parts[number].descriptors, parts[0].scan[0] if number else None)
    queries, searcher = sample_queries(vectors, 20), Searcher(parts)
    assert parts[0].scan[0].ntotal == 3000
    assert np.array_equal(searcher.search(queries, 10)[1], brute_force(parts, queries, 10))


def test_scans_of_different_quantisers_are_not_merged():
    parts = cut(gallery(), 2, scanned=(0, 1))
    Searcher(parts)
    assert [part.scan[0].ntotal for part in parts] == [2000, 2000]


def test_read_scan_of_other_vectors_or_a_damaged_file_raises_an_error(tmp_path):
    import faiss

    faiss.write_index(build_scan(gallery(1000))[0], str(tmp_path / "scan.faiss"))
    with pytest.raises(GenGeoError, match="64 dimensions, expected 32"):
        read_scan(tmp_path / "scan.faiss", 32)
    (tmp_path / "scan.faiss").write_bytes((tmp_path / "scan.faiss").read_bytes()[:500])
    with pytest.raises(GenGeoError, match="cannot be read"):
        read_scan(tmp_path / "scan.faiss", 64)


@pytest.mark.parametrize("block", [7, 1000])
def test_search_runs_over_blocks_and_segments_equals_a_full_comparison(monkeypatch, block):
    monkeypatch.setattr("gengeo_hf.index.search.BLOCK", block)
    vectors = gallery(100)
    parts, queries = cut(vectors, 2, 0.2), sample_queries(vectors, 3)
    counts = np.arange(20, 50) % 3 > 0
    found = Searcher(parts).search_runs(queries, [(0, 10, None), (20, 50, counts), (60, 61, None)], 5)[1]
    chosen = np.concatenate([np.arange(10), np.flatnonzero(counts) + 20, [60]])
    outside = np.setdiff1d(np.arange(100), chosen)
    order = brute_force(parts, queries, 100)
    live = sum(part.live for part in parts)
    expected = [[row for row in line[:live] if row not in outside][:5] for line in order]
    assert found.tolist() == expected


def test_search_returns_equal_scores_in_row_order():
    vectors = np.repeat(gallery(1), 9, axis=0)
    query = vectors[:1].astype(np.float32)
    assert Searcher([Part(vectors)]).search(query, 5)[1][0].tolist() == [0, 1, 2, 3, 4]
    assert Searcher(cut(vectors, 3)).search_runs(query, [(0, 3, None), (3, 6, None)], 4)[1][0].tolist() == [0, 1, 2, 3]


def test_sample_queries_have_the_given_cosine():
    vectors = gallery(50)
    queries = sample_queries(vectors, 50)
    np.testing.assert_allclose((queries * vectors.astype(np.float32)).sum(axis=1), 0.65, atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-3)


def test_to_float32_equals_numpy_for_every_finite_half():
    from gengeo_hf.index.search import to_float32

    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    finite = np.isfinite(halves).all(axis=1)
    found = to_float32(halves[finite])
    assert np.array_equal(found.view(np.int32), halves[finite].astype(np.float32).view(np.int32))


@pytest.mark.parametrize(("dim", "bytes_per_tile"), [(256, 33), (64, 9), (30, 5)])
def test_scan_takes_half_a_byte_for_four_dimensions_and_one_byte_more(dim, bytes_per_tile):
    """One more group holds the length; groups are stored in pairs."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((200, dim)).astype(np.float16)
    vectors /= np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True).astype(np.float16)
    (made,) = build_scan(vectors)
    codes = faiss.downcast_index(made.index)
    assert pytest.approx(bytes_per_tile, abs=0.5) == codes.M2 / 2 and codes.ntotal == 200
