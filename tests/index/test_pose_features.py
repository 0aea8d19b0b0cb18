"""Stored keys of pose heads."""

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index.pose_features import StoredFeatures, features_path, open_features, write_features


def test_write_features_of_several_blocks_can_be_read_by_tile(tmp_path):
    keys = np.random.default_rng(0).standard_normal((5, 3, 2))
    path = features_path(f"{tmp_path}/town.gengeo/", "45")
    path.parent.mkdir()
    blocks = iter([(["a", "b"], keys[:2]), (["c", "d", "e"], keys[2:])])
    assert write_features(path, "checksum", blocks) == 5
    assert path == tmp_path / "town.gengeo.pose" / "45.parquet"
    stored = open_features(tmp_path / "town.gengeo")
    assert list(stored) == ["45"] and (stored["45"].head, stored["45"].shape) == ("checksum", (3, 2))
    found = stored["45"].keys(["d", "b", "unknown"])
    assert found.keys() == {"b", "d"}
    assert np.array_equal(found["d"], keys[3].astype(np.float16)) and np.array_equal(
        found["b"], keys[1].astype(np.float16)
    )


def test_write_features_without_tiles_raises_an_error_and_writes_nothing(tmp_path):
    with pytest.raises(GenGeoError, match="there are no tiles"):
        write_features(tmp_path / "45.parquet", "checksum", iter([]))
    assert not (tmp_path / "45.parquet").exists()


def test_stored_features_of_another_file_raise_an_error(tmp_path, index):
    picture_table = next(index.path.glob("segment-*/thumbnails.parquet"))
    for path in (tmp_path / "missing.parquet", picture_table):
        with pytest.raises(GenGeoError, match="does not hold pose features"):
            StoredFeatures(path)
