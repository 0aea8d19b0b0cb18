"""Fused search of cells with several tiles each, with scores by hand."""

from dataclasses import replace

import numpy as np
import pytest

from gengeo_hf.common.area import Area
from gengeo_hf.common.geo import Bounds, bounds_around
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.edit import write_index
from gengeo_hf.index.manifest import Model, read_manifest, write_manifest
from gengeo_hf.index.segment import NewRows
from gengeo_hf.index.version import Version

CELLS = {"south": (-20.0, 10.0), "west": (10.0, 20.0), "north": (10.0, 30.0)}  # in spatial order
TILES = {  # id: cell, side in metres (None: bounds are unknown), cosine with the query
    "s": ("south", 60.0, 0.6),
    "w90": ("west", 90.0, 0.8),
    "w30": ("west", 30.0, 0.2),
    "w60": ("west", 60.0, 0.5),
    "n0": ("north", None, 0.9),
    "n70": ("north", 70.0, 0.4),
}
QUERY = np.array([1.0, 0.0], np.float32)


def index_of(path, names, fusion):
    rows = [TILES[name] for name in names]
    lat, lon = zip(*(CELLS[cell] for cell, *_ in rows), strict=True)
    boxes = [side and bounds_around(*CELLS[cell], side, side) for cell, side, _ in rows]
    cosines = np.array([cosine for *_, cosine in rows])
    vectors = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    write_index(path, NewRows(tile_table(names, lat, lon, boxes), [vectors]), 2, Model("0" * 64))
    write_manifest(path, replace(read_manifest(path), fusion=fusion))
    return GeoIndex.load(path)


class Encoder:
    """What an index compares before tiles are added."""

    fingerprint = "0" * 64


@pytest.fixture(params=["mean", "max"])
def index(request, tmp_path):
    """An index of two segments, over which the tiles of two cells are distributed."""
    first = index_of(tmp_path / "idx", ["s", "w90", "n0"], request.param)
    first.add(Encoder, index_of(tmp_path / "more", ["w30", "w60", "n70"], request.param))
    assert len(first.segments) == 2 and first.tiles["tile_id"].to_pylist()[0] == "s"
    return first


def found(index, k=5, near=None):
    return [(hit.tile_id, pytest.approx(hit.score, abs=1e-3)) for hit in index.search(QUERY, k, near)[0]]


def test_cell_search_returns_the_smallest_tile_of_each_cell_with_its_fused_score(index):
    if index.manifest.fusion == "mean":
        expected = [("n70", 0.65), ("s", 0.6), ("w30", 0.5)]
    else:
        expected = [("n70", 0.9), ("w30", 0.8), ("s", 0.6)]
    assert found(index) == expected
    assert found(index, 2) == expected[:2] and found(index, 1) == expected[:1]
    both = index.search(np.stack([QUERY, QUERY * [0.5, 0.0]]).astype(np.float32), 3)
    assert [hit.tile_id for hit in both[1]] == [hit.tile_id for hit in both[0]]
    assert both[1][0].score == pytest.approx(expected[0][1] / 2, abs=1e-3)


def test_cell_search_after_removals_fuses_the_remaining_tiles(index):
    index.remove(["w30", "n0"])
    score = 0.65 if index.manifest.fusion == "mean" else 0.8
    assert found(index) == [("w60", score), ("s", 0.6), ("n70", 0.4)]


def test_cell_search_in_an_area_finds_only_cells_with_their_centre_inside(index):
    assert found(index, near=(-20.0, 10.0, 50.0)) == [("s", 0.6)]
    west = Area.from_bounds(Bounds(15.0, 5.0, 25.0, 15.0))
    assert found(index, near=west) == [("w30", 0.5 if index.manifest.fusion == "mean" else 0.8)]
    assert found(index, near=(0.0, 0.0, 50.0)) == []


def test_cell_search_of_an_index_without_tiles_finds_nothing(index):
    index.remove(list(TILES))
    assert len(index) == 0 and found(index) == []


@pytest.mark.parametrize(("k", "depth"), [(1, 768), (32, 768), (33, 792), (100, 2400)])
def test_cell_search_begins_with_eight_tiles_for_each_cell_and_size_and_at_least_256(index, monkeypatch, k, depth):
    """The largest cell has three tiles."""
    depths, search = [], Version.search

    def recorded(self, queries, count, area=None):
        depths.append(count)
        return search(self, queries, count, area)

    monkeypatch.setattr(Version, "search", recorded)
    assert len(found(index, k)) == min(k, 3) and depths == [depth]


def test_index_without_a_fusion_takes_that_of_an_added_index(tmp_path):
    one = index_of(tmp_path / "one", ["s"], "")
    one.add(Encoder, index_of(tmp_path / "more", ["w30", "w60"], "max"))
    assert one.manifest.fusion == "max" and found(one) == [("s", 0.6), ("w30", 0.5)]
