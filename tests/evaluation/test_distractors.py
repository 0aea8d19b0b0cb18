"""Recall@1 in galleries that grow by distractors, compared with galleries that hold them."""

import itertools
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from gengeo_hf.cli import gengeo
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import offset
from gengeo_hf.evaluation.distractors import APART_M, distractor_curve
from gengeo_hf.evaluation.ground_truth import GroundTruth
from gengeo_hf.evaluation.protocols import find_protocol
from gengeo_hf.evaluation.run import EncodedData
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.edit import write_index
from gengeo_hf.index.manifest import Model
from gengeo_hf.index.segment import NewRows

DIM, QUERIES, MORE = 16, 60, 1000
LAT, LON = 60.0, 25.0


def units(rng, count):
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def encoded_pairs(rng, fingerprint="0" * 64):
    """Pairs whose descriptors are close, with positions 1 km apart."""
    tiles = units(rng, QUERIES)
    photos = 0.75 * tiles + 0.66 * units(rng, QUERIES)
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    positions = np.stack(offset(LAT, LON, np.arange(QUERIES) * 1000.0, 0.0), axis=1)
    names = [f"q{n}" for n in range(QUERIES)], [f"t{n}" for n in range(QUERIES)]
    truth = GroundTruth("random", *names, np.arange(QUERIES), None, positions, positions, [None] * QUERIES)
    about = {"name": "stub", "fingerprint": fingerprint, "trained_on": None}
    return EncodedData(photos, tiles, truth, find_protocol("table"), about, {})


def distractors(path, vectors, ids=None, east=0.0, north=50_000.0):
    """Build an index of two segments, with tiles in a row 50 km away."""
    count = len(vectors)
    lat, lon = offset(LAT, LON, np.arange(count) * 500.0 + east, north)
    table = tile_table(ids or [f"d{n}" for n in range(count)], lat, lon, [None] * count)
    write_index(path, NewRows(table, [vectors.astype(np.float16)]), DIM, Model("0" * 64))
    return GeoIndex.load(path)


def test_distractor_curve_equals_recall_in_galleries_that_hold_the_distractors(tmp_path):
    rng = np.random.default_rng(0)
    encoded, more = encoded_pairs(rng), units(rng, MORE)
    index = distractors(tmp_path / "far.gengeo", more)
    index.remove([f"d{n}" for n in range(100)])
    curve = distractor_curve(encoded, encoded.compute_result(), index, seed=3)
    again = distractor_curve(encoded, encoded.compute_result(), index, seed=3)
    assert curve == again and curve.distractors == MORE - 100 and curve.left_out == 0
    sizes = [size.gallery for size in curve.sizes]
    assert sizes == [60, 120, 300, 600, 960]
    recalls = [size.recall for size in curve.sizes]
    assert all(small >= large for small, large in itertools.pairwise(recalls))  # nested
    # Slow formula: all distractors in one matrix, in float64.
    vectors = index.descriptors.astype(np.float64)
    order = np.argsort(np.random.default_rng(3).permutation(np.arange(len(vectors), dtype=np.int32)))
    own = encoded.ground.astype(np.float64) @ encoded.aerial.astype(np.float64).T
    for size in curve.sizes:
        added = encoded.ground.astype(np.float64) @ vectors[order[: size.gallery - QUERIES]].T
        scores = np.concatenate([own, added], axis=1)
        true = np.diag(own)
        assert size.recall == np.mean((scores >= true[:, None]).sum(axis=1) == 1)
        assert size.low <= size.recall <= size.high
    assert 0.3 < recalls[-1] < recalls[0] < 1
    assert "960" in str(curve) and curve.to_dict()["sizes"][-1]["R@1"] == round(100 * recalls[-1], 4)


def test_distractor_curve_with_equal_tiles_follows_the_tie_rule(tmp_path):
    rng = np.random.default_rng(1)
    encoded = encoded_pairs(rng)
    exact = encoded.aerial.astype(np.float16)
    same = EncodedData(encoded.ground, exact.astype(np.float32), encoded.truth, encoded.rules, encoded.model, {})
    index = distractors(tmp_path / "same.gengeo", exact)  # the same descriptors at other positions
    pessimistic = distractor_curve(same, same.compute_result(), index)
    lenient = distractor_curve(same, same.compute_result("sample4geo"), index, ties="sample4geo")
    assert pessimistic.sizes[-1].recall == 0
    assert lenient.sizes[-1].recall == lenient.sizes[0].recall > 0
    with pytest.raises(GenGeoError, match="pessimistic or sample4geo"):
        distractor_curve(same, same.compute_result("mid"), index, ties="mid")


def test_distractor_curve_leaves_out_tiles_near_a_query_or_in_the_gallery(tmp_path):
    rng = np.random.default_rng(2)
    encoded = encoded_pairs(rng)
    near = distractors(tmp_path / "near.gengeo", units(rng, 20), east=APART_M / 4, north=0.0)  # every second tile
    curve = distractor_curve(encoded, encoded.compute_result(), near)
    assert (curve.distractors, curve.left_out) == (10, 10)
    away = distractors(tmp_path / "away.gengeo", units(rng, 10), ids=[f"t{n}" for n in range(10)])
    assert distractor_curve(encoded, encoded.compute_result(), away).left_out == 0  # only the names are the same
    all_near = distractors(tmp_path / "all.gengeo", units(rng, 1), east=0.0, north=10.0)
    with pytest.raises(GenGeoError, match=r"no tile of .* is a distractor"):
        distractor_curve(encoded, encoded.compute_result(), all_near)
    with pytest.raises(GenGeoError, match="made by another model"):
        distractor_curve(encoded_pairs(rng, "1" * 64), encoded.compute_result(), away)


@pytest.mark.slow
def test_command_with_distractors_prints_writes_and_draws_the_curve(tiny_checkpoint, tmp_path):
    from tests.torture.inputs import write_map_tiles

    write_map_tiles(tmp_path / "far", 5, 6)
    pairs = tmp_path / "pairs.csv"
    write_pairs(pairs, 8)
    arguments = ["evaluate", "--model", tiny_checkpoint, "--data", f"table:all {pairs}", "--device", "cpu"]
    arguments += ["--distractors", tmp_path / "far", "--out", tmp_path / "x.json"]
    done = CliRunner().invoke(gengeo, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert "distractors: 30 tiles" in done.output and "38" in done.output
    sizes = json.loads((tmp_path / "x.json").read_text())["distractors"]["sizes"]
    assert [size["gallery"] for size in sizes] == [8, 16, 38]
    assert (tmp_path / "x.distractors.png").read_bytes()[:4] == b"\x89PNG"
    refused = CliRunner().invoke(gengeo, [*(str(argument) for argument in arguments), "--flip"])
    assert refused.exit_code == 1 and "--distractors and --flip" in str(refused.output) + str(refused.exception)


def write_pairs(path, count):
    from tests.torture.inputs import random_image

    rng = np.random.default_rng(5)
    lines = ["ground,aerial,lat,lon"]
    for number in range(count):
        for view in ("g", "a"):
            random_image(rng).save(path.parent / f"{view}{number}.png")
        lines.append(f"g{number}.png,a{number}.png,{48 + number / 100},11.0")
    path.write_text("\n".join(lines) + "\n")
