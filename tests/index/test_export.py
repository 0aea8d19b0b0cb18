"""Exported bounds of tiles, read by other libraries."""

import json
import sqlite3
import struct

import numpy as np
import pyarrow.parquet
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.export import export_tiles
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
