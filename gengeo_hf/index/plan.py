"""Estimates the cost of an index of an area: tiles, imagery, encoding time, disk, memory, search time.

Disk and memory follow from the file formats; times were measured (benchmarks/results/bench_10m.json: 10,000, a million
and ten million tiles of 256 dimensions on two cores).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.plan import ImageryPlan, estimate_cells
from gengeo_hf.index.search import EXACT_LIMIT, FLAT_LIMIT, SCAN_ROWS

BYTES_A_PIXEL = 0.4  # JPEG imagery of a quality that shows streets and roofs
ROW_BYTES = 110  # row of a tile in the table, with names of about ten characters
THUMBNAIL_BYTES = 4000  # thumbnail of 128 pixels
PROCESS_MB = 80  # process that searches, without model and descriptors
FLAT_NS, HALF_NS, SCAN_NS = 0.15, 0.065, 0.012  # per dimension, tile and query on one core
EXACT_MS = 0.006  # factor of the square root of the tiles: exact scores of the best candidates, on one core


@dataclass(frozen=True)
class IndexPlan:
    """Estimates for one index.

    Args:
        area: Name of the area.
        tile_m: Side of a tile in metres; the smallest of several ground sizes.
        overlap: Overlap of neighbouring tiles, share of a side in [0, 1).
        dim: Number of values of a descriptor.
        tiles: Number of tiles.
        source_mb: Imagery in megabytes: download of a source by address, else JPEG at the resolution of the model.
        encode_hours: Hours of encoding at `tiles_per_second`; None if that is unknown.
        index_mb: Size on disk, megabytes.
        memory_mb: Memory of a process that searches, megabytes, without page cache and model.
        search_ms: Milliseconds for one query on two cores.
        tiles_per_second: Throughput of the encoder on all machines.
        imagery: Requests, minutes and hosts of a source by address; None for other imagery.
    """

    area: str
    tile_m: float
    overlap: float
    dim: int
    tiles: int
    source_mb: float
    encode_hours: float | None
    index_mb: float
    memory_mb: float
    search_ms: float
    tiles_per_second: float | None
    imagery: ImageryPlan | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        speed = f" at {self.tiles_per_second:g} tiles/s" if self.tiles_per_second else ""
        hours = "not known: give --throughput" if self.encode_hours is None else f"{self.encode_hours:,.2f} h{speed}"
        about = [
            f"area:         {self.area}",
            f"tiles:        {self.tiles:,} of {self.tile_m:g} m, overlap {self.overlap:.0%}, {self.dim} dimensions",
            f"imagery:      {self.source_mb:,.0f} MB",
        ]
        return "\n".join(
            [
                *(about if self.imagery is None else [str(self.imagery)]),
                f"encoding:     {hours}",
                f"index:        {self.index_mb:,.0f} MB on disk, {self.memory_mb:,.0f} MB of memory",
                f"search:       {self.search_ms:,.1f} ms for one query",
            ]
        )


def plan_index(
    area: Area,
    tile_m: float | Sequence[float],
    *,
    overlap: float = 0.5,
    dim: int = 1024,
    pixels: int = 392,
    thumbnails: bool = True,
    tiles_per_second: float | None = None,
    imagery: ImageryPlan | None = None,
) -> IndexPlan:
    """Estimate the cost of an index of an area, without downloads or encoding.

    Args:
        area: The area.
        tile_m: Side of a tile in metres, or several sides for tiles around each centre.
        overlap: Overlap of neighbouring tiles, share of a side in [0, 1).
        dim: Number of values of a descriptor.
        pixels: Side of a tile in the model, pixels.
        thumbnails: Whether thumbnails are stored.
        tiles_per_second: Throughput of the encoder on all machines; None if unknown.
        imagery: Plan of a source by address, with its tiles and requests.

    Raises:
        GenGeoError: A size, overlap or throughput is out of range.
    """
    sizes = sorted({tile_m} if isinstance(tile_m, int | float) else set(tile_m))
    tile_m = sizes[0]
    if tile_m <= 0 or not 0 <= overlap < 1 or (tiles_per_second is not None and tiles_per_second <= 0):
        raise GenGeoError(
            f"tiles of {tile_m:g} m, overlap {overlap:g}, {tiles_per_second} tiles/s: expected a size "
            "above 0, an overlap of at least 0 and below 1, and a speed above 0"
        )
    cells = max(1, round(estimate_cells(area, tile_m, overlap)))
    tiles = cells * len(sizes) if imagery is None else imagery.tiles
    jpeg_mb = area.area_m2 / (tile_m / pixels) ** 2 * BYTES_A_PIXEL / 1e6
    disk, memory = bytes_of(tiles, dim, thumbnails)
    return IndexPlan(
        area=str(area),
        tile_m=tile_m,
        overlap=overlap,
        dim=dim,
        tiles=tiles,
        source_mb=jpeg_mb if imagery is None else imagery.megabytes,
        encode_hours=None if tiles_per_second is None else tiles / tiles_per_second / 3600,
        index_mb=disk / 1e6,
        memory_mb=PROCESS_MB + memory / 1e6,
        search_ms=search_ms(tiles, dim),
        tiles_per_second=tiles_per_second,
        imagery=imagery,
    )


def bytes_of(tiles: int, dim: int, thumbnails: bool = True) -> tuple[float, float]:
    """Bytes of an index on disk, and in memory during a search.

    Args:
        tiles: Number of tiles.
        dim: Number of values of a descriptor.
        thumbnails: Whether thumbnails are stored.
    """
    scan = dim / 8 + 1 if tiles > EXACT_LIMIT else 0.0
    disk = tiles * (2 * dim + ROW_BYTES + 32 / 256 + scan + THUMBNAIL_BYTES * thumbnails)
    memory = tiles * (scan or (4 if tiles <= FLAT_LIMIT else 2) * dim)
    return disk, memory


def search_ms(tiles: int, dim: int) -> float:
    """Milliseconds for one query on two cores.

    Args:
        tiles: Number of tiles.
        dim: Number of values of a descriptor.
    """
    if tiles <= EXACT_LIMIT:
        return tiles * dim * (FLAT_NS if tiles <= FLAT_LIMIT else HALF_NS) / 1e6
    cores = 1 if tiles <= SCAN_ROWS else 2  # one core scans one file
    return EXACT_MS * math.sqrt(tiles) + tiles * dim * SCAN_NS / 1e6 / cores
