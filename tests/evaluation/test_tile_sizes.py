"""Tiles of several ground sizes: fused scores are the mean of the single ones."""

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.ground_truth import GroundTruth
from gengeo_hf.evaluation.protocols import find_protocol
from gengeo_hf.evaluation.run import EncodedData
from gengeo_hf.evaluation.tile_sizes import evaluate_tile_sizes, fuse


def encoded(size, count=40, seed=0):
    """Encoded data in which tiles of this size match half of the photos."""
    rng = np.random.default_rng(seed)
    ground = np.random.default_rng(9).normal(size=(count, 16)).astype(np.float32)
    aerial = np.where(rng.random((count, 1)) < 0.5, ground, 0) + rng.normal(size=(count, 16)).astype(np.float32)
    ground, aerial = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in (ground, aerial))
    at = np.stack([60 + np.arange(count) * 0.01, np.full(count, 25.0)], axis=1)
    ids = [str(number) for number in range(count)]
    truth = GroundTruth(f"world/x/test[tile_m={size:g}]", ids, ids, np.arange(count), None, at, at, [None] * count)
    about = {"settings": {"loader": {"tile_m": size}}, "model": {"name": "m", "fingerprint": "f"}}
    return EncodedData(ground, aerial.astype(np.float32), truth, find_protocol("world-offcenter"), **about)


def test_fuse_gives_the_mean_similarities_and_their_ranks():
    sizes = [encoded(45.0, seed=1), encoded(65.0, seed=2), encoded(100.0, seed=3)]
    fused = fuse(sizes)
    mean = np.mean([one.ground @ one.aerial.T for one in sizes], axis=0)
    np.testing.assert_allclose(fused.ground @ fused.aerial.T, mean, atol=1e-6)
    ranks = (mean >= np.diagonal(mean)[:, None]).sum(axis=1) - 1
    result = fused.compute_result()
    assert np.array_equal(result.queries["rank"].to_numpy(), ranks)
    assert fused.truth.name == "world/x/test[tile_m=45+65+100]"


def test_evaluate_tile_sizes_of_other_data_or_one_size_raises_an_error():
    with pytest.raises(GenGeoError, match="needs two or more ground sizes"):
        evaluate_tile_sizes("m", "world-offcenter", [65.0])
    with pytest.raises(GenGeoError, match="has tiles of one ground size"):
        evaluate_tile_sizes("m", "table pairs.csv", [45.0, 65.0])
    with pytest.raises(GenGeoError, match="do not have the same photos and tiles"):
        fuse([encoded(45.0), encoded(65.0, count=39)])
