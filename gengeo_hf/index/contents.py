"""Summaries of tiles for a manifest: bounds, sizes on the ground, tiles of each source."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gengeo_hf.common.geo import metres_per_degree
from gengeo_hf.index.manifest import Contents, Manifest, Source, TileSize

SIDES = ("west", "south", "east", "north")
MOST_SOURCES = 1000  # listed sources of a segment; in some tables each tile is a file
MOST_SIZES = 5


def contents_of(tiles: pa.Table) -> Contents:
    """Compute bounds, sizes and sources of tiles.

    Args:
        tiles: Table with the columns of `TILE_SCHEMA` and at least one row.
    """
    lat, lon, *sides = (tiles[name].to_numpy() for name in ("lat", "lon", *SIDES))
    counts = [(item["values"] or "", item["counts"]) for item in pc.value_counts(tiles["source"]).to_pylist()]
    most = sorted(counts, key=lambda item: (-item[1], item[0]))[:MOST_SOURCES]
    return Contents(_box(lat, lon, *sides), _sizes(*sides), dict(most))


def _box(
    lat: np.ndarray, lon: np.ndarray, west: np.ndarray, south: np.ndarray, east: np.ndarray, north: np.ndarray
) -> list[float]:
    """Smallest bounds that contain all bounds, and the centres of tiles without bounds."""
    known = np.isfinite(west)
    west, east = np.where(known, west, lon), np.where(known, east, lon)
    south, north = np.where(known, south, lat).min(), np.where(known, north, lat).max()
    start = float(west[0])
    left = (west - start + 180.0) % 360.0 - 180.0  # relative to the first tile, so that bounds may cross the date line
    right = left + (east - west) % 360.0
    if np.any(known & (east - west >= 360.0)) or right.max() - left.min() >= 360.0:
        return [-180.0, float(south), 180.0, float(north)]
    edges = [(start + value + 180.0) % 360.0 - 180.0 for value in (float(left.min()), float(right.max()))]
    return [edges[0], float(south), 180.0 if edges[1] == -180.0 else edges[1], float(north)]


def _sizes(west: np.ndarray, south: np.ndarray, east: np.ndarray, north: np.ndarray) -> list[TileSize]:
    """Most frequent sizes on the ground, rounded to 0.1 m."""
    known = np.isfinite(west)
    if not known.any():
        return []
    west, south, east, north = (side[known] for side in (west, south, east, north))
    per_lat, per_lon = metres_per_degree((south + north) / 2)
    tenths = [
        np.rint(10 * extent).astype(np.int64) for extent in ((east - west) % 360.0 * per_lon, (north - south) * per_lat)
    ]
    kinds, counts = np.unique((tenths[0] << 32) | tenths[1], return_counts=True)
    most = np.argsort(-counts, kind="stable")[:MOST_SIZES]
    return [
        TileSize(int(k >> 32) / 10, int(k & 0xFFFFFFFF) / 10, int(c))
        for k, c in zip(kinds[most], counts[most], strict=True)
    ]


def with_totals(manifest: Manifest) -> Manifest:
    """Return a manifest with bounds, tile sizes and sources computed from its segments.

    Args:
        manifest: Manifest whose `sources` hold the rights of each source.
    """
    parts = [segment.contents for segment in manifest.segments]
    sizes: dict[tuple[float, float], int] = {}
    for size in (size for part in parts for size in part.tile_sizes):
        sizes[size.width_m, size.height_m] = sizes.get((size.width_m, size.height_m), 0) + size.tiles
    most = sorted(sizes.items(), key=lambda item: -item[1])[:MOST_SIZES]
    return replace(
        manifest,
        bounds=_union([part.bounds for part in parts]),
        tile_sizes=[TileSize(width, height, count) for (width, height), count in most],
        sources=_sources(manifest, [part.sources for part in parts]),
    )


def _union(boxes: Sequence[list[float]]) -> list[float] | None:
    """Smallest bounds that contain some bounds."""
    if not boxes:
        return None
    west, south, east, north = (np.array(side) for side in zip(*boxes, strict=True))
    middle = np.full(len(boxes), np.nan)
    return _box(middle, middle, west, south, east, north)


def _sources(manifest: Manifest, counts: Sequence[dict[str, int]]) -> list[Source]:
    """Number of tiles and rights of each source, those with most tiles first."""
    known = {source.name: source for source in manifest.sources}
    total: dict[str, int] = {}
    for name, count in (item for part in counts for item in part.items()):
        total[name] = total.get(name, 0) + count
    most = sorted(total.items(), key=lambda item: (-item[1], item[0]))[:MOST_SOURCES]
    found = [replace(known.get(name, Source(name)), tiles=count) for name, count in most]
    if rest := manifest.tiles - sum(source.tiles for source in found):
        names = {source.name for source in found}
        found += [replace(source, tiles=rest) for source in manifest.sources if source.name not in names][-1:]
    return found
