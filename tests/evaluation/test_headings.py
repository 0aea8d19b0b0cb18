"""Panoramas that do not have north in the middle, with a column that says so: evaluated as those that do."""

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation import evaluate

COLUMNS = 112  # of a panorama, as the tiny model sees it


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pytest.importorskip("embreex", reason="the synthetic world is drawn with embreex")
    from gengeo_hf.world import build_world

    folder = tmp_path_factory.mktemp("world")
    return build_world("urban", "test", 30, cache_dir=folder, workers=1, ground_size=(28, COLUMNS))


def write_table(world, folder, turns, with_heading=True):
    """Pairs as a user has them: panoramas turned by some columns, and the heading of their middle column."""
    folder.mkdir()
    lines = ["id,ground,aerial,lat,lon,fov,split" + (",heading" if with_heading else "")]
    for row, (query, tile, turn) in enumerate(zip(world.queries, world.gallery, turns, strict=True)):
        pixels = np.roll(np.asarray(query["ground"]), -turn, axis=1)  # what was `turn` to the right is in the middle
        Image.fromarray(pixels).save(folder / f"{row}.png")
        tile["aerial"].save(folder / f"{row}_tile.png")
        heading = f",{turn * 360 / COLUMNS:.6f}" if with_heading else ""
        lines.append(f"{row},{row}.png,{row}_tile.png,{query['lat']},{query['lon']},360,test{heading}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return f"table:test {folder / 'pairs.csv'}"


def test_rolled_panoramas_with_headings_have_the_ranks_of_aligned_ones(world, tiny_model, tiny_processor, tmp_path):
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
    assert not np.array_equal(ranks["unstated"], ranks["aligned"])  # so the headings were used
