"""Quantiser and measured depth of compressed structures, compared with their definitions."""

import faiss
import numpy as np
import pytest

from gengeo_hf.index import scan
from gengeo_hf.index.scan import build_scan, measure_depth, sample_queries
from gengeo_hf.index.search import Part, Searcher


def gallery(count, dim=8, seed=0):
    """Unit vectors with a mean and with different variances, as descriptors have them."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim)) * np.linspace(0.4, 1.2, dim) + np.linspace(1.0, -0.5, dim)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def contents(made):
    """Matrix and bias of the query transform, and centroids (groups, 16, 4), of a structure."""
    transform = faiss.downcast_VectorTransform(made.chain.at(0))
    matrix = faiss.vector_to_array(transform.A).reshape(-1, made.d)
    centroids = faiss.vector_to_array(faiss.downcast_index(made.index).pq.centroids)
    return matrix, faiss.vector_to_array(transform.b), centroids.reshape(-1, 16, 4)


def nearest(vectors, centroids):
    """Nearest centroid of each group, and its number, by comparing all: (tiles, groups, 4), (tiles, groups)."""
    groups = vectors.reshape(len(vectors), -1, 1, 4)
    codes = ((groups - centroids) ** 2).sum(axis=3).argmin(axis=2)
    return centroids[np.arange(len(centroids)), codes], codes


@pytest.fixture(scope="module")
def built():
    vectors = gallery(400)
    return vectors.astype(np.float32), build_scan(vectors)[0]


def test_scan_rotates_to_the_principal_axes_of_the_centred_tiles(built):
    vectors, made = built
    rotation = contents(made)[0][:8]
    covariance = np.cov(vectors.T)
    rotated = rotation @ covariance @ rotation.T
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(8), atol=1e-5)
    np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-6 * np.trace(covariance))


def test_scan_levels_are_quantiles_of_the_factors(built):
    """Fifteen levels in the middle of fifteenths of the factors that make the products of centroid and tile one."""
    vectors, made = built
    matrix, _, centroids = contents(made)
    rotated = vectors @ matrix[:8].T
    factors = 1 / (nearest(rotated, centroids[:2])[0].reshape(-1, 8) * rotated).sum(axis=1)
    levels = centroids[2, :, 0]
    np.testing.assert_allclose(levels[1:], np.quantile(factors, (np.arange(15) + 0.5) / 15), atol=1e-4)
    assert not centroids[2, :, 1:].any()
    gap, extent = levels[1] - levels[0], levels[15] - levels[1]
    assert 0.05 * extent < gap < 0.2 * extent  # no tile has the first level, and it costs little precision


def test_scan_of_equal_tiles_has_an_unused_first_level():
    levels = contents(build_scan(np.repeat(gallery(1), 20, axis=0))[0])[2][2, :, 0]
    assert 0 < levels[1] - levels[0] < 1e-4 and np.ptp(levels[1:]) < 1e-6


def test_scan_stores_the_nearest_centroids_and_the_nearest_level(built):
    vectors, made = built
    matrix, _, centroids = contents(made)
    rotated = vectors @ matrix[:8].T
    chosen, _ = nearest(rotated, centroids[:2])
    factors = 1 / (chosen.reshape(-1, 8) * rotated).sum(axis=1)
    levels = centroids[2, :, 0]
    level = levels[1:][np.abs(factors[:, None] - levels[1:]).argmin(axis=1)]
    stored = faiss.downcast_index(made.index).reconstruct_n(0, 400)
    np.testing.assert_allclose(stored[:, :8], chosen.reshape(-1, 8), atol=1e-5)
    assert (np.abs(stored[:, 8] - level) < 1e-5).mean() > 0.99  # rounding decides between two levels
    assert (stored[:, 8] > levels[0]).all()


def test_scan_estimates_add_the_factor_times_the_score_of_the_tenth_rank():
    """The constant of the query: mean cosine of the tenth best tile of 32 samples, divided by the mean factor."""
    vectors = gallery(40)
    (made,) = build_scan(vectors)
    matrix, bias, centroids = contents(made)
    cosines = np.sort(sample_queries(vectors, 32) @ vectors.astype(np.float32).T, axis=1)
    assert bias[8] == pytest.approx(cosines[:, -10].mean() / centroids[2, 1:, 0].mean(), rel=1e-5)
    assert not np.delete(bias, 8).any()
    queries = sample_queries(vectors, 6)
    stored = faiss.downcast_index(made.index).reconstruct_n(0, 40)
    expected = (queries @ matrix.T + bias) @ stored.T
    estimates, rows = made.search(queries, 40)
    np.testing.assert_allclose(estimates, np.take_along_axis(expected, rows, axis=1), atol=0.02)


def test_scan_like_another_has_its_transform_and_centroids(built):
    _, made = built
    (other,) = build_scan(gallery(100, seed=3), like=made)
    assert other.ntotal == 100
    for one, same in zip(contents(made), contents(other), strict=True):
        np.testing.assert_allclose(one, same, atol=1e-6)


def test_scan_learns_from_evenly_spaced_tiles_of_a_large_gallery(monkeypatch):
    monkeypatch.setattr(scan, "TRAINED", 100)
    vectors = gallery(450)
    few = contents(build_scan(vectors[::4])[0])
    for one, other in zip(contents(build_scan(vectors)[0])[::2], few[::2], strict=True):
        np.testing.assert_allclose(one[:2], other[:2], atol=1e-5)


def test_scan_of_few_tiles_prints_nothing(capfd):
    build_scan(gallery(5))
    assert capfd.readouterr() == ("", "")


def tiles_with_variances(variances):
    """Two tiles on each axis with a variance, on both sides of the origin, so that the axes are the principal ones."""
    deviations = np.diag(np.sqrt(variances))[variances > 0]
    return np.concatenate([deviations, -deviations]).astype(np.float16)


def axes_of_groups(vectors):
    """Axes of each group of four dimensions of a structure that is built of these tiles."""
    matrix = contents(build_scan(vectors)[0])[0]
    shares = (matrix[: -(-vectors.shape[1] // 4) * 4] ** 2).reshape(-1, 4, vectors.shape[1]).sum(axis=1)
    return [np.flatnonzero(share > 0.99).tolist() for share in shares]


@pytest.mark.parametrize("unit", [1.0, 2.0**-14])
def test_scan_groups_have_similar_products_of_variances(unit):
    """Base-two logarithms 0 to 14, each to the group with the smaller sum: 14 + 8 + 6 + 0 and 12 + 10 + 4 + 2."""
    logarithms = np.array([4, 12, 10, 0, 8, 6, 2, 14])
    assert axes_of_groups(tiles_with_variances(unit * 2.0**logarithms)) == [[3, 4, 5, 7], [0, 1, 2, 6]]


def test_scan_groups_take_a_billionth_of_the_largest_variance_for_smaller_ones():
    """Logarithms to base ten above the floor: 9, 0, 0, 4, 4, 4; groups of 9 + 0 + 0 and 4 + 4 + 4."""
    variances = 16 * np.array([1.0, 0.0, 0.0, 1e-5, 1e-5, 1e-5])
    assert axes_of_groups(tiles_with_variances(variances)) == [[0, 1, 2], [3, 4, 5]]


def test_measure_depth_of_a_small_gallery_is_32():
    """All of the ten best are among the first 32 estimates of few tiles: nothing below that is measured."""
    vectors = gallery(70)
    found = measure_depth(vectors, build_scan(vectors))
    assert found == {"depth": 32, "samples": 70, "recall_at_1": 1.0, "recall_at_10": 1.0}
    many = gallery(520, 4)
    assert measure_depth(many, build_scan(many))["samples"] == 512


def test_measure_depth_states_the_recall_of_the_first_and_of_the_ten_best(monkeypatch):
    for name, value in (("SEGMENT_DEPTH", 10), ("MOST_DEPTH", 10)):
        monkeypatch.setattr(scan, name, value)
    vectors = gallery(2000, 16)
    made, queries = build_scan(vectors), sample_queries(vectors, 200)
    exact = np.argsort(-(queries @ vectors.astype(np.float32).T), axis=1)[:, :10]
    found = Searcher([Part(vectors, scan=made, depth=10)], least_depth=10).search(queries, 10)[1]
    shares = [[row in line for row in best] for best, line in zip(exact.tolist(), found.tolist(), strict=True)]
    measured = measure_depth(vectors, made, samples=200)
    assert (measured["depth"], measured["samples"]) == (10, 200)
    assert measured["recall_at_1"] == pytest.approx(np.mean([share[0] for share in shares])) != 1
    assert measured["recall_at_10"] == pytest.approx(np.mean(shares)) != 1


class RankedScan:
    """A structure of unit vectors that returns the best rows in their order, except the tenth best of some queries.

    Args:
        vectors: Tiles, float16 (tiles, dim).
        rank: Function of the number of requested rows that returns the rank of the tenth best tile.
        queries: Queries for which the tenth best tile has this rank, float32 (queries, dim).
    """

    def __init__(self, vectors, rank, queries):
        self.vectors, self.rank, self.ntotal = vectors.astype(np.float32), rank, len(vectors)
        self.changed = {query.tobytes() for query in queries}

    def search(self, queries, count):
        found = []
        for query in queries:
            order = np.argsort(-(self.vectors @ query)).tolist()
            if query.tobytes() in self.changed:
                order.insert(self.rank(count), order.pop(9))
            found.append(order[:count])
        return np.tile(np.arange(count, 0, -1, dtype=np.float32), (len(queries), 1)), np.array(found)


@pytest.fixture
def depth_with(monkeypatch):
    """Measure the depth of a gallery of 1000 tiles, which is at most 100, with a given rank for some of the queries."""
    monkeypatch.setattr(scan, "MOST_DEPTH", 100)

    def measure(queries, missed, rank):
        vectors = gallery(1000)
        some = sample_queries(vectors, queries)[:missed]
        ranked = RankedScan(vectors, rank if callable(rank) else lambda count: rank, some)
        return measure_depth(vectors, [ranked], samples=queries)["depth"]

    return measure


@pytest.mark.parametrize(("rank", "depth"), [(9, 32), (31, 32), (32, 33), (49, 50), (98, 99), (99, 100), (999, 100)])
def test_measure_depth_holds_the_worst_rank_that_the_recall_needs(depth_with, rank, depth):
    assert depth_with(20, 20, rank) == depth


@pytest.mark.parametrize(("queries", "missed", "is_enough"), [(1000, 50, True), (100, 5, False), (1000, 58, False)])
def test_measure_depth_needs_the_lower_bound_of_the_interval(depth_with, queries, missed, is_enough):
    """5 % of queries with recall 0.9: mean 0.995, deviation 0.0218; the bound is 0.9936 of 1000 and 0.9907 of 100."""
    assert depth_with(queries, missed, 999) == (32 if is_enough else 100)


def test_measure_depth_with_a_bound_that_equals_the_wanted_recall_is_enough(depth_with, monkeypatch):
    monkeypatch.setattr(scan, "WANTED_RECALL", 1.0)
    assert depth_with(20, 0, 9) == 32


@pytest.mark.parametrize(("rank", "depth"), [(41, 44), (43, 44), (44, 47), (999, 100)])
def test_measure_depth_grows_by_a_twentieth_until_searches_reach_the_recall(depth_with, rank, depth):
    """The measurement has rank 40, searches for fewer rows have another rank. The depths are 41, 44, 47 and so on."""
    assert depth_with(20, 20, lambda count: 40 if count == 100 else rank) == depth


def test_sample_queries_have_the_covariance_of_the_gallery():
    """Tiles that differ in two of 16 dimensions: noise has no other directions."""
    vectors = np.zeros((60, 16))
    vectors[:, 3], vectors[:, 5:7] = 1.0, 0.5 * np.random.default_rng(1).standard_normal((60, 2))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = sample_queries(vectors.astype(np.float16), 60)
    assert np.abs(np.delete(queries, [3, 5, 6], axis=1)).max() < 0.01
    np.testing.assert_allclose((queries * vectors).sum(axis=1), 0.65, atol=2e-3)


def test_sample_queries_are_repeatable_and_of_different_tiles():
    vectors = gallery(90)
    queries = sample_queries(vectors, 40)
    assert np.array_equal(queries, sample_queries(vectors, 40, seed=0)) and queries.shape == (40, 8)
    assert not np.array_equal(queries, sample_queries(vectors, 40, seed=1))
    assert sample_queries(vectors, 91).shape == (90, 8)
    close = sample_queries(vectors, 90, cosine=0.999)
    assert (close @ vectors.astype(np.float32).T).argmax(axis=1).tolist() == list(range(90))
