"""Estimates of tiles, requests, megabytes, minutes and hosts before the first tile of an area is requested.

They are used by `gengeo index --dry-run`, `gengeo plan` and `gengeo data make`. Source tiles are counted in chunks, so
that memory does not grow with the area.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.cells import cell_grids, count_cells
from gengeo_hf.imagery.grids import Level, TileGrid, is_web_mercator

CHUNK = 20_000  # tiles whose source tiles are counted at a time


@dataclass(frozen=True)
class ImageryPlan:
    """Estimate of the requests that a source needs for an area.

    Args:
        source: Name of the source, without secrets.
        area: Name of the area.
        tiles: Number of tiles of the index, all ground sizes together.
        source_tiles: Number of source tiles needed for them.
        requests: Number of requests for source tiles that are not in the cache.
        megabytes: Estimated megabytes of these requests.
        minutes: Estimated minutes at the limited request rate, without encoding.
        hosts: Names of the hosts that receive requests.
        zooms: Zoom level by ground size in metres.
        resolution_m: Ground sampling distance of the tiles in metres per pixel, by ground size in metres.
        attribution, licence, acquired: Rights and date; "" if unknown.
        asked_before: Number of requests that were sent to make this plan (capabilities, searches).
        notes: Notes for the user.
    """

    source: str
    area: str
    tiles: int
    source_tiles: int
    requests: int
    megabytes: float
    minutes: float
    hosts: tuple[str, ...] = ()
    zooms: dict[str, int] = field(default_factory=dict)
    resolution_m: dict[str, float] = field(default_factory=dict)
    attribution: str = ""
    licence: str = ""
    acquired: str = ""
    asked_before: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The values as plain types for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        sizes = ", ".join(
            f"{size} m: zoom {zoom}, {self.resolution_m[size]:.2f} m per pixel" for size, zoom in self.zooms.items()
        )
        lines = [
            f"source:       {self.source}",
            f"area:         {self.area}",
            f"tiles:        {self.tiles:,}" + (f" ({sizes})" if sizes else ""),
            f"source tiles: {self.source_tiles:,}, of which {self.source_tiles - self.requests:,} are in the cache",
            f"requests:     {self.requests:,} to {', '.join(self.hosts)}, about {self.megabytes:,.0f} MB",
            f"time:         about {format_minutes(self.minutes)} at the limited rate, without encoding",
            f"attribution:  {self.attribution or 'not stated'}",
            f"licence:      {self.licence or 'not stated'}",
            f"sent so far:  {self.asked_before} requests"
            + (" (capabilities or a search)" if self.asked_before else ""),
        ]
        return "\n".join([*lines, *(f"note:         {note}" for note in self.notes)])


def format_minutes(minutes: float) -> str:
    """Format a duration in seconds, minutes or hours, for example as `12 min`."""
    if minutes < 1:
        return f"{math.ceil(minutes * 60)} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def estimate_cells(area: Area, tile_m: float, overlap: float) -> float:
    """Estimated number of tiles that an area has.

    Args:
        area: The area.
        tile_m: Side of a tile in metres.
        overlap: Share of a tile that its neighbour repeats, in [0, 1).
    """
    stride = tile_m * (1 - overlap)
    return min(sum(count_cells(box, tile_m, stride) for box in area.boxes), area.area_m2 / stride**2 * 1.2 + 100)


def area_cells(area: Area, tile_m: float, overlap: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the tiles that touch an area.

    Args:
        area: The area.
        tile_m: Side of a tile in metres.
        overlap: Share of a tile that its neighbour repeats, in [0, 1).

    Returns:
        Latitudes and longitudes in degrees, each (tiles,).

    Raises:
        GenGeoError: No tile touches the area.
    """
    stride = tile_m * (1 - overlap)
    lat, lon = cell_grids(area.boxes, tile_m, stride)
    wanted = area.touches(lat, lon, stride)
    if not wanted.any():
        raise GenGeoError(f"{area} holds no tile of {tile_m:g} m")
    return lat[wanted], lon[wanted]


def estimate_source_tiles(grid: TileGrid, zoom: int, area: Area, tile_m: float) -> float:
    """Estimated number of source tiles that an area needs, computed from its size in square metres.

    Args:
        grid: Grid of the source tiles.
        zoom: Zoom level.
        area: The area.
        tile_m: Side of a tile in metres.
    """
    bounds = area.bounds
    lat = (bounds.south + bounds.north) / 2
    lon = float(area.boxes[:, 2:].mean())
    level = grid.level(zoom)
    side = grid.ground_resolution(level, lat, lon) * level.tile
    return (math.sqrt(area.area_m2) + tile_m) ** 2 / side**2


def check_size(area: Area, estimate: float, limit: int, zoom: int) -> None:
    """Check that an area does not need more source tiles than allowed.

    Args:
        area: The area.
        estimate: Estimated number of source tiles.
        limit: Maximum number of source tiles.
        zoom: Zoom level, for the message.

    Raises:
        GenGeoError: The estimate exceeds the limit.
    """
    if estimate > limit:
        raise GenGeoError(
            f"{area} needs about {estimate:,.0f} source tiles at zoom {zoom}, and {limit:,} are allowed: choose a "
            "smaller area, larger tiles (--tile) or a coarser --zoom, or raise --max-tiles"
        )


def source_tile_indices(
    grid: TileGrid, level: Level, lat: np.ndarray, lon: np.ndarray, tile_m: float
) -> Iterator[np.ndarray]:
    """Yield the source tiles that tiles need, in chunks.

    Args:
        grid, level: Grid and zoom level of the source tiles.
        lat, lon: Centres in degrees, (tiles,).
        tile_m: Side of a tile in metres.

    Yields:
        Column and row of source tiles, int64 (n, 2), unique within a chunk but not between chunks.
    """
    corner = tile_m / 2 * np.array([[-1, 1, -1, 1], [-1, -1, 1, 1]])
    for start in range(0, len(lat), CHUNK):
        maps = grid.affine_maps(level, lat[start : start + CHUNK], lon[start : start + CHUNK])
        points = maps[:, :, :2] @ corner + maps[:, :, 2:]
        points = points[np.isfinite(points).all(axis=(1, 2))]
        low = np.floor((points.min(axis=2) - 1) / level.tile).astype(np.int64)
        high = np.floor((points.max(axis=2) + 1) / level.tile).astype(np.int64)
        if not len(low):
            continue
        found = []
        for x in range(int((high - low)[:, 0].max()) + 1):
            for y in range(int((high - low)[:, 1].max()) + 1):
                index = low + np.array([x, y])
                found.append(index[(index <= high).all(axis=1)])
        yield _on_level(np.unique(np.concatenate(found), axis=0), level, is_web_mercator(grid.crs))


def _on_level(indices: np.ndarray, level: Level, wraps: bool) -> np.ndarray:
    """Indices that exist on a level; columns are taken modulo its width if the grid wraps around."""
    if wraps:
        indices[:, 0] %= level.columns
    inside = (indices >= 0).all(axis=1) & (indices[:, 0] < level.columns) & (indices[:, 1] < level.rows)
    return indices[inside]


def unique_indices(pieces: Sequence[np.ndarray] | Iterator[np.ndarray], level: Level) -> np.ndarray:
    """Unique indices of all chunks of `source_tile_indices`, int64 (n, 2)."""
    keys = np.zeros(0, np.int64)
    for piece in pieces:
        keys = np.union1d(keys, piece[:, 1] * level.columns + piece[:, 0])
    return np.stack([keys % level.columns, keys // level.columns], axis=1)
