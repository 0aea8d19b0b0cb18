"""Ids, pairs and positions of a data set, and the digests that identify them."""

import base64
import dataclasses

import datasets
import numpy as np
import pytest

from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.evaluation.ground_truth import GroundTruth, pair_hashes
from tests.data.helpers import toy_dataset


def with_semi_positives(*lists):
    data = toy_dataset(len(lists))
    rows = [row | {"semi_positives": tiles} for row, tiles in zip(data.queries, lists, strict=True)]
    return CrossViewDataset(data.name, datasets.Dataset.from_list(rows, features=data.queries.features), data.gallery)


def test_from_dataset_reads_rows_of_the_gallery_by_id():
    found = GroundTruth.from_dataset(toy_dataset(3))  # its tiles are in reverse order
    assert (found.name, found.query_ids, found.tile_ids) == ("toy/train", ["q0", "q1", "q2"], ["t2", "t1", "t0"])
    assert found.positive_rows.tolist() == [2, 1, 0] and found.semi_positive_rows is None
    np.testing.assert_allclose(found.query_positions, [[60, 24], [60.001, 24], [60.002, 24]])
    np.testing.assert_allclose(found.gallery_positions, found.query_positions[::-1])
    assert found.areas == ["here"] * 3
    semi = GroundTruth.from_dataset(with_semi_positives(["t1", "t2"], [], ["t0"])).semi_positive_rows
    assert semi.tolist() == [[1, 0], [-1, -1], [2, -1]]
    one = GroundTruth.from_dataset(with_semi_positives(["t1"], None, [])).semi_positive_rows
    assert one.tolist() == [[1], [-1], [-1]]


def test_ground_truth_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GroundTruth.from_dataset(toy_dataset(3)).name = "other"


def test_fingerprint_changes_with_ids_pairs_and_positions():
    truth = GroundTruth.from_dataset(toy_dataset(3))
    changes = {
        "query_ids": ["q0", "q1", "q3"],
        "tile_ids": ["t2", "t1", "t3"],
        "positive_rows": np.array([2, 0, 1]),
        "semi_positive_rows": np.array([[1], [-1], [-1]]),
        "query_positions": truth.query_positions + 1e-9,
        "gallery_positions": truth.gallery_positions + 1e-9,
    }
    prints = {dataclasses.replace(truth, **{name: value}).fingerprint for name, value in changes.items()}
    assert len(prints | {truth.fingerprint}) == 7 and all(len(text) == 64 for text in prints)
    assert dataclasses.replace(truth, name="other", areas=[None] * 3).fingerprint == truth.fingerprint


def test_has_all_positions_is_false_where_one_number_is_unknown():
    truth = GroundTruth.from_dataset(toy_dataset(3))
    assert truth.has_all_positions
    for name in ("query_positions", "gallery_positions"):
        partly = getattr(truth, name).copy()
        partly[1, 1] = np.nan
        assert not dataclasses.replace(truth, **{name: partly}).has_all_positions


def test_pair_hashes_store_five_bytes_of_each_pair_and_find_the_same_pairs():
    data = toy_dataset(12)
    stored = pair_hashes(data)
    assert len(base64.b64decode(stored)) == 5 * 12
    truth = GroundTruth.from_dataset(data)
    assert truth.count_known_pairs(stored) == 12
    assert truth.count_known_pairs(None) == truth.count_known_pairs("") == 0
    part = pair_hashes(toy_dataset(5))
    assert truth.count_known_pairs(part) == 5
    moved = truth.query_positions + np.where(np.arange(12) < 3, 1e-5, 1e-8)[:, None]  # stored to six decimals
    assert dataclasses.replace(truth, query_positions=moved).count_known_pairs(stored) == 9
    other = dataclasses.replace(truth, positive_rows=np.roll(truth.positive_rows, 1))
    assert other.count_known_pairs(stored) == 0
