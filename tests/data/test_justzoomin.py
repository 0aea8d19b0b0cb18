"""Loader of Just Zoom In, its splits and its check, on a small synthetic city with its layout."""

import numpy as np
import pytest

from gengeo_hf.acquire.hub_files import HubFiles
from gengeo_hf.acquire.justzoomin_cells import render_cells
from gengeo_hf.acquire.justzoomin_table import write_table
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import load_pairs
from gengeo_hf.data.benchmarks import justzoomin as loader
from gengeo_hf.data.benchmarks import justzoomin_grid as grid
from gengeo_hf.data.benchmarks import justzoomin_lists as lists
from gengeo_hf.evaluation.protocols import find_protocol
from gengeo_hf.evaluation.run import choose_protocol, parse_data
from tests.acquire.jz_city import LAYOUT, City, noise

TRAIN, TEST = lists.LISTS["train"], lists.LISTS["test"]


@pytest.fixture(scope="module")
def jz(tmp_path_factory):
    """Directory of a city: photos in a square of 1 km, 78 m apart, and its tiles."""
    rows = columns = range(100, 124, 2)
    photos = [(r, c, 3.0 * (r % 3), 2.0, noise(r * 999 + c, 24, 16)) for r in rows for c in columns]
    city = City(range(100, 124), range(100, 124), lambda r, c: noise(r * 256 + c, 122, 122), photos, 0.25)
    root = tmp_path_factory.mktemp("jz")
    city.unpack(root)
    cells = render_cells(root, -2, grid.CELL_M)
    write_table(root, HubFiles("pcvlab/justzoomin", "1" * 40, "cc-by-sa-4.0", {}), cells, -2, grid.CELL_M)
    return root


def test_justzoomin_published_split_has_test_list_and_disjoint_validation(jz):
    parts = {split: load_pairs("justzoomin", jz, split) for split in ("train", "validation", "test")}
    ids = {split: set(data.queries["query_id"][:]) for split, data in parts.items()}
    assert len(ids["test"]) == 36
    assert ids["train"] and ids["validation"] and not ids["train"] & ids["validation"]
    assert set(parts["test"].queries["fov"][:]) == {None}
    assert set(parts["test"].queries["heading"][:]) == {None}


def test_justzoomin_area_split_keeps_100_m_between_test_and_training(jz):
    positions = {}
    for split in ("train", "test"):
        table = load_pairs("justzoomin-area", jz, split).queries
        positions[split] = grid.project(table["lat"][:], table["lon"][:]).T
    apart = np.linalg.norm(positions["test"][:, None] - positions["train"][None], axis=2)
    assert apart.min() >= 99


def test_justzoomin_galleries_hold_named_or_all_covered_cells(jz):
    listed = (jz / TEST).read_text().splitlines()[1:]
    named = {grid.cell_name(*map(int, cell)) for cell in cells_of(listed)}
    test = load_pairs("justzoomin", jz, "test")
    assert set(test.gallery["tile_id"][:]) == named
    covered = load_pairs("justzoomin-covered", jz, "test")
    assert len(covered.gallery) == len(list((jz / "cells/39.0625m_z-2").iterdir())) > len(named)
    assert len(load_pairs("justzoomin-covered", jz, "train").gallery) == len(
        load_pairs("justzoomin", jz, "train").gallery
    )


def cells_of(lines):
    import json

    actions = np.array([json.loads(line.split('"')[1]) for line in lines])
    return grid.cells_of_sequences(actions).T.tolist()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("justzoomin", {"part": "area"}, "implies part=published"),
        ("justzoomin-area", {"part": "published"}, "implies part=area"),
        ("justzoomin-covered", {"gallery": "named"}, "implies gallery=covered"),
        ("justzoomin", {"missing": "perhaps"}, "missing must be one of"),
    ],
)
def test_justzoomin_option_that_contradicts_name_raises_error(jz, name, options, message):
    with pytest.raises(GenGeoError, match=message):
        load_pairs(name, jz, "test", **options)


def test_choose_protocol_of_another_justzoomin_set_raises_error(jz):
    with pytest.raises(GenGeoError, match="is for the data set justzoomin-area, found 'justzoomin'"):
        choose_protocol("justzoomin-area", parse_data(f"justzoomin {jz}"))
    assert find_protocol("justzoomin").near_rule_m == 50


def test_justzoomin_without_table_raises_error_with_command(tmp_path):
    with pytest.raises(GenGeoError, match="gengeo data get justzoomin --out"):
        load_pairs("justzoomin", tmp_path, "test")


def test_justzoomin_check_reports_distances_of_published_split(jz):
    report = str(loader.check(jz))
    assert "split 'published', all listed photos: of 36 test photos 0.0% within 5 m" in report
    assert "100.0% within 100 m of a training photo" in report
    assert "tiles of zoom -2" in report
    assert "part of the city: west" in report


def test_distances_to_training_equal_brute_force(jz):
    photos = lists.read_photos(jz)
    found = lists.distances_to_training(photos, np.where(photos.is_test, "test", "train"))
    points = grid.project(photos.lat, photos.lon).T
    slow = np.linalg.norm(points[photos.is_test][:, None] - points[~photos.is_test][None], axis=2).min(axis=1)
    assert np.allclose(found, slow)


HEADER = "image_id,latitude,longitude,sequence\n"
GOOD = '27000000000000001,38.908513,-76.940898,"[7, 6, 6, 5]"\n'


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('2.7e16,38.9,-76.9,"[7, 6, 6, 5]"\n', "expected digits"),
        ('27000000000000003,98.9,-76.9,"[7, 6, 6, 5]"\n', "not a latitude"),
        ('27000000000000003,38.9,-76.9,"[7, 6, 6]"\n', "expected four numbers"),
        ('27000000000000003,38.9,-76.9,"[7, 6, 6, 16]"\n', "expected four numbers"),
        ('27000000000000003,38.9,-76.9,"__import__(1)"\n', "expected four numbers"),
        (GOOD, "is listed twice"),
    ],
)
def test_read_photos_of_lists_invalid_row_raises_error(tmp_path, rows, message):
    for name, content in ((TRAIN, HEADER + GOOD), (TEST, HEADER + rows)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(GenGeoError, match=message):
        lists.read_photos(tmp_path)


def test_read_photos_of_lists_with_crlf_and_bom_counts_wrong_cells(tmp_path):
    (tmp_path / "metadata").mkdir()
    (tmp_path / TRAIN).write_bytes(b"\xef\xbb\xbf" + (HEADER + GOOD).replace("\n", "\r\n").encode())
    wrong = (
        '27000000000000003,38.908513,-76.940898,"[7, 6, 6, 6]"\n27000000000000005,38.908513,-76.940898,"[0, 6, 6, 6]"\n'
    )
    (tmp_path / TEST).write_text(HEADER + wrong)
    photos = lists.read_photos(tmp_path)
    assert photos.ids[0] == "27000000000000001"
    assert (photos.near_misses, photos.misses) == (1, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epsg:26985", "epsg:3857", "crs is epsg:3857"),
        ("[east, north]", "[east, south]", "tile_axes"),
        ("[250, 250]", "[256, 256]", "tile_shape_px"),
        ("max_zoom: 0\n", "", "cannot be read as the layout"),
        ("[600, 200]", "[600", "cannot be read as the layout"),
    ],
)
def test_read_layout_of_another_grid_raises_error(tmp_path, old, new, message):
    (tmp_path / "satellite").mkdir()
    (tmp_path / "satellite/layout.yaml").write_text(LAYOUT)
    assert lists.read_layout(tmp_path) == range(-9, 1)
    (tmp_path / "satellite/layout.yaml").write_text(LAYOUT.replace(old, new))
    with pytest.raises(GenGeoError, match=message):
        lists.read_layout(tmp_path)
