"""Loaders of the benchmarks: photos paired with their tiles, positions, splits, and errors for missing files."""

import logging

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import load_pairs
from gengeo_hf.data.benchmarks import cvusa, vigor
from tests.data import folders


def column(table, name):
    return list(table[name][:])


def paths(table, name):
    from datasets import Image

    return [cell["path"] for cell in table.cast_column(name, Image(decode=False))[name][:]]


def test_cvusa_splits_pair_photos_tiles_and_positions_by_id(tmp_path, caplog):
    root = folders.make_cvusa(tmp_path / "CVUSA")
    with caplog.at_level(logging.WARNING):
        test = load_pairs("cvusa", tmp_path, "test")  # the parent directory is accepted too
    assert "20 pairs, published are 8,884" in caplog.text
    assert column(test.queries, "query_id")[:2] == ["0000002", "0000004"]
    assert column(test.queries, "positive") == column(test.gallery, "tile_id") == column(test.queries, "query_id")
    for which, name in ((test.queries, "ground"), (test.gallery, "aerial")):
        assert [path[-11:-4] for path in paths(which, name)] == column(test.queries, "query_id")
    gps = np.loadtxt(root / "split_locations/all.csv", delimiter=",")
    np.testing.assert_allclose(column(test.gallery, "lat"), gps[1:40:2, 0])  # line 2 belongs to image 2
    np.testing.assert_allclose(column(test.queries, "lon"), gps[1:40:2, 3])
    assert set(column(test.queries, "fov")) == {360.0} and set(column(test.queries, "heading")) == {0.0}
    train, validation = (load_pairs("cvusa", root, split, validation_share=0.2) for split in ("train", "validation"))
    one, other = set(column(train.queries, "query_id")), set(column(validation.queries, "query_id"))
    assert not one & other and one | other <= {f"{n:07d}" for n in range(1, 121, 2)}
    assert len(load_pairs("cvusa", root, "train", validation_share=0).queries) == 60


def test_cvusa_list_variants_and_missing_gps_are_handled(tmp_path, caplog):
    root = folders.make_cvusa(tmp_path, gps=0)
    text = "\r\n".join(folders.cvusa_row(n).replace("/", "\\") for n in (2, 4, 6))  # CRLF, no final newline
    (root / "splits/val-19zl.csv").rename(root / "val-19zl.csv")
    (root / "val-19zl.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    test = load_pairs("cvusa", root, "test")
    assert column(test.queries, "query_id") == ["0000002", "0000004", "0000006"]
    assert column(test.queries, "lat") == [None] * 3
    with pytest.raises(GenGeoError, match="validation_by=id"):
        load_pairs("cvusa", root, "train")
    assert len(load_pairs("cvusa", root, "validation", validation_by="id").queries) == 3
    with caplog.at_level(logging.WARNING):
        cvusa.compare_count("cvusa/train", 34_769, 35_532, cvusa.DEDUPLICATED["train"])
    assert "de-duplicated" in caplog.text
    (root / "all.csv").write_text("40,-100,40,-100,0\n" * 5)
    with pytest.raises(GenGeoError, match="5 lines"):
        load_pairs("cvusa", root, "test")


def test_cvusa_missing_files_raise_error_that_names_them(tmp_path):
    root = folders.make_cvusa(tmp_path)
    (root / "bingmap/19/0000004.jpg").unlink()
    with pytest.raises(GenGeoError, match=r"1 of 20 pairs lack an image, first .*0000004.*missing=drop"):
        load_pairs("cvusa", root, "test")
    assert len(load_pairs("cvusa", root, "test", missing="drop").queries) == 19
    (root / "splits/val-19zl.csv").write_text("bingmap/19/0000002.jpg,streetview/panos/0000004.jpg\n")
    with pytest.raises(GenGeoError, match="line 1"):
        load_pairs("cvusa", root, "test")
    (root / "splits/val-19zl.csv").unlink()
    with pytest.raises(GenGeoError, match=r"splits/val-19zl\.csv"):
        load_pairs("cvusa", root, "test")
    with pytest.raises(GenGeoError, match="bingmap/19"):
        load_pairs("cvusa", tmp_path / "splits", "test")
    with pytest.raises(GenGeoError, match="validation_shares"):
        load_pairs("cvusa", root, "train", validation_shares=0.1)


def test_cvusa_real_list_has_published_count_and_matching_positions(shared_data, tmp_path):
    splits = shared_data / "splits" / "cvusa"
    stems, aerial, ground = cvusa.read_list(splits / "val-19zl.csv")
    assert len(stems) == len(set(stems)) == cvusa.PUBLISHED["test"]
    folders.copy_real(splits / "split_locations_all.csv", tmp_path / "split_locations/all.csv")
    positions = cvusa.positions_of(stems, cvusa.read_positions(tmp_path))
    assert np.all((positions[:, 0] > 24) & (positions[:, 0] < 65) & (positions[:, 1] < -66))
    # Tiles are centred on their panoramas, so the two positions must agree to a few metres.
    metres = np.hypot(*(np.radians(positions[:, :2] - positions[:, 2:]) * [1, 0.78]).T) * 6_371_000
    assert np.median(metres) < 30
    assert aerial[0] == "bingmap/19/0001227.jpg" and ground[0] == "streetview/panos/0001227.jpg"


@pytest.mark.parametrize("northing_first", [False, True])
def test_cvact_splits_follow_mat_file_and_positions_match_utm(tmp_path, northing_first):
    pyproj = pytest.importorskip("pyproj")
    root, ids, utm, splits = folders.make_cvact(tmp_path / "CVACT", northing_first=northing_first)
    back = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32755", always_xy=True)
    for split, rows in (("val", splits[1]), ("test", sorted(splits[2], key=lambda row: ids[row]))):
        data = load_pairs("cvact", root, split)
        rows = [row for row in rows if not ids[row].startswith("1Lq")]
        assert column(data.queries, "query_id") == [ids[row] for row in rows]
        found = np.stack(back.transform(column(data.queries, "lon"), column(data.queries, "lat")), axis=1)
        np.testing.assert_allclose(found, utm[rows], atol=1e-3)
        assert [ids[row] in path for row, path in zip(rows, paths(data.gallery, "aerial"), strict=True)]
    everyone = load_pairs("cvact", root, "train", validation_share=0)
    assert set(column(everyone.queries, "query_id")) == {ids[row] for row in splits[0]} - {ids[3]}
    with pytest.raises(GenGeoError, match="expected one of train, validation, val, test"):
        load_pairs("cvact", root, "valSet")


def test_cvact_without_mat_file_loads_test_split_only(tmp_path):
    root = folders.make_cvact(tmp_path)[0]
    (root / "ACT_data.mat").rename(root / "ANU_data_small/ACT_data.mat")
    assert len(load_pairs("cvact", root, "val").queries) == 12
    (root / "ANU_data_small/ACT_data.mat").rename(root / "other")
    test = load_pairs("cvact", root, "test")
    assert len(test.queries) == 32 and set(column(test.queries, "lat")) == {None}
    with pytest.raises(GenGeoError, match=r"lacks ACT_data\.mat"):
        load_pairs("cvact", root, "train")
    (root / "ACT_data.mat").write_bytes(b"MATLAB 5.0 and then nothing")
    with pytest.raises(GenGeoError, match="cannot be read"):
        load_pairs("cvact", root, "train")


@pytest.mark.parametrize("layout", ["original", "sample4geo"])
@pytest.mark.parametrize("labels", ["original", "corrected"])
def test_vigor_protocols_load_cities_labels_and_bounds(tmp_path, layout, labels):
    root = folders.make_vigor(tmp_path / "VIGOR", layout=layout, labels=labels, tile_suffix=".jpg")
    same = load_pairs("vigor-same", root, "test")
    assert len(same.gallery) == 4 * 48  # all tiles, including those without a panorama
    assert len(same.queries) == 4 * 17
    for cities, split in ((("Chicago", "SanFrancisco"), "test"), (("NewYork", "Seattle"), "train")):
        cross = load_pairs("vigor-cross", root, split, **({"validation_share": 0} if split == "train" else {}))
        assert set(column(cross.queries, "area")) == set(column(cross.gallery, "area")) == set(cities)
        assert len(cross.queries) == 2 * 35
    row = same.queries.remove_columns("ground")[0]
    line = folders.vigor_grid("Chicago")[1][1].split()
    assert row["query_id"] == line[0].split(",")[0]
    assert row["lat"] == float(line[0].split(",")[1]) and row["lon"] == float(line[0].split(",")[2])
    assert [row["positive"], *row["semi_positives"]] == [line[i].removesuffix(".png") for i in (1, 4, 7, 10)]
    assert paths(same.queries, "ground")[0].endswith(line[0]) and "Chicago" in paths(same.queries, "ground")[0]
    tile = same.gallery.remove_columns("aerial")[0]
    assert paths(same.gallery, "aerial")[0].endswith(tile["tile_id"] + ".jpg")
    assert tile["west"] < tile["lon"] < tile["east"] and tile["south"] < tile["lat"] < tile["north"]


def test_vigor_some_cities_or_missing_tiles_load_or_raise_error(tmp_path):
    root = folders.make_vigor(tmp_path, cities=("Seattle", "Chicago"))
    with pytest.raises(GenGeoError, match="NewYork"):
        load_pairs("vigor-same", root, "test")
    data = load_pairs("vigor-same", root, "test", cities=["Seattle"])
    assert data.name == "vigor-same/test[Seattle]" and len(data.gallery) == 48
    with pytest.raises(GenGeoError, match="not a test city"):
        load_pairs("vigor-cross", root, "test", cities=["Seattle"])
    lost = next((root / "Seattle/satellite").iterdir())
    lost.unlink()
    with pytest.raises(GenGeoError, match="missing=drop"):
        load_pairs("vigor-same", root, "test", cities=["Seattle"])
    dropped = load_pairs("vigor-same", root, "test", cities=["Seattle"], missing="drop")  # validate() checks the ids
    assert lost.stem not in column(dropped.gallery, "tile_id") and len(dropped.gallery) == 47
    labels = root / "splits/Seattle/same_area_balanced_test.txt"
    labels.write_text(labels.read_text().replace(",", " ", 1))
    with pytest.raises(GenGeoError, match="line 1: 14 fields"):
        load_pairs("vigor-same", root, "test", cities="Seattle")


def test_vigor_real_labels_match_bounds_of_tiles(shared_data):
    seattle = shared_data / "splits" / "vigor" / "Seattle"
    labels = vigor.read_labels(seattle / "same_area_balanced_test__corrected.txt", "Seattle")
    assert len(labels.panoramas) == len({name.split(",")[0] for name in labels.panoramas}) == 11_875
    assert {tile for row in labels.tiles for tile in row} <= set(vigor.read_lines(seattle / "satellite_list.txt"))
    # Compare the bounds with the offsets of the labels in pixels: row = 320 + d_lat, column = 320 - d_lon.
    fields = (seattle / "same_area_balanced_test__corrected.txt").read_text().splitlines()[7].split()
    lat, lon = vigor.position_of_panorama(fields[0])
    for first in (1, 4, 7, 10):
        where = vigor.position_of_tile(fields[first])
        west, south, east, north = vigor.tile_bounds(*(np.array([value]) for value in where))[0]
        assert (north - lat) / (north - south) * 640 == pytest.approx(320 + float(fields[first + 1]), abs=5)
        assert (lon - west) / (east - west) * 640 == pytest.approx(320 - float(fields[first + 2]), abs=5)


def test_university1652_splits_whole_buildings(tmp_path):
    root = folders.make_university(tmp_path)
    test = load_pairs("university1652", root, "test")
    assert (len(test.queries), len(test.gallery)) == (12, 9)
    assert set(column(test.queries, "fov")) == {None}
    train, validation = (load_pairs("university1652", root, s, validation_share=0.25) for s in ("train", "validation"))
    assert (len(train.queries), len(train.gallery), len(validation.gallery)) == (18, 9, 3)
    assert not set(column(train.gallery, "tile_id")) & set(column(validation.gallery, "tile_id"))
    folders.picture(root / "test/query_drone/9999/a.png", 28, 28)
    with pytest.raises(GenGeoError, match="1 of 13 pairs"):
        load_pairs("university1652", root, "test")
