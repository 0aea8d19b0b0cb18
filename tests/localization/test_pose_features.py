"""Keys of pose heads that are stored with an index."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.loading import resize_images
from gengeo_hf.index.pose_features import StoredFeatures, features_path, write_features
from gengeo_hf.localization.pose_features import store_features
from gengeo_hf.pose.tokens import normalised, patch_tokens
from tests.localization.pose_models import Tiles, small_encoder, small_head


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


def an_index(path, count):
    return SimpleNamespace(path=path, tiles=pa.table({"tile_id": [f"t{row}" for row in range(count)]}))


def slow_keys(encoder, head, image):
    with torch.inference_mode():
        pixels = normalised(encoder, resize_images(encoder.processor, [image], "aerial"))
        return head.keys(patch_tokens(encoder, pixels).reshape(1, 12, 32))[0].numpy()


def test_store_features_writes_the_keys_of_each_tile_with_data(encoder, tmp_path):
    head = small_head(encoder)
    head.save_pretrained(tmp_path / "model" / "pose" / "known")
    tiles, index, messages = Tiles(7, empty=[2, 3]), an_index(tmp_path / "idx", 6), []
    stored = store_features(encoder, tmp_path / "model", index, tiles, batch_size=2, progress=messages.append)
    assert stored == {"known": 4} and tiles.reads == [0, 1, 2, 3, 4, 5] and "4 tiles for heading known" in messages[0]
    found = StoredFeatures(features_path(index.path, "known"))
    assert found.head == head.checksum and found.shape == (12, 4)
    keys = found.keys([f"t{row}" for row in range(7)])
    assert sorted(keys) == ["t0", "t1", "t4", "t5"]
    for name, row in keys.items():
        np.testing.assert_allclose(row, slow_keys(encoder, head, tiles.images[int(name[1:])]), atol=2e-3)


def test_store_features_reads_only_tiles_without_keys_of_the_same_head(encoder, tmp_path):
    small_head(encoder).save_pretrained(tmp_path / "model" / "pose" / "known")
    store_features(encoder, tmp_path / "model", an_index(tmp_path / "idx", 2), Tiles(2))
    tiles = Tiles(5)
    assert store_features(encoder, tmp_path / "model", an_index(tmp_path / "idx", 4), tiles) == {"known": 4}
    assert tiles.reads == [2, 3]
    small_head(encoder, seed=2).save_pretrained(tmp_path / "model" / "pose" / "known")
    again = Tiles(5)
    assert store_features(encoder, tmp_path / "model", an_index(tmp_path / "idx", 4), again) == {"known": 4}
    assert again.reads == [0, 1, 2, 3]


def test_store_features_keeps_all_keys_of_a_large_index(encoder, tmp_path):
    head = small_head(encoder)
    head.save_pretrained(tmp_path / "model" / "pose" / "known")
    index, rng = an_index(tmp_path / "idx", 2060), np.random.default_rng(0)
    ids, keys = index.tiles["tile_id"].to_pylist(), rng.normal(size=(2060, 12, 4)).astype(np.float16)
    write_features(features_path(index.path, "known"), head.checksum, iter([(ids, keys)]))
    assert store_features(encoder, tmp_path / "model", index, Tiles(1)) == {"known": 2060}
    found = StoredFeatures(features_path(index.path, "known")).keys(["t0", "t1024", "t2049"])
    assert all(np.array_equal(found[name], keys[int(name[1:])]) for name in ("t0", "t1024", "t2049"))


def test_store_features_without_a_head_or_tiles_raises_an_error(encoder, tmp_path):
    with pytest.raises(GenGeoError, match="has no pose head under pose/"):
        store_features(encoder, tmp_path, an_index(tmp_path / "idx", 2), Tiles(2))
    small_head(encoder).save_pretrained(tmp_path / "model" / "pose" / "known")
    with pytest.raises(GenGeoError, match="no tiles to store"):
        store_features(encoder, tmp_path / "model", an_index(tmp_path / "idx", 2), Tiles(0))
