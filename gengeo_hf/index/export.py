"""Exports the bounds of tiles as GeoJSON (RFC 7946), GeoParquet 1.1 or GeoPackage 1.3, in blocks.

Bounds across the date line become two polygons; tiles without bounds become points. WGS84, longitude first.
"""

import contextlib
import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file
from gengeo_hf.index.index import GeoIndex

ROWS = 65_536  # rows of a block
COLUMNS = ("tile_id", "area", "source")
SUFFIXES = (".geojson", ".parquet", ".gpkg")
_POLYGON = np.dtype([("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("ring", "<f8", (5, 2))])
_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433],AUTHORITY["EPSG","4326"]]'
)


def export_tiles(index: GeoIndex, path: str | Path, kind: str | None = None) -> int:
    """Write the bounds of all tiles.

    Args:
        index: The index.
        path: File to write; `-` is stdout.
        kind: ".geojson", ".parquet" or ".gpkg"; None takes the suffix of `path`, and GeoJSON for stdout.

    Returns:
        Number of written tiles.

    Raises:
        GenGeoError: The suffix is not supported.
    """
    kind = kind or (".geojson" if str(path) == "-" else Path(path).suffix.lower())
    writers = {".geojson": _write_geojson, ".json": _write_geojson, ".parquet": _write_parquet, ".gpkg": _write_gpkg}
    if kind not in writers:
        raise GenGeoError(f"{path} has the suffix {kind!r}, expected {', '.join(SUFFIXES)}")
    with atomic_file(path) as temporary:
        writers[kind](index, temporary)
    return len(index)


def geojson_lines(index: GeoIndex) -> Iterator[str]:
    """Yield the GeoJSON of all tiles, one line for each feature."""
    yield '{"type": "FeatureCollection", "features": [\n'
    separator = ""
    for batch in _batches(index):
        boxes, centres = _sides(batch)
        names = [batch[name].to_pylist() for name in COLUMNS]
        for box, centre, *values in zip(boxes.tolist(), centres.tolist(), *names, strict=True):
            properties = dict(zip(COLUMNS, values, strict=True))
            feature = {"type": "Feature", "geometry": _geometry(box, centre), "properties": properties}
            yield separator + json.dumps(feature)
            separator = ",\n"
    yield "\n]}\n"


def _batches(index: GeoIndex) -> Iterator[pa.Table]:
    """Yield live tiles in blocks of at most `ROWS` rows."""
    for segment in index.segments:
        for start in range(0, segment.record.tiles, ROWS):
            batch = segment.tiles.slice(start, ROWS)
            if segment.dead is not None:
                batch = batch.filter(pa.array(~segment.dead[start : start + ROWS]))
            if len(batch):
                yield batch


def _sides(batch: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (rows, 4) as west, south, east, north, NaN if unknown; centres (rows, 2), longitude first."""
    boxes = np.stack([batch[side].to_numpy() for side in ("west", "south", "east", "north")], axis=1)
    return boxes, np.stack([batch["lon"].to_numpy(), batch["lat"].to_numpy()], axis=1)


def _ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    """Closed counter-clockwise ring of bounds."""
    corners = ((west, south), (east, south), (east, north), (west, north), (west, south))
    return [[round(lon, 7), round(lat, 7)] for lon, lat in corners]


def _parts(box: list[float]) -> list[tuple[float, float, float, float]]:
    """Split bounds into one or two parts that do not cross the date line."""
    west, south, east, north = box
    if west <= east:
        return [(west, south, east, north)]
    return [(west, south, 180.0, north), (-180.0, south, east, north)]


def _geometry(box: list[float], centre: list[float]) -> dict[str, Any]:
    if box[0] != box[0]:  # NaN: no bounds
        return {"type": "Point", "coordinates": centre}
    rings = [[_ring(*part)] for part in _parts(box)]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def _write_geojson(index: GeoIndex, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(geojson_lines(index))


def _wkb(boxes: np.ndarray, centres: np.ndarray) -> list[bytes]:
    """Encode geometries as little-endian well-known binary."""
    west, south, east, north = boxes.T
    shapes = np.zeros(len(boxes), _POLYGON)
    shapes["order"], shapes["kind"], shapes["rings"], shapes["points"] = 1, 3, 1, 5
    shapes["ring"] = np.stack(
        [
            np.stack(corner, axis=1)
            for corner in ((west, south), (east, south), (east, north), (west, north), (west, south))
        ],
        axis=1,
    )
    size, content = _POLYGON.itemsize, shapes.tobytes()
    found = [content[start : start + size] for start in range(0, len(content), size)]
    for row in np.flatnonzero(np.isnan(west)):
        found[row] = struct.pack("<BIdd", 1, 1, *centres[row])
    for row in np.flatnonzero(west > east):
        rings = [np.array(_ring(*part)).tobytes() for part in _parts(boxes[row].tolist())]
        members = b"".join(struct.pack("<BIII", 1, 3, 1, 5) + ring for ring in rings)
        found[row] = struct.pack("<BII", 1, 6, len(rings)) + members
    return found


def _write_parquet(index: GeoIndex, path: Path) -> None:
    column = {
        "encoding": "WKB",
        "geometry_types": ["Point", "Polygon", "MultiPolygon"],
        "orientation": "counterclockwise",
        "edges": "planar",
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}  # CRS: OGC:CRS84
    fields = [pa.field(name, pa.string()) for name in COLUMNS]
    fields += [pa.field(name, pa.float64()) for name in ("lat", "lon")] + [pa.field("geometry", pa.binary())]
    schema = pa.schema(fields, metadata={"geo": json.dumps(geo)})
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(index):
            shapes = pa.array(_wkb(*_sides(batch)), pa.binary())
            columns = [batch[name] for name in (*COLUMNS, "lat", "lon")]
            writer.write_table(pa.table([*columns, shapes], schema=schema))


def _write_gpkg(index: GeoIndex, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.executescript(_GPKG_SCHEMA)
        systems = [
            ("Undefined Cartesian", -1, "NONE", -1, "undefined"),
            ("Undefined geographic", 0, "NONE", 0, "undefined"),
            ("WGS 84", 4326, "EPSG", 4326, _WGS84),
        ]
        file.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)", systems)
        west, south, east, north = index.manifest.bounds or [0.0] * 4
        if west > east:  # GeoPackage has no bounds across the date line
            west, east = -180.0, 180.0
        file.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, min_x, min_y, max_x, max_y, "
            "srs_id) VALUES ('tiles', 'features', 'tiles', 'tiles of a GenGeo index', ?, ?, ?, ?, 4326)",
            (west, south, east, north),
        )
        file.execute("INSERT INTO gpkg_geometry_columns VALUES ('tiles', 'geom', 'GEOMETRY', 4326, 0, 0)")
        header = b"GP" + struct.pack("<BBi", 0, 1, 4326)  # version, little-endian without an envelope, system
        for batch in _batches(index):
            shapes = (header + shape for shape in _wkb(*_sides(batch)))
            columns = [batch[name].to_pylist() for name in (*COLUMNS, "lat", "lon")]
            rows = zip(shapes, *columns, strict=True)
            file.executemany(
                "INSERT INTO tiles (geom, tile_id, area, source, lat, lon) VALUES (?, ?, ?, ?, ?, ?)", rows
            )


_GPKG_SCHEMA = """
PRAGMA application_id = 0x47504B47;
PRAGMA user_version = 10300;
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
    organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
    description TEXT DEFAULT '', last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
    FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL, geometry_type_name TEXT
    NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,
    PRIMARY KEY (table_name, column_name));
CREATE TABLE tiles (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom BLOB, tile_id TEXT, area TEXT, source TEXT,
    lat DOUBLE, lon DOUBLE);
"""
