"""What an index holds, in words: the report of a build, and what `gengeo info` prints.

Before: the parts of a `GeoIndex`. After: lines for people, and the tiles' boxes for a GIS.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gengeo_hf.common.geo import mean_position, size_of
from gengeo_hf.common.text import printable
from gengeo_hf.imagery.tiles import row_bounds

MOST = 5  # areas, sources and unreadable tiles that are named


def summary(path: Path, manifest: dict[str, Any], tiles: pa.Table, left_out: pa.Table) -> str:
    """Some fifteen lines: extent, tiles, model, search and its loss, left-out tiles, history.

    Args:
        path: folder of the index.
        manifest: what its manifest.json says.
        tiles: `TILE_SCHEMA`.
        left_out: `LEFT_OUT_SCHEMA`, tiles that could not be read.
    """
    count = tiles.num_rows
    files = sum(file["bytes"] for file in manifest["files"].values())
    model = manifest["model"]
    lines = [
        f"index        {path}, created {manifest.get('created', 'unknown')}",
        f"tiles        {count:,} of {manifest['dim']} dimensions, {files / 1e6:,.1f} MB"
        + (f", {files / count / 1000:.1f} kB a tile" if count else ""),
        f"model        {model.get('name') or 'unnamed'}, fingerprint {model['fingerprint'][:16]}"
        + (f", computed by {model['computed_by']}" if model.get("computed_by") else ""),
        f"search       {_search(manifest.get('search', {}))}",
    ]
    if count:
        lines += _ground(tiles)
    for column, word in (("area", "areas"), ("source", "sources")):
        lines += _most_frequent(tiles, column, word)
    if left_out.num_rows:
        lines.append(f"unreadable   {left_out.num_rows:,} tiles, all in left_out.parquet:")
        lines += [f"             {row['tile_id']}: {row['reason']}" for row in left_out.slice(0, MOST).to_pylist()]
    if build := manifest.get("build"):
        lines.append(
            f"build        {build['seconds']:.1f} s at {build['tiles_per_second']:.1f} tiles/s in its last run; "
            f"{build['no_data']:,} tiles without data, {build['broken_count']:,} unreadable"
        )
    for entry in manifest.get("history", []):
        details = [f"{key} {value}" for key, value in entry.items() if key not in ("when", "what") and value]
        lines.append(f"{entry['what']:<12} {entry['when']} {', '.join(details)}")
    return "\n".join(printable(line) for line in lines)  # names and ids are a stranger's


def footprints(tiles: pa.Table) -> str:
    """Tiles as GeoJSON (RFC 7946, WGS84): boxes, in two parts across the date line; points where none is known."""
    features = []
    for row, tile in enumerate(tiles.select(["tile_id", "lat", "lon", "area", "source"]).to_pylist()):
        box = row_bounds(tiles, row)
        if box is None:
            geometry = {"type": "Point", "coordinates": [tile["lon"], tile["lat"]]}
        elif box.crosses_date_line:
            parts = ((box.west, 180.0), (-180.0, box.east))
            rings = [[_ring(west, box.south, east, box.north)] for west, east in parts]
            geometry = {"type": "MultiPolygon", "coordinates": rings}
        else:
            geometry = {"type": "Polygon", "coordinates": [_ring(*box)]}
        properties = {key: tile[key] for key in ("tile_id", "area", "source")}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return json.dumps({"type": "FeatureCollection", "features": features}) + "\n"


def _ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    """A box as a closed ring, counter-clockwise."""
    corners = ((west, south), (east, south), (east, north), (west, north), (west, south))
    return [[round(lon, 7), round(lat, 7)] for lon, lat in corners]


def _search(search: dict) -> str:
    words = f"{search.get('kind', 'flat')} ({search.get('reason', 'exact')})"
    if "recall_at_1" in search:
        words += (
            f"; against exact search on {search['samples']} made-up queries: "
            f"recall@1 {search['recall_at_1']:.3f}, recall@10 {search['recall_at_10']:.3f}"
        )
    return words


def _ground(tiles: pa.Table) -> list[str]:
    """Extent and tile size."""
    lat, lon = tiles["lat"].to_numpy(), tiles["lon"].to_numpy()
    middle = mean_position(lat, lon)
    east = (lon - middle[1] + 180.0) % 360.0 - 180.0  # of the middle, so that the date line does not tear the extent
    west, far = ((middle[1] + value + 180.0) % 360.0 - 180.0 for value in (east.min(), east.max()))
    rows = np.unique(np.linspace(0, len(lat) - 1, 100).astype(int))
    sizes = [size_of(box) for row in rows if (box := row_bounds(tiles, int(row)))]
    size = "size unknown"
    if sizes:
        width, height = np.median(sizes, axis=0)
        size = f"{width:.0f} x {height:.0f} m each"
    extent = f"west {west:.5f}, south {lat.min():.5f}, east {far:.5f}, north {lat.max():.5f}"
    return [f"ground       {size}; centres {extent} (WGS84)"]


def _most_frequent(tiles: pa.Table, column: str, word: str) -> list[str]:
    """The most frequent values of a column."""
    counts = [(c["counts"], c["values"]) for c in pc.value_counts(tiles[column]).to_pylist() if c["values"]]
    if not counts:
        return []
    if len(counts) > 1 and max(counts)[0] == 1:  # a table: every tile is a file
        return [f"{word:<12} {len(counts):,} of one tile each, first {min(value for _, value in counts)}"]
    named = ", ".join(f"{value} ({number:,})" for number, value in sorted(counts, reverse=True)[:MOST])
    more = f" and {len(counts) - MOST:,} more" if len(counts) > MOST else ""
    return [f"{word:<12} {named}{more}"]
