"""What an index of an area will cost: tiles, bytes of imagery, hours of encoding, disk, memory, milliseconds a query.

The figures for disk and memory are those of the file formats; those for time were measured (benchmarks/results/
bench_10m.json: 10,000, a million and ten million tiles of 256 dimensions on two cores).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.plan import ImageryPlan, estimate_cells
from gengeo_hf.index.search import EXACT_LIMIT, FLAT_LIMIT

BYTES_A_PIXEL = 0.4  # of JPEG imagery at a quality that keeps streets and roofs
ROW_BYTES = 110  # of a tile in the table, with names of some ten letters
THUMBNAIL_BYTES = 4000  # of 128 pixels
PROCESS_MB = 80  # of a process that searches, without the model
FLAT_NS, HALF_NS, SCAN_NS = 0.15, 0.065, 0.012  # for each dimension of each tile and one query on one core
EXACT_MS = 0.006  # times the square root of the tiles: the exact scores of the best candidates, on one core


@dataclass(frozen=True)
class IndexPlan:
    """Estimates for one index.

    Args:
        area: What the area is called.
        tile_m, overlap: How it is cut; the smallest of several ground sizes.
        dim: Length of a descriptor.
        tiles: Tiles of the index.
        source_mb: Imagery in megabytes: what a source by address will send, or JPEG at the resolution of the model.
        encode_hours: At `tiles_per_second`; None where that is not known.
        index_mb: On disk.
        memory_mb: Of a process that searches, without page cache and model.
        search_ms: For one query on two cores.
        tiles_per_second: Of the encoder, all machines together.
        imagery: Requests, minutes and hosts of a source by address; None for imagery in general.
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
        """The plan as JSON takes it."""
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
    """Estimate what an index of an area costs; nothing is downloaded or encoded.

    Args:
        area: Where.
        tile_m: Side of a tile on the ground in metres, or several around each centre.
        overlap: Share of a tile that its neighbour repeats, in [0, 1).
        dim: Length of a descriptor.
        pixels: Side of a tile as the model sees it.
        thumbnails: Whether small pictures for maps are kept.
        tiles_per_second: Of the encoder, all machines together.
        imagery: The plan of a source by address, which knows its tiles and requests.

    Raises:
        GenGeoError: A size, an overlap or a throughput that cannot be.
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
    """Bytes of an index on disk, and of what a search holds in memory.

    Args:
        tiles: Of the index.
        dim: Length of a descriptor.
        thumbnails: Whether small pictures are kept.
    """
    scan = dim / 8 + 1 if tiles > EXACT_LIMIT else 0.0
    disk = tiles * (2 * dim + ROW_BYTES + 32 / 256 + scan + THUMBNAIL_BYTES * thumbnails)
    memory = tiles * (scan or (4 if tiles <= FLAT_LIMIT else 2) * dim)
    return disk, memory


def search_ms(tiles: int, dim: int) -> float:
    """Milliseconds for one query on two cores.

    Args:
        tiles: Of the index.
        dim: Length of a descriptor.
    """
    if tiles <= EXACT_LIMIT:
        return tiles * dim * (FLAT_NS if tiles <= FLAT_LIMIT else HALF_NS) / 1e6
    cores = 1 if tiles <= 2_097_152 else 2  # one file of a scan is read by one core
    return EXACT_MS * math.sqrt(tiles) + tiles * dim * SCAN_NS / 1e6 / cores
