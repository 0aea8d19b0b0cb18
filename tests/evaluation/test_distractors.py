"""Recall@1 in galleries that grow by distractors, compared with galleries that hold them."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from gengeo_hf.cli import gengeo
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import offset
from gengeo_hf.evaluation.distractors import (
    APART_M,
    DistractorCurve,
    GallerySize,
    distractor_curve,
    evaluate_with_distractors,
)
from gengeo_hf.evaluation.ground_truth import GroundTruth
from gengeo_hf.evaluation.protocols import find_protocol
from gengeo_hf.evaluation.run import EncodedData
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.edit import write_index
from gengeo_hf.index.manifest import Model
from gengeo_hf.index.segment import NewRows
from tests.training.random_pairs import random_pairs

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


def index_at(path, ids, positions, vectors):
    """Build an index of tiles at given positions."""
    lat, lon = np.transpose(positions)
    table = tile_table(list(ids), lat, lon, [None] * len(lat))
    write_index(path, NewRows(table, [np.asarray(vectors, np.float16)]), DIM, Model("0" * 64))
    return GeoIndex.load(path)


def pairs_at(query_positions, gallery_positions):
    """Pairs with orthogonal descriptors at given positions."""
    count = len(query_positions)
    names = [f"q{n}" for n in range(count)], [f"t{n}" for n in range(count)]
    positions = np.array(query_positions, float), np.array(gallery_positions, float)
    truth = GroundTruth("few", *names, np.arange(count), None, *positions, [None] * count)
    eye = np.eye(DIM, dtype=np.float32)[:count]
    about = {"name": "stub", "fingerprint": "0" * 64, "trained_on": None}
    return EncodedData(eye, eye, truth, find_protocol("table"), about, {})


@pytest.mark.parametrize(("place", "hits"), [(4, 3), (0, 1)])
def test_distractor_curve_has_documented_multiples_and_loses_a_query_at_its_first_better_tile(tmp_path, place, hits):
    total = 10_020  # more than one block of distractors
    order = np.random.default_rng(0).permutation(np.arange(total, dtype=np.int32))
    vectors = np.full((total, DIM), -0.25)
    vectors[order == place] = np.eye(DIM)[0]  # better than the true tile from the gallery with place + 2 tiles on
    positions = np.stack([np.full(total, 50.0), np.linspace(0, 50, total)], axis=1)
    encoded = pairs_at([(LAT, LON)], [(LAT, LON)])
    encoded.aerial[0] *= 0.9
    index = index_at(tmp_path / "far.gengeo", [f"d{n}" for n in range(total)], positions, vectors)
    curve = distractor_curve(encoded, encoded.compute_result(), index)
    times = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000]
    assert [size.gallery for size in curve.sizes] == [*times, 10_021]
    assert [size.times for size in curve.sizes] == [*times, 10_021]
    assert [size.recall for size in curve.sizes] == [1] * hits + [0] * (14 - hits)
    assert curve.source == "far.gengeo" and curve.seed == 0


def test_distractor_curve_ends_with_all_distractors_once(tmp_path):
    encoded = pairs_at([(LAT, LON), (LAT, LON + 1)], [(LAT, LON), (LAT, LON + 1)])
    index = index_at(tmp_path / "two.gengeo", ["a", "b"], [(10, 10), (11, 11)], np.zeros((2, DIM)))
    curve = distractor_curve(encoded, encoded.compute_result(), index, source="elsewhere")
    assert [(size.gallery, size.times) for size in curve.sizes] == [(2, 1), (4, 2)] and curve.source == "elsewhere"


def test_distractor_curve_cannot_be_changed(tmp_path):
    encoded = pairs_at([(LAT, LON)], [(LAT, LON)])
    index = index_at(tmp_path / "one.gengeo", ["a"], [(10, 10)], np.zeros((1, DIM)))
    curve = distractor_curve(encoded, encoded.compute_result(), index)
    for value in (curve, curve.sizes[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.recall = 1.0


def test_distractor_curve_leaves_out_tiles_within_200_metres_and_gallery_tiles_of_unknown_position(tmp_path):
    north = offset(LAT, LON, 0.0, np.array([199.5, 200.5]))[0]
    ids = ["near", "far", "t1", "t0", "half"]
    at = [(north[0], LON), (north[1], LON), (10.0, 20.0), (10.0, 20.0), (LAT + 1, LON)]
    index = index_at(tmp_path / "i.gengeo", ids, at, np.zeros((5, DIM)))
    known, unknown = (LAT, LON), (np.nan, np.nan)
    encoded = pairs_at([known, (LAT + 1, np.nan)], [known, unknown])
    curve = distractor_curve(encoded, encoded.compute_result(), index)
    assert (curve.distractors, curve.left_out) == (3, 2)  # far, t0 (only its name is the same) and half
    nowhere = pairs_at([unknown, unknown], [(10.0, 20.0), unknown])  # now t0 is the tile of the gallery
    curve = distractor_curve(nowhere, nowhere.compute_result(), index)
    assert (curve.distractors, curve.left_out) == (3, 2)  # near, far and half


def test_distractor_curve_is_written_and_printed_in_percent():
    sizes = (GallerySize(3, 1.0, 2 / 3, 0.123456789, 0.9876543), GallerySize(4000, 4000 / 3, 0.5, 0.25, 0.75))
    curve = DistractorCurve("tiles of X", 3997, 1200, 7, sizes, "95 %, 3 queries")
    assert curve.to_dict() == {
        "source": "tiles of X",
        "distractors": 3997,
        "left_out": 1200,
        "seed": 7,
        "interval": "95 %, 3 queries",
        "sizes": [
            {"gallery": 3, "times": 1.0, "R@1": 66.6667, "R@1_interval": [12.3457, 98.7654]},
            {"gallery": 4000, "times": 1333.3333, "R@1": 50.0, "R@1_interval": [25.0, 75.0]},
        ],
    }
    assert str(curve).splitlines() == [
        "distractors: 3,997 tiles of tiles of X, 1,200 left out (within 200 m of a query, or in the gallery); nested "
        "random subsets, seed 7",
        "       gallery     times       R@1   95 %, 3 queries",
        "             3        1x   66.67 %   (12.35 to 98.77)",
        "         4,000    1,333x   50.00 %   (25.00 to 75.00)",
    ]


def test_evaluate_with_distractors_of_an_index_or_imagery_returns_result_and_curve(
    tiny_checkpoint, tmp_path, monkeypatch, capfd
):
    from tests.torture.inputs import write_map_tiles

    write_map_tiles(tmp_path / "far", 2, 3)
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    pairs = random_pairs(4, seed=1)
    kept = tmp_path / "kept"
    found, curve = evaluate_with_distractors(tiny_checkpoint, pairs, None, str(tmp_path / "far"), descriptors=kept)
    (path,) = kept.glob("distractors-*.gengeo")
    assert found.summary["distractors"] == curve.to_dict() and curve.seed == 0
    assert [size.gallery for size in curve.sizes] == [4, 8, 10] and curve.left_out == 0
    assert found.summary["model"]["name"] == tiny_checkpoint.name and found.summary["settings"]["seed"] == 0
    again, same = evaluate_with_distractors(tiny_checkpoint, pairs, None, str(path), name="mine")
    assert same.sizes == curve.sizes and again.summary["model"]["name"] == "mine"
    _, built = evaluate_with_distractors(tiny_checkpoint, pairs, None, str(tmp_path / "far"))
    assert built.sizes == curve.sizes and not list((tmp_path / "temp").iterdir())  # the index is deleted
    assert "img/s" not in capfd.readouterr().err
    with pytest.raises(GenGeoError, match="--distractors and --aerial-size exclude"):
        evaluate_with_distractors(tiny_checkpoint, pairs, None, str(path), aerial_size="28x28")


def test_evaluate_with_distractors_takes_the_gallery_of_a_data_set(tiny_model, tiny_processor, tmp_path):
    from gengeo_hf.encoding.encoder import Encoder

    write_pairs(tmp_path / "pairs.csv", 3)
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    _, curve = evaluate_with_distractors(encoder, random_pairs(4), None, f"table:all {tmp_path / 'pairs.csv'}", seed=5)
    assert curve.distractors == 3 and curve.seed == 5
