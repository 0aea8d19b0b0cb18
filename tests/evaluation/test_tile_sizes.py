"""Tiles of several ground sizes: fused scores are the mean of the single ones."""

import dataclasses

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation import tile_sizes
from gengeo_hf.evaluation.ground_truth import GroundTruth
from gengeo_hf.evaluation.intervals import Interval
from gengeo_hf.evaluation.protocols import find_protocol
from gengeo_hf.evaluation.run import EncodedData
from gengeo_hf.evaluation.tile_sizes import SizesResult, evaluate_tile_sizes, fuse


def encoded(size, count=40, seed=0):
    """Encoded data in which tiles of this size match half of the photos."""
    rng = np.random.default_rng(seed)
    ground = np.random.default_rng(9).normal(size=(count, 16)).astype(np.float32)
    aerial = np.where(rng.random((count, 1)) < 0.5, ground, 0) + rng.normal(size=(count, 16)).astype(np.float32)
    ground, aerial = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in (ground, aerial))
    at = np.stack([60 + np.arange(count) * 0.01, np.full(count, 25.0)], axis=1)
    ids = [str(number) for number in range(count)]
    truth = GroundTruth(f"world/x/test[tile_m={size:g}]", ids, ids, np.arange(count), None, at, at, [None] * count)
    about = {"settings": {"loader": {"tile_m": size}}, "model": {"name": "m", "fingerprint": "f", "trained_on": None}}
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


def test_fuse_writes_sizes_and_scales_descriptors_to_unit_length():
    fused = fuse([encoded(45.0, seed=1), encoded(65.0, seed=2)])
    np.testing.assert_allclose(np.linalg.norm(fused.aerial, axis=1), 1, rtol=1e-5)
    assert fused.ground.shape == (40, 32) and fused.settings["fused_tile_sizes_m"] == [45.0, 65.0]
    first = fuse([encoded(45.0, seed=1)])
    np.testing.assert_allclose(first.ground, encoded(45.0, seed=1).ground, rtol=1e-6)


def test_evaluate_tile_sizes_compares_the_fusion_with_the_best_size(monkeypatch):
    given = []

    def encode(model, data, rules, **options):
        given.append((model, data.options, rules.name, options))
        size = data.options["tile_m"]
        return encoded(size, seed={45.0: 1, 65.0: 2, 100.0: 5}[size])

    monkeypatch.setattr(tile_sizes, "encode_data", encode)
    found = evaluate_tile_sizes("m", "world-offcenter num_pairs=40", [100.0, 45.0, 65.0, 45.0], seed=7)
    assert [options["tile_m"] for _, options, *_ in given] == [45.0, 65.0, 100.0]
    assert given[0] == ("m", {"num_pairs": 40, "tile_m": 45.0}, "world-offcenter", {"seed": 7})
    recalls = {size: result.metrics["recall@1"] for size, result in found.single.items()}
    assert min(recalls.values()) < max(recalls.values()) and recalls[found.best_m] == max(recalls.values())
    gain = found.fused.metrics["recall@1"] - max(recalls.values())
    assert found.difference == pytest.approx(gain) and found.interval.low < gain < found.interval.high
    as_json = found.to_dict()
    assert as_json["difference"] == pytest.approx(100 * gain) and as_json["best_size_m"] == found.best_m
    assert as_json["difference_interval"] == pytest.approx([100 * value for value in found.interval])
    assert set(as_json["sizes"]) == {"45", "65", "100"} and as_json["fused"] == found.fused.percent()


def sizes_result(low, high):
    single = encoded(45.0).compute_result()
    return SizesResult({45.0: single}, single, 45.0, 0.125, Interval(low, high))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.5, "better"),
        (0.0, 0.5, "undecided"),
        (-0.5, 0.0, "undecided"),
        (-0.5, -0.001, "worse"),
        (-0.5, 0.5, "undecided"),
    ],
)
def test_tile_sizes_result_gives_a_verdict_where_the_interval_excludes_zero(low, high, verdict):
    lines = str(sizes_result(low, high)).splitlines()
    assert lines[0].startswith("tiles of 45 m: m on world/x/test")
    assert f"fused - best single size (45 m): +12.50 points of recall@1 ({100 * low:+.2f} to " in lines[-1]
    assert lines[-1].split("): ")[-1].startswith(f"{verdict};")


def test_evaluate_tile_sizes_of_two_equal_sizes_raises_an_error():
    with pytest.raises(GenGeoError, match="two or more ground sizes, found 1"):
        evaluate_tile_sizes("m", "world-offcenter", [65.0, 65.0])


def test_tile_sizes_result_cannot_be_changed():
    found = sizes_result(0.0, 0.5)
    assert found.to_dict()["best_size_m"] == 45
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.best_m = 1.0
