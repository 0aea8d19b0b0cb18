"""Imagery and indexes with unreadable parts: tiles are left out and counted, or the error has one line."""

import json
import sqlite3

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery import open_imagery
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.build import build_index
from tests.stubs import ListSource, StubEncoder, encode_shards
from tests.torture import inputs
from tests.torture.intake_worker import image_bytes


def mbtiles(path, rows):
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE metadata (name, value)")
        file.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        file.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
    file.close()
    return path


def test_build_leaves_out_mbtiles_without_pictures(tmp_path):
    picture = image_bytes("PNG", 16)
    rows = [
        (3, 1, 1, picture),
        (3, 1, 2, None),
        (3, 1, 3, "text"),
        (3, 1, 4, b"no picture"),
        (3, 2, 1, picture[:-30]),
        (3, "x", 1, picture),
        (3, 99, 1, picture),
        (3, -1, 1, picture),
        ("deep", 1, 1, picture),
        (70, 1, 1, picture),
    ]
    report = build_index(StubEncoder(), open_imagery(mbtiles(tmp_path / "m.mbtiles", rows)), tmp_path / "idx")
    assert (report.tiles, report.broken_count) == (1, 4)
    reasons = GeoIndex.load(tmp_path / "idx").left_out["reason"].to_pylist()
    assert sum("has no image" in reason for reason in reasons) == 2


def test_build_leaves_out_tiles_of_an_mbtiles_file_that_is_damaged_during_reading(tmp_path):
    path = mbtiles(tmp_path / "m.mbtiles", [(3, 1, row, image_bytes("PNG", 16)) for row in range(5)])
    source = open_imagery(path)
    with sqlite3.connect(path) as file:
        file.execute("DROP TABLE tiles")
    file.close()
    with pytest.raises(GenGeoError, match=r"none of the 5 tiles .* could be read; first: tile 3/1/0 .* no such table"):
        build_index(StubEncoder(), source, tmp_path / "idx")


@pytest.mark.parametrize(
    ("crs", "metres"),
    [
        ('LOCAL_CS["a hall",LOCAL_DATUM["floor",0],UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]', 1.0),
        ("EPSG:32635", 1e6),  # far beyond the projection
        ("EPSG:3857", 1e200),  # where PROJ never comes back from
    ],
)
def test_build_of_a_raster_without_georeference_raises_one_line(tmp_path, crs, metres):
    pytest.importorskip("rasterio")
    inputs.write_geotiff(tmp_path / "good.tif")
    inputs.write_geotiff(tmp_path / "odd.tif", crs=crs, metres=metres)
    with pytest.raises(GenGeoError, match=r"odd\.tif"):
        open_imagery(tmp_path)


SEGMENT = {"name": "segment-0123456789ab", "tiles": 1, "files": {}, "contents": {"bounds": [1, 2, 3, 4]}}


@pytest.mark.parametrize(
    "change",
    [
        {"segments": "12"},
        {"segments": {}},
        {"segments": [1]},
        {"segments": [SEGMENT]},
        {"dim": 0},
        {"dim": 2**70},
        {"dim": True},
        {"model": "m"},
        {"model": {}},
        {"model": {"fingerprint": 1}},
        {"history": ["x"]},
        {"build": []},
        {"created": 7},
        {"model": {"fingerprint": "a", "truncate_dim": "8"}},
        {"bounds": [1]},
        {"left_out": {"reasons": {"a": "b"}}},
        {"left_out": {"file": "../x"}},
        {"left_out": {"file": "left_out-2.parquet", "bytes": 1, "sha256": "x" * 64}},
        {"left_out": {"file": "left_out-2.parquet", "bytes": -1, "sha256": "0" * 64}},
        {"means": {"ground": [], "aerial": []}},
        {"shard": {"number": 2, "count": 2, "work": ""}},
        {"sources": [{}]},
        {"unknown": 1},
    ],
)
def test_manifest_with_fields_of_a_wrong_type_raises_an_error(index, change):
    manifest = json.loads((index.path / "manifest.json").read_text())
    (index.path / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(GenGeoError, match=r"manifest\.json is broken"):
        GeoIndex.load(index.path)


@pytest.mark.parametrize("name", ["../x", "segment-0123456789ab/../..", "/tmp", "segment-XYZ", ""])
def test_manifest_with_an_invalid_segment_name_raises_an_error(index, name):
    manifest = json.loads((index.path / "manifest.json").read_text())
    manifest["segments"][0]["name"] = name
    (index.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(GenGeoError, match="is not the name of a segment"):
        GeoIndex.load(index.path)


def test_build_encodes_a_damaged_shard_again(tmp_path, monkeypatch):
    """Parquet has no checksums here: a flipped bit in a vector would not raise an error."""
    expected = GeoIndex.build(StubEncoder(), ListSource(300), tmp_path / "whole").descriptors.tobytes()
    encode_shards(monkeypatch, ListSource(300), tmp_path / "idx")
    first, second = sorted((tmp_path / "idx.partial").glob("*/shard-*.parquet"))
    content = bytearray(first.read_bytes())
    content[3000] ^= 1
    first.write_bytes(content)
    encoder = StubEncoder()
    index = GeoIndex.build(encoder, ListSource(300), tmp_path / "idx")
    assert index.descriptors.tobytes() == expected and encoder.encoded == 256
    assert second.name == "shard-000000256.parquet"


def test_manifest_with_an_invalid_hash_of_removed_rows_raises_an_error(index):
    index.remove([index.tiles["tile_id"][0].as_py()])
    manifest = json.loads((index.path / "manifest.json").read_text())
    manifest["segments"][0]["tombstones"]["sha256"] = "g" * 64
    (index.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(GenGeoError, match=r"manifest\.json is broken .*64 hexadecimal digits"):
        GeoIndex.load(index.path)
