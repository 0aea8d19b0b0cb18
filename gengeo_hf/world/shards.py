"""Stored regions: draw one, write it, read it back, notice damage.

A worker process imports this file, so it must stay light: no torch, no datasets.
"""

import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, write_json
from gengeo_hf.world.places import CameraPlace, Region, Tile

VERTICAL_FOV = 70.0  # degrees of elevation that a panorama shows, see `panorama_rays`
TABLES = ("queries", "gallery")
_SMALL_PIXELS = 50_000  # up to here PNG; above, JPEG at quality 95: a noisy PNG is five times as large
_EDGE_SAMPLES = 2  # rays of a pixel on an edge in larger pictures; in small ones the eye cannot tell 2 from 1


@dataclass(frozen=True)
class Job:
    """One region to draw: its first `count` places, into `folder`; sizes are (height, width) in pixels."""

    region: Region
    count: int
    ground_size: tuple[int, int]
    aerial_size: tuple[int, int]
    folder: Path


def samples_for(size: tuple[int, int]) -> int:
    """Rays for each pixel on an edge of a picture of this (height, width)."""
    return 1 if size[0] * size[1] <= _SMALL_PIXELS else _EDGE_SAMPLES


def encode(image: Any) -> bytes:
    """A picture (h, w, 3) uint8 as PNG, or as JPEG where that would be large."""
    buffer, picture = io.BytesIO(), Image.fromarray(image)
    if image.shape[0] * image.shape[1] <= _SMALL_PIXELS:
        picture.save(buffer, "PNG", compress_level=1)
    else:
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def draw_shard(job: Job, schemas: dict[str, pa.Schema], tell: Callable[[float], None]) -> None:
    """Draw a region's pictures and write its folder in one step.

    Args:
        job: what to draw.
        schemas: Arrow schemas of `TABLES`.
        tell: called with the share of a pair that has been drawn, for progress bars.
    """
    places = job.region.places(job.count)
    tiles = job.region.tiles(places)
    gallery = []
    for tile in tiles:
        gallery.append(_gallery_row(job, tile))
        tell(0.5 * len(places) / len(tiles))
    queries = []
    for place in places:
        queries.append(_query_row(job, place))
        tell(0.5)
    with atomic_folder(job.folder) as temporary:
        checks = {}
        for name, rows in zip(TABLES, (queries, gallery), strict=True):
            path = temporary / f"{name}.arrow"
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schemas[name]) as writer:
                writer.write_table(pa.Table.from_pylist(rows, schema=schemas[name]))
            checks[name] = {"rows": len(rows), "crc32": zlib.crc32(path.read_bytes())}
        write_json(temporary / "shard.json", checks)


def _query_row(job: Job, place: CameraPlace) -> dict[str, Any]:
    lat, lon = job.region.scene.frame.to_degrees(place.x, place.y)
    picture = job.region.draw_ground(place, job.ground_size, samples_for(job.ground_size))
    return {
        "query_id": f"{job.region.area}-{place.number:03d}-ground",
        "ground": {"bytes": encode(picture.image), "path": None},
        "positive": place.tiles[0].name,
        "semi_positives": [tile.name for tile in place.tiles[1:]],
        "lat": float(lat),
        "lon": float(lon),
        "heading": 0.0,
        "fov": 360.0,
        "area": job.region.area,
    }


def _gallery_row(job: Job, tile: Tile) -> dict[str, Any]:
    frame = job.region.scene.frame
    lat, lon = frame.to_degrees(tile.x, tile.y)
    half = job.region.tile_m / 2
    west, south, east, north = frame.bounds(tile.x, tile.y, half, half)
    picture = job.region.draw_aerial(tile, job.aerial_size, samples_for(job.aerial_size))
    return {
        "tile_id": tile.name,
        "aerial": {"bytes": encode(picture.image), "path": None},
        "lat": float(lat),
        "lon": float(lon),
        "west": west,
        "south": south,
        "east": east,
        "north": north,
        "area": job.region.area,
    }


def check_shard(folder: Path) -> None:
    """Compare a stored region with the sums that were written beside it.

    Raises:
        GenGeoError: a file is missing, cut short or changed; says what to delete.
    """
    try:
        checks = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
        for name in TABLES:
            if zlib.crc32((folder / f"{name}.arrow").read_bytes()) != checks[name]["crc32"]:
                raise ValueError(f"{name}.arrow has changed since it was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GenGeoError(
            f"the cached world in {folder} is damaged ({error}); delete that folder and build again"
        ) from error
