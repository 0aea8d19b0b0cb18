"""Panoramas with a heading column are evaluated like north-aligned panoramas."""

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation import evaluate

COLUMNS = 112  # width of the tiny model's panoramas


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pytest.importorskip("embreex", reason="the synthetic world is drawn with embreex")
    from gengeo_hf.world import build_world

    folder = tmp_path_factory.mktemp("world")
    return build_world("urban", "test", 30, cache_dir=folder, workers=1, ground_size=(28, COLUMNS))


def write_table(world, folder, turns, with_heading=True):
    """Write a table of panoramas rolled by some columns, with the heading of their middle column."""
    folder.mkdir()
    lines = ["id,ground,aerial,lat,lon,fov,split" + (",heading" if with_heading else "")]
    for row, (query, tile, turn) in enumerate(zip(world.queries, world.gallery, turns, strict=True)):
        pixels = np.roll(np.asarray(query["ground"]), -turn, axis=1)  # column middle + `turn` moves to the middle
        Image.fromarray(pixels).save(folder / f"{row}.png")
        tile["aerial"].save(folder / f"{row}_tile.png")
        heading = f",{turn * 360 / COLUMNS:.6f}" if with_heading else ""
        lines.append(f"{row},{row}.png,{row}_tile.png,{query['lat']},{query['lon']},360,test{heading}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return f"table:test {folder / 'pairs.csv'}"


def test_evaluate_rolled_panoramas_with_headings_equals_aligned_ones(world, tiny_model, tiny_processor, tmp_path):
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    turns = np.random.default_rng(0).integers(8, COLUMNS - 8, len(world.queries))
    tables = {
        "aligned": write_table(world, tmp_path / "aligned", np.zeros(len(turns), int)),
        "rolled": write_table(world, tmp_path / "rolled", turns),
        "unstated": write_table(world, tmp_path / "unstated", turns, with_heading=False),
    }
    found = {name: evaluate(encoder, data) for name, data in tables.items()}
    ranks = {name: result.queries["rank"].to_numpy() for name, result in found.items()}
    assert np.array_equal(ranks["rolled"], ranks["aligned"])
    assert found["rolled"].percent()["R@1"] == found["aligned"].percent()["R@1"]
    assert not np.array_equal(ranks["unstated"], ranks["aligned"])  # headings change the result
