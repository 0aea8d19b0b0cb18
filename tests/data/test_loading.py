"""Decoding of images and pairs: photos are paired with their tiles, and broken pairs are replaced."""

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import AerialImages, GroundImages, PairSource, load_pairs
from gengeo_hf.data.cache import PairsInMemory
from gengeo_hf.data.registry import DATASETS
from tests.data.helpers import toy_dataset


def colours(batch, view):
    return [int(image[0, 0, 0]) // 10 for image in batch[view]]


def test_pair_source_batch_pairs_photos_and_tiles_by_id(tiny_processor):
    source = PairSource(toy_dataset(), tiny_processor)
    batch = source.__getitems__([3, 7, 0])
    assert batch["ground"].shape == (3, 3, 28, 112)
    assert batch["aerial"].shape == (3, 3, 56, 56)
    assert batch["ground"].dtype == batch["aerial"].dtype == torch.uint8
    assert colours(batch, "ground") == colours(batch, "aerial") == [3, 7, 0]
    assert batch["query_row"].tolist() == [3, 7, 0]
    assert batch["tile_row"].tolist() == [8, 4, 11]
    one = source[7]
    torch.testing.assert_close(one["aerial"], batch["aerial"][1])
    torch.testing.assert_close(PairSource.collate([source[3], source[7], source[0]])["ground"], batch["ground"])


def test_pair_source_resizes_to_size_of_view(tiny_processor):
    batch = PairSource(toy_dataset(ground=(60, 200), aerial=(90, 90)), tiny_processor).__getitems__([2, 5])
    assert batch["ground"].shape == (2, 3, 28, 112)
    assert colours(batch, "ground") == colours(batch, "aerial") == [2, 5]


def test_pair_source_with_workers_reports_broken_rows_to_main_process(tiny_processor):
    source = PairSource(toy_dataset(broken=(4,)), tiny_processor)
    batches = [[0, 4, 8], [1, 5, 9], [2, 6, 10]]
    loader = DataLoader(source, batch_sampler=batches, collate_fn=PairSource.collate, num_workers=2)
    seen = [batch["query_row"].tolist() for batch in loader]
    assert seen == [[0, 5, 8], *batches[1:]]
    assert source.broken == [4]  # found by a worker process


def test_pair_source_broken_pair_is_replaced_and_reported_once(tiny_processor, caplog):
    source = PairSource(toy_dataset(broken=(4, 5)), tiny_processor)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            batch = source.__getitems__([4, 6, 1])
            assert batch["query_row"].tolist() == [7, 6, 1]
            assert colours(batch, "ground") == colours(batch, "aerial") == [7, 6, 1]
    assert len(caplog.records) == 2
    assert source.broken == [4, 5]


def test_pair_source_without_readable_pair_raises_error(tiny_processor):
    with pytest.raises(GenGeoError, match="no other pair was found"):
        PairSource(toy_dataset(4, broken=range(4)), tiny_processor).__getitems__([0, 1])


def test_pair_source_marks_photos_that_are_not_panoramas(tiny_processor):
    assert "panorama" not in PairSource(toy_dataset(), tiny_processor).__getitems__([1])
    batch = PairSource(toy_dataset(fov=70.0), tiny_processor).__getitems__([1, 2])
    assert batch["panorama"].tolist() == [False, False]


def test_ground_and_aerial_images_iterate_table_and_replace_broken_images():
    data = toy_dataset(40, broken=(2,))
    tiles = AerialImages(data)
    assert len(tiles) == 40
    assert [int(np.asarray(image)[0, 0, 0]) for image in tiles] == [10 * row % 256 for row in range(39, -1, -1)]
    assert [image.size for image in tiles[3:5]] == [(56, 56)] * 2
    assert np.asarray(tiles[-1])[0, 0, 2] == 0
    with pytest.raises(GenGeoError, match="ground image of row 2"):
        list(GroundImages(data))
    photos = GroundImages(data, replace_broken=True)
    assert len(list(photos)) == 40
    assert photos.broken == {2}


def test_load_pairs_unknown_name_raises_error(tmp_path):
    with pytest.raises(GenGeoError, match="expected one of"):
        load_pairs("cvusaa", tmp_path)


def test_load_pairs_unknown_option_raises_error_but_other_type_errors_pass(tmp_path, monkeypatch):
    with pytest.raises(GenGeoError, match="world-urban: got an unexpected keyword argument 'pairs'"):
        load_pairs("world-urban", pairs=3)
    (tmp_path / "bingmap/19").mkdir(parents=True)  # a directory that passes as CVUSA
    monkeypatch.setitem(DATASETS._parts, "cvusa", lambda root, split: int(None))  # int() argument must be a string ...
    with pytest.raises(TypeError, match="argument must be"):
        load_pairs("cvusa", tmp_path)


def test_pairs_in_memory_equal_pairs_of_the_source(tiny_processor):
    source = PairSource(toy_dataset(40), tiny_processor)
    kept = PairsInMemory(source)
    rows = [3, 39, 0, 33]
    expected, found = source.__getitems__(rows), kept.__getitems__(rows)
    assert len(kept) == 40 and expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert torch.equal(kept[5]["aerial"], source[5]["aerial"])


def test_pairs_in_memory_broken_pair_raises_error(tiny_processor):
    with pytest.raises(GenGeoError, match="in_memory"):
        PairsInMemory(PairSource(toy_dataset(64, broken=(4,)), tiny_processor))
