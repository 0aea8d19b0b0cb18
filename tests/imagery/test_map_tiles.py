"""Map tiles on disk: forms of paths, orders, zoom levels, and content that is not imagery of the ground."""

import sqlite3

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery import TilingOptions, open_imagery

Z, X, Y = 18, 149232, 75878  # Helsinki


def noise(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)).save(path)


def places(count=4):
    return [(X + n % 2, Y + n // 2) for n in range(count)]


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("{z}/{x}/{y}.png", {}),
        ("{z}/{x}/{y}@2x.png", {}),
        ("{z}_{x}_{y}.png", {}),
        ("{z}-{x}-{y}.jpg", {}),
        ("z{z}/x{x}/y{y}.png", {}),
        ("{z}/{y}/{x}.png", {"tile_order": "zyx"}),
    ],
)
def test_xyz_tiles_path_forms_give_equal_positions(tmp_path, form, options):
    for seed, (x, y) in enumerate(places()):
        noise(tmp_path / form.format(z=Z, x=x, y=y), seed)
    source = open_imagery(tmp_path, TilingOptions(**options))
    assert source.table["tile_id"].to_pylist() == [f"{Z}/{x}/{y}" for x, y in sorted(places())] and not source.notes
    assert abs(source.table["lat"][0].as_py() - 60.17) < 0.01 and source.read(0).size == (16, 16)


def test_open_imagery_other_tile_order_raises_error_with_area(tmp_path):
    for seed, (x, y) in enumerate(places()):
        noise(tmp_path / f"{Z}/{y}/{x}.png", seed)
    area = Area.from_bounds(Bounds(24.9, 60.1, 25.0, 60.2))
    with pytest.raises(GenGeoError, match="--tile-order zyx"):
        open_imagery(tmp_path, TilingOptions(area=area))
    assert open_imagery(tmp_path, TilingOptions(area=area, tile_order="zyx")).table.num_rows == 4


def test_xyz_tiles_use_fullest_level_and_note_others(tmp_path):
    for seed, (x, y) in enumerate(places()):
        noise(tmp_path / f"{Z}/{x}/{y}.png", seed)
    noise(tmp_path / f"20/{4 * X}/{4 * Y}.png", 9)
    source = open_imagery(tmp_path)
    assert source.table.num_rows == 4 and "1 tiles at zoom 20" in source.notes[0]
    assert open_imagery(tmp_path, TilingOptions(zoom=20)).table.num_rows == 1


def test_xyz_tiles_two_files_of_one_tile_are_one_tile(tmp_path):
    noise(tmp_path / f"{Z}/{X}/{Y}.png", 0)
    noise(tmp_path / f"{Z}/{X}/{Y}.jpg", 1)
    source = open_imagery(tmp_path)
    assert source.table.num_rows == 1 and "1 tiles have two files" in source.notes[0]


def test_map_tiles_without_imagery_are_left_out_by_reason(tmp_path):
    for seed, (x, y) in enumerate(places(9)):
        noise(tmp_path / f"{Z}/{x}/{y}.png", seed)
    for _, (x, y) in zip(range(3), places(9), strict=False):  # the web page of a server that refuses
        noise(tmp_path / f"{Z}/{x}/{y}.png", 99)
    x, y = places(9)[3]
    Image.new("RGB", (16, 16), (0, 0, 0)).save(tmp_path / f"{Z}/{x}/{y}.png")
    x, y = places(9)[4]
    Image.new("RGBA", (16, 16), (9, 90, 9, 0)).save(tmp_path / f"{Z}/{x}/{y}.png")
    found = {}
    for leave_out in (False, True):
        source = open_imagery(tmp_path, TilingOptions(leave_out_repeated=leave_out))
        assert "3 of 9 tiles show a picture that occurs at other positions" in source.notes[0]
        reasons = []
        for row in range(9):
            try:
                source.read(row)
            except GenGeoError as error:
                reasons.append(str(error))
        found[leave_out] = sorted(reasons)
    assert found[False] == ["every pixel has the same colour", "every pixel is transparent"]
    assert len(found[True]) == 5


def test_mbtiles_north_rows_are_counted_from_the_north(tmp_path):
    noise(tmp_path / "a.png", 0)
    content = (tmp_path / "a.png").read_bytes()
    with sqlite3.connect(tmp_path / "m.mbtiles") as file:
        file.execute("CREATE TABLE metadata (name text, value text)")
        file.execute("CREATE TABLE tiles (zoom_level int, tile_column int, tile_row int, tile_data blob)")
        file.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", (Z, X, Y, content))
    assert open_imagery(tmp_path / "m.mbtiles").table["lat"][0].as_py() < 0
    north = open_imagery(tmp_path / "m.mbtiles", TilingOptions(north_rows=True))
    assert north.table["tile_id"].to_pylist() == [f"{Z}/{X}/{Y}"] and north.read(0).size == (16, 16)
