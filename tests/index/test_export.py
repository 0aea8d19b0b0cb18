"""Exported bounds of tiles, read by other libraries."""

import contextlib
import json
import sqlite3
import struct

import numpy as np
import pyarrow.parquet
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.edit import write_index
from gengeo_hf.index.export import export_tiles, geojson_lines
from gengeo_hf.index.manifest import Model
from gengeo_hf.index.segment import NewRows
from tests.stubs import ListSource, StubEncoder


@pytest.fixture
def fiji(tmp_path):
    """Tiles on both sides of the date line; one is removed, one has no bounds."""
    source = ListSource(lat=-17, lon=179.9995)
    for side in (3, 4, 5, 6):
        column = source.table.column(side).to_pylist()
        field = source.table.schema.field(side)
        source.table = source.table.set_column(side, field, [[None, *column[1:]]])
    index = GeoIndex.build(StubEncoder(), source, tmp_path / "idx")
    index.remove(["noise-5"])
    return index


def boxes(wkb):
    """Bounds (west, south, east, north) of a geometry in well-known binary; for a point its position twice."""
    kind = struct.unpack_from("<I", wkb, 1)[0]
    if kind == 1:
        return [struct.unpack_from("<dd", wkb, 5) * 2]
    starts = [0] if kind == 3 else [9 + 93 * n for n in range(struct.unpack_from("<I", wkb, 5)[0])]
    rings = [np.frombuffer(wkb, "<f8", 10, start + 13).reshape(5, 2) for start in starts]
    return [(*ring.min(axis=0), *ring.max(axis=0)) for ring in rings]


def expected(index):
    found = {}
    for row in index.tiles.to_pylist():
        box = [row[side] for side in ("west", "south", "east", "north")]
        if box[0] is None:
            found[row["tile_id"]] = [(row["lon"], row["lat"]) * 2]
        elif box[0] > box[2]:
            found[row["tile_id"]] = [(box[0], box[1], 180.0, box[3]), (-180.0, box[1], box[2], box[3])]
        else:
            found[row["tile_id"]] = [tuple(box)]
    return found


def check(found, index):
    wanted = expected(index)
    assert found.keys() == wanted.keys() and len(found) == 11
    assert {len(value) for value in wanted.values()} == {1, 2}
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-7)


def test_export_tiles_as_geoparquet(fiji, tmp_path, monkeypatch):
    monkeypatch.setattr("gengeo_hf.index.export.ROWS", 4)
    assert export_tiles(fiji, tmp_path / "tiles.parquet") == 11
    table = pyarrow.parquet.read_table(tmp_path / "tiles.parquet")
    assert json.loads(table.schema.metadata[b"geo"])["version"] == "1.1.0"
    check({row["tile_id"]: boxes(row["geometry"]) for row in table.to_pylist()}, fiji)


def test_export_tiles_as_geopackage(fiji, tmp_path):
    export_tiles(fiji, tmp_path / "tiles.gpkg")
    with sqlite3.connect(tmp_path / "tiles.gpkg") as file:
        assert file.execute("PRAGMA application_id").fetchone()[0] == 0x47504B47
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = file.execute("SELECT tile_id, geom FROM tiles").fetchall()
        systems = file.execute("SELECT srs_id FROM gpkg_geometry_columns").fetchall()
    file.close()
    assert systems == [(4326,)] and all(geom[:2] == b"GP" for _, geom in rows)
    check({name: boxes(geom[8:]) for name, geom in rows}, fiji)


def test_export_tiles_as_geojson(fiji, tmp_path):
    export_tiles(fiji, tmp_path / "tiles.geojson")
    features = json.loads((tmp_path / "tiles.geojson").read_text())["features"]

    def corners(geometry):
        if geometry["type"] == "Point":
            return [tuple(geometry["coordinates"]) * 2]
        rings = geometry["coordinates"] if geometry["type"] == "Polygon" else [c[0] for c in geometry["coordinates"]]
        return [(*np.min(ring, axis=0), *np.max(ring, axis=0)) for ring in rings]

    check({f["properties"]["tile_id"]: corners(f["geometry"]) for f in features}, fiji)


def test_export_tiles_with_an_unknown_suffix_raises_an_error(fiji, tmp_path):
    with pytest.raises(GenGeoError, match=r"\.shp"):
        export_tiles(fiji, tmp_path / "tiles.shp")
    assert not (tmp_path / "tiles.shp").exists()


def test_export_command_writes_files_that_rasterio_opens(fiji, gengeo, tmp_path):
    code, _, err = gengeo("info", fiji.path, "--export", tmp_path / "tiles.gpkg")
    assert code == 0, err
    assert gengeo("info", fiji.path, "--export", tmp_path / "tiles.shp")[0] == 1


@pytest.fixture
def three(tmp_path):
    """A tile with bounds, one across the date line, and one without bounds; names, areas and sources differ."""
    boxes = [Bounds(10.5, -3.25, 11.0, -3.0), Bounds(179.75, 16.0, -179.5, 16.5), None]
    table = tile_table(["a", "b", "c"], [-3.125, 16.25, 50.5], [10.75, -179.875, -7.25], boxes)
    for column, values in ((7, ["x", "y", "z"]), (8, ["s1", "s2", "s3"])):
        table = table.set_column(column, table.schema.field(column), [values])
    vectors = np.eye(3, 8)
    write_index(tmp_path / "three", NewRows(table, [vectors]), 8, Model("0" * 64))
    return GeoIndex.load(tmp_path / "three")


def polygon(west, south, east, north):
    """Well-known binary of a counter-clockwise polygon: little-endian, kind 3, one ring of five points."""
    return struct.pack("<BIII10d", 1, 3, 1, 5, west, south, east, south, east, north, west, north, west, south)


WKB = {
    "a": polygon(10.5, -3.25, 11.0, -3.0),
    "b": struct.pack("<BII", 1, 6, 2) + polygon(179.75, 16, 180, 16.5) + polygon(-180, 16, -179.5, 16.5),
    "c": struct.pack("<BIdd", 1, 1, -7.25, 50.5),
}


def test_export_tiles_as_geoparquet_has_exact_rows_and_metadata(three, tmp_path):
    export_tiles(three, tmp_path / "tiles.PARQUET")
    table = pyarrow.parquet.read_table(tmp_path / "tiles.PARQUET")
    assert {row.pop("tile_id"): row for row in table.to_pylist()} == {
        "a": {"area": "x", "source": "s1", "lat": -3.125, "lon": 10.75, "geometry": WKB["a"]},
        "b": {"area": "y", "source": "s2", "lat": 16.25, "lon": -179.875, "geometry": WKB["b"]},
        "c": {"area": "z", "source": "s3", "lat": 50.5, "lon": -7.25, "geometry": WKB["c"]},
    }
    geo = json.loads(table.schema.metadata[b"geo"])
    assert (geo["primary_column"], geo["columns"]["geometry"]["encoding"]) == ("geometry", "WKB")


def test_export_tiles_as_geopackage_has_the_header_and_tables_of_the_standard(three, tmp_path):
    """GeoPackage 1.3: magic GP, version 0, flags 1 (little-endian, no envelope), spatial reference 4326."""
    assert export_tiles(three, tmp_path / "tiles.gpkg") == 3
    with contextlib.closing(sqlite3.connect(tmp_path / "tiles.gpkg")) as file:
        rows = {row[0]: row[1:] for row in file.execute("SELECT tile_id, geom, area, source, lat, lon FROM tiles")}
        systems = file.execute("SELECT * FROM gpkg_spatial_ref_sys ORDER BY srs_id").fetchall()
        contents = file.execute("SELECT table_name, data_type, min_x, min_y, max_x, max_y, srs_id FROM gpkg_contents")
        contents, columns = contents.fetchall(), file.execute("SELECT * FROM gpkg_geometry_columns").fetchall()
        assert file.execute("PRAGMA user_version").fetchone() == (10300,)
    header = b"GP\x00\x01\xe6\x10\x00\x00"  # 4326 is 0x10e6
    assert rows == {
        "a": (header + WKB["a"], "x", "s1", -3.125, 10.75),
        "b": (header + WKB["b"], "y", "s2", 16.25, -179.875),
        "c": (header + WKB["c"], "z", "s3", 50.5, -7.25),
    }
    assert [row[:5] for row in systems[:2]] == [
        ("Undefined Cartesian", -1, "NONE", -1, "undefined"),
        ("Undefined geographic", 0, "NONE", 0, "undefined"),
    ]
    assert systems[2][:4] == ("WGS 84", 4326, "EPSG", 4326) and len(systems) == 3
    assert contents == [("tiles", "features", -180.0, -3.25, 180.0, 50.5, 4326)]  # the index crosses the date line
    assert columns == [("tiles", "geom", "GEOMETRY", 4326, 0, 0)]


def test_export_tiles_as_geopackage_states_the_bounds_of_the_index(three, tmp_path):
    three.remove(["b"])
    export_tiles(three, tmp_path / "tiles.gpkg")
    three.remove(["a", "c"])
    export_tiles(three, tmp_path / "none.gpkg")
    for name, bounds in (("tiles", (-7.25, -3.25, 11.0, 50.5)), ("none", (0.0, 0.0, 0.0, 0.0))):
        with contextlib.closing(sqlite3.connect(tmp_path / f"{name}.gpkg")) as file:
            found = file.execute("SELECT min_x, min_y, max_x, max_y FROM gpkg_contents").fetchone()
        assert found == pytest.approx(bounds)


def test_export_tiles_as_geojson_has_exact_features(three, tmp_path):
    ring = [[10.5, -3.25], [11.0, -3.25], [11.0, -3.0], [10.5, -3.0], [10.5, -3.25]]
    west = [[179.75, 16.0], [180.0, 16.0], [180.0, 16.5], [179.75, 16.5], [179.75, 16.0]]
    east = [[-180.0, 16.0], [-179.5, 16.0], [-179.5, 16.5], [-180.0, 16.5], [-180.0, 16.0]]
    export_tiles(three, tmp_path / "tiles.txt", kind=".geojson")
    found = json.loads((tmp_path / "tiles.txt").read_text())
    assert found["type"] == "FeatureCollection" and {f["type"] for f in found["features"]} == {"Feature"}
    assert {f["properties"]["tile_id"]: (f["geometry"], f["properties"]) for f in found["features"]} == {
        "a": ({"type": "Polygon", "coordinates": [ring]}, {"tile_id": "a", "area": "x", "source": "s1"}),
        "b": ({"type": "MultiPolygon", "coordinates": [[west], [east]]}, {"tile_id": "b", "area": "y", "source": "s2"}),
        "c": ({"type": "Point", "coordinates": [-7.25, 50.5]}, {"tile_id": "c", "area": "z", "source": "s3"}),
    }
    for line in list(geojson_lines(three))[1:-1]:
        assert line.count("\n") == line.startswith(",\n")  # one line for each feature


def test_export_tiles_rounds_coordinates_to_a_centimetre(tmp_path):
    box = Bounds(10.123456789, 1.0, 10.2, 1.00000004)
    table = tile_table(["a", "b"], [1.0, 2.0], [10.15, 10.15], [box, box])
    write_index(tmp_path / "idx", NewRows(table, [np.eye(2, 8)]), 8, Model("0" * 64))
    lines = list(geojson_lines(GeoIndex.load(tmp_path / "idx")))
    assert "[10.1234568, 1.0], [10.2, 1.0], [10.2, 1.0], [10.1234568, 1.0]" in lines[1]


def test_export_tiles_in_blocks_and_segments_omits_removed_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr("gengeo_hf.index.export.ROWS", 3)
    index = GeoIndex.build(StubEncoder(), ListSource(8), tmp_path / "idx")
    index.add(StubEncoder(), ListSource(4, "more", seed=1))
    index.remove(["noise-0", "noise-1", "noise-2", "noise-7", "more-2"])
    assert export_tiles(index, tmp_path / "tiles.json") == 7
    found = [f["properties"]["tile_id"] for f in json.loads((tmp_path / "tiles.json").read_text())["features"]]
    assert found == index.tiles["tile_id"].to_pylist() and len(found) == 7
