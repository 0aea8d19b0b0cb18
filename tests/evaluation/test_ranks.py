"""Ranks against a sort; ties, priors and collapsed models."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.evaluation import Prior, blocks, evaluate_descriptors, rank_of_positives, scan
from gengeo_hf.evaluation.ranks import TIES


def unit(generator, count, dim=32):
    vectors = generator.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow_ranks(queries, gallery, positive_rows, banned=None, ties="pessimistic"):
    """One sort per query in exact arithmetic (small integers) or float64."""
    ranks = []
    for number, (query, positive) in enumerate(zip(queries, positive_rows, strict=True)):
        scores = gallery.astype(np.float64) @ query.astype(np.float64)
        keep = np.ones(len(gallery), bool)
        if banned is not None:
            keep[[row for row in banned[number] if row >= 0]] = False
        rivals = np.delete(scores, np.r_[positive, np.nonzero(~keep)[0]])
        rivals = np.sort(rivals)
        last, first = (len(rivals) - np.searchsorted(rivals, scores[positive], side=side) for side in ("left", "right"))
        ranks.append({"pessimistic": last, "sample4geo": first, "mid": (first + last) / 2}[ties])
    return np.array(ranks)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    num_queries=st.integers(1, 9),
    num_tiles=st.integers(1, 13),
    ties=st.sampled_from(["pessimistic", "sample4geo", "mid"]),
    block=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_ranks_with_many_ties_equal_a_sort(data, num_queries, num_tiles, ties, block):
    integers = st.integers(-2, 2)
    queries = np.array(
        data.draw(st.lists(st.lists(integers, min_size=3, max_size=3), min_size=num_queries, max_size=num_queries)),
        np.float32,
    )
    gallery = np.array(
        data.draw(st.lists(st.lists(integers, min_size=3, max_size=3), min_size=num_tiles, max_size=num_tiles)),
        np.float32,
    )
    rows = np.array(data.draw(st.lists(st.integers(0, num_tiles - 1), min_size=num_queries, max_size=num_queries)))
    semi = np.array(
        data.draw(
            st.lists(
                st.lists(st.integers(-1, num_tiles - 1), min_size=2, max_size=2),
                min_size=num_queries,
                max_size=num_queries,
            )
        )
    )
    semi[:, 0][semi[:, 0] == rows] = -1
    semi[:, 1][(semi[:, 1] == rows) | (semi[:, 1] == semi[:, 0])] = -1
    ranks = rank_of_positives(queries, gallery, rows, ties=ties, block=block)
    np.testing.assert_array_equal(ranks, slow_ranks(queries, gallery, rows, ties=ties))
    masked = rank_of_positives(queries, gallery, rows, semi_positive_rows=semi, ties=ties, block=block)
    np.testing.assert_array_equal(masked, slow_ranks(queries, gallery, rows, semi, ties=ties))
    result = scan(queries, gallery, rows, semi_positive_rows=semi, block=block)
    np.testing.assert_array_equal(result.positive_ranks(ties), slow_ranks(queries, gallery, rows, ties=ties))


@pytest.mark.parametrize("ties", ["pessimistic", "sample4geo", "mid"])
@pytest.mark.parametrize("kind", ["numpy", "float16", "torch", "read-only"])
def test_ranks_of_every_input_type_and_block_equal_a_sort(ties, kind):
    generator = np.random.default_rng(1)
    queries, gallery = unit(generator, 70), unit(generator, 210)
    if kind == "float16":
        queries, gallery = queries.astype(np.float16), gallery.astype(np.float16)
    rows = generator.integers(0, 210, 70)
    expected = slow_ranks(queries, gallery, rows, ties=ties)
    if kind == "torch":
        queries, gallery = torch.from_numpy(queries), torch.from_numpy(gallery)
    if kind == "read-only":
        queries.setflags(write=False)
        gallery.setflags(write=False)
    for block in ((2048, 8192), (7, 13), (70, 1)):
        np.testing.assert_array_equal(rank_of_positives(queries, gallery, rows, ties=ties, block=block), expected)


def test_ranks_of_duplicates_are_ties_in_every_block_although_float32_sums_differ():
    generator = np.random.default_rng(2)
    tile = unit(generator, 1, 1000)
    gallery = np.concatenate([unit(generator, 500, 1000) * 0.5, np.repeat(tile, 37, axis=0)])
    query = tile * 0.3 + unit(generator, 1, 1000) * 0.1
    for block in ((1, 3), (1, 100), (8, 1000)):
        assert rank_of_positives(query, gallery, np.array([510]), block=block)[0] == 36
        assert rank_of_positives(query, gallery, np.array([510]), ties="sample4geo", block=block)[0] == 0
        assert rank_of_positives(query, gallery, np.array([510]), ties="mid", block=block)[0] == 18


@pytest.mark.parametrize("noise", [0.3, 30.0])  # right tiles among the best few, and anywhere
def test_ranks_in_wide_blocks_equal_a_sort_for_few_and_all_compared_scores(noise, monkeypatch):
    generator = np.random.default_rng(8)
    gallery = unit(generator, 5000)
    gallery[4000:4100] = gallery[:100]  # duplicates: ties across blocks
    rows = generator.integers(0, 5000, 50)
    queries = gallery[rows] + noise * unit(generator, 50)
    ways = []
    for way in ("_count_few", "_count_all"):
        plain = getattr(blocks.QueryBlock, way)
        monkeypatch.setattr(blocks.QueryBlock, way, lambda *g, p=plain, w=way: (ways.append(w), p(*g))[1])
    for block in ((50, 5000), (13, 4096), (50, 1111)):
        for ties in ("pessimistic", "sample4geo"):
            found = rank_of_positives(queries, gallery, rows, ties=ties, block=block)
            np.testing.assert_array_equal(found, slow_ranks(queries, gallery, rows, ties=ties))
    assert set(ways) == {"_count_few" if noise < 1 else "_count_all"}


@pytest.mark.parametrize("jitter", [0.0, 1e-8])
def test_recall_of_a_collapsed_model_is_at_most_that_of_random_guessing(jitter):
    generator = np.random.default_rng(3)
    queries, gallery = (np.ones((400, 16), np.float32) / 4 + jitter * unit(generator, 400, 16) for _ in range(2))
    rows = np.arange(400)
    assert evaluate_descriptors(queries, gallery, rows)["recall@1"] <= 0.0051
    assert evaluate_descriptors(queries, gallery, rows, ties="mid")["recall@1%"] <= 0.03
    if not jitter:
        assert evaluate_descriptors(queries, gallery, rows)["recall@10"] == 0
        assert evaluate_descriptors(queries, gallery, rows, ties="sample4geo")["recall@1"] == 1


def test_recall_of_a_perfect_model_is_one_and_of_a_random_model_that_of_guessing():
    generator = np.random.default_rng(4)
    gallery = unit(generator, 1000)
    order = generator.permutation(1000)
    assert evaluate_descriptors(gallery[order], gallery, order)["recall@1"] == 1
    found = evaluate_descriptors(unit(generator, 1000), gallery, order)["recall@10"]
    assert abs(found - 0.01) < 4 * np.sqrt(0.01 * 0.99 / 1000)


def test_best_tiles_in_any_block_equal_a_sort():
    generator = np.random.default_rng(5)
    queries, gallery = unit(generator, 30), unit(generator, 120)
    expected = np.argsort(-(queries @ gallery.T), axis=1)[:, :7]
    for block in ((30, 120), (4, 5), (30, 3)):
        result = scan(queries, gallery, np.zeros(30, int), top=7, block=block)
        np.testing.assert_array_equal(result.top_rows, expected)
    assert scan(queries, gallery[:3], np.zeros(30, int), top=7).top_rows.shape == (30, 3)


def test_scan_with_a_prior_compares_only_near_tiles():
    generator = np.random.default_rng(6)
    queries, gallery = unit(generator, 40), unit(generator, 300)
    tiles = np.stack([60 + generator.uniform(0, 0.01, 300), 179.995 + generator.uniform(0, 0.01, 300)], axis=1)
    tiles[:, 1] = np.where(tiles[:, 1] > 180, tiles[:, 1] - 360, tiles[:, 1])  # over the date line
    rows = generator.integers(0, 300, 40)
    places = tiles[rows] + generator.uniform(-1, 1, (40, 2)) * 0.002
    distance = great_circle_m(places[:, None, 0], places[:, None, 1], tiles[None, :, 0], tiles[None, :, 1])
    near = distance <= 200.0
    scores = np.where(near, queries @ gallery.T, -np.inf)
    own = scores[np.arange(40), rows]
    expected = np.where(near[np.arange(40), rows], (scores > own[:, None]).sum(axis=1), 300)
    assert (expected == 300).any() and (expected < 300).any()
    result = scan(queries, gallery, rows, prior=Prior(places, tiles, 200.0), top=3, block=(7, 50))
    np.testing.assert_array_equal(result.positive_ranks(), expected)
    for number, found in enumerate(result.top_rows):
        wanted = [row for row in np.argsort(-scores[number])[:3] if near[number, row]]
        assert found.tolist() == wanted + [-1] * (3 - len(wanted))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, g, r: (q[:, :5], g, r), "the same D"),
        (lambda q, g, r: (q * np.nan, g, r), "NaN"),
        (lambda q, g, r: (q, g, r + 9), "0..9"),
        (lambda q, g, r: (q, g, r[:2]), "2 positive rows for 4 queries"),
        (lambda q, g, r: (q[:0], g, r[:0]), "at least one"),
    ],
)
def test_scan_of_invalid_input_raises_one_line_with_what_was_found(change, message):
    generator = np.random.default_rng(7)
    with pytest.raises(GenGeoError, match=message) as error:
        rank_of_positives(*change(unit(generator, 4), unit(generator, 10), np.arange(4)))
    assert "\n" not in str(error.value)
    with pytest.raises(GenGeoError, match="ties must be"):
        rank_of_positives(unit(generator, 4), unit(generator, 10), np.arange(4), ties="kind")
    with pytest.raises(GenGeoError, match="twice"):
        rank_of_positives(unit(generator, 2), unit(generator, 9), np.arange(2), semi_positive_rows=np.array([[3], [1]]))


def test_scan_by_default_keeps_the_best_tile():
    found = scan(np.array([[0.1, 0.9]]), np.eye(2), np.array([0]))
    assert found.top_rows.tolist() == [[1]] and found.top_scores.tolist() == [[pytest.approx(0.9)]]


def test_scan_cannot_be_changed():
    found = scan(np.eye(2), np.eye(2), np.array([0, 1]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.gallery_size = 3


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_ranks_of_duplicates_are_ties_for_descriptors_of_any_length(scale):
    generator = np.random.default_rng(2)
    tile = unit(generator, 1, 1000)
    small = unit(generator, 1, 1000) * 1e-6
    gallery = np.concatenate([unit(generator, 60, 1000) * 0.5, small, np.repeat(tile, 37, axis=0)]) * scale
    query = (tile * 0.3 + unit(generator, 1, 1000) * 0.1) * scale
    for block in ((1, 3), (1, 40), (8, 1000)):
        assert rank_of_positives(query, gallery, np.array([70]), block=block)[0] == 36
        assert rank_of_positives(query, gallery, np.array([70]), ties="sample4geo", block=block)[0] == 0


def test_ranks_of_a_zero_vector_are_ties_with_all_tiles():
    gallery = unit(np.random.default_rng(9), 50)
    query = np.zeros((1, 32), np.float32)
    found = {ties: rank_of_positives(query, gallery, np.array([7]), ties=ties)[0] for ties in TIES}
    assert found == {"pessimistic": 49, "sample4geo": 0, "mid": 24.5}


def test_scan_finds_damaged_descriptors_behind_the_first_8192_rows():
    gallery = np.ones((8194, 1), np.float32)
    assert rank_of_positives(np.ones((1, 1)), gallery * np.arange(8194)[:, None], np.array([8190]))[0] == 3
    gallery[[8192, 8193], 0] = np.inf, np.nan
    with pytest.raises(GenGeoError, match=r"2 of 8194 gallery descriptors .* first in row 8192"):
        rank_of_positives(np.ones((1, 1)), gallery, np.array([0]))


@pytest.mark.parametrize(
    ("queries", "gallery"), [((3,), (5, 2)), ((3, 2), (5,)), ((3, 2, 1), (5, 2)), ((3, 2), (5, 2, 1)), ((3, 2), (5, 1))]
)
def test_scan_of_other_shapes_than_rows_of_one_length_raises_an_error(queries, gallery):
    with pytest.raises(GenGeoError, match=r"both must be \(count, D\)"):
        scan(np.ones(queries), np.ones(gallery), np.arange(3))


@pytest.mark.parametrize(
    ("positive", "semi", "message"),
    [
        ([0, -1], None, "found rows -1..0, but the gallery has rows 0..4"),
        ([0, 5], None, "found rows 0..5, but the gallery has rows 0..4"),
        ([0, 1], [[3], [-2]], r"found rows -2..3"),
        ([0, 1], [[3], [5]], r"found rows 0..5"),
        ([0, 1], [[3, 4], [2, 1]], "query 1 has one tile twice"),
        ([0, 1], [[0, 4], [2, -1]], "query 0 has one tile twice"),
        ([0, 1], [[4, 4], [2, 3]], "query 0 has one tile twice"),
        ([0, 1], [3, 4], r"must be \(queries, S\), -1 for none; found the shape \(2,\)"),
        ([0, 1], [[3]], r"found the shape \(1, 1\)"),
        ([0, 1], [[[3]], [[4]]], r"found the shape \(2, 1, 1\)"),
    ],
)
def test_scan_of_invalid_rows_raises_an_error_that_names_them(positive, semi, message):
    with pytest.raises(GenGeoError, match=message):
        scan(np.ones((2, 3)), np.ones((5, 3)), np.array(positive), semi_positive_rows=semi)


def test_scan_of_the_first_and_last_row_and_no_semi_positive_is_accepted():
    found = scan(np.eye(5)[:2], np.eye(5), np.array([0, 4]), semi_positive_rows=[[-1, -1], [0, 1]])
    assert found.positive_ranks().tolist() == [0, 4] and found.covering_ranks().tolist() == [0, 0]
    assert found.relevant_ranks().tolist() == [[0, 5, 5], [0, 3, 4]]
    assert found.relevant_ranks("sample4geo").tolist() == [[0, 5, 5], [0, 1, 2]]
    with pytest.raises(GenGeoError, match="at least one"):
        scan(np.ones((2, 3)), np.ones((0, 3)), np.array([0, 1]))
