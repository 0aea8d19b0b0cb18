"""Cached regions: render a region, write it, and check it for damage.

Worker processes import this module, so it must not import torch or datasets.
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
from gengeo_hf.world.regions import CameraPosition, Region, Tile

VERTICAL_FOV = 70.0  # degrees of elevation of a panorama, see `panorama_rays`
TABLES = ("queries", "gallery")
_SMALL_PIXELS = 50_000  # images up to this size are PNG, larger ones JPEG of quality 95: a PNG is five times as large
_EDGE_SAMPLES = 2  # rays per pixel at edges in larger images; in small images 1 and 2 look the same


@dataclass(frozen=True)
class Job:
    """A region to render.

    Args:
        region: Region.
        count: Number of camera positions, from the first.
        ground_size, aerial_size: Image sizes (height, width) in pixels.
        folder: Directory to write.
    """

    region: Region
    count: int
    ground_size: tuple[int, int]
    aerial_size: tuple[int, int]
    folder: Path


def samples_for(size: tuple[int, int]) -> int:
    """Return the number of rays per pixel at edges for an image of size (height, width)."""
    return 1 if size[0] * size[1] <= _SMALL_PIXELS else _EDGE_SAMPLES


def encode(image: Any) -> bytes:
    """Encode an image, uint8 (h, w, 3), as PNG, or as JPEG above `_SMALL_PIXELS`."""
    buffer, picture = io.BytesIO(), Image.fromarray(image)
    if image.shape[0] * image.shape[1] <= _SMALL_PIXELS:
        picture.save(buffer, "PNG", compress_level=1)
    else:
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def draw_shard(job: Job, schemas: dict[str, pa.Schema], report: Callable[[float], None]) -> None:
    """Render the images of a region and write its directory atomically.

    Args:
        job: Region to render.
        schemas: Arrow schemas of `TABLES`.
        report: Called with the number of pairs (a fraction) that were rendered since the last call.
    """
    positions = job.region.camera_positions(job.count)
    tiles = job.region.tiles(positions)
    gallery = []
    for tile in tiles:
        gallery.append(_gallery_row(job, tile))
        report(0.5 * len(positions) / len(tiles))
    queries = []
    for position in positions:
        queries.append(_query_row(job, position))
        report(0.5)
    with atomic_folder(job.folder) as temporary:
        checks = {}
        for name, rows in zip(TABLES, (queries, gallery), strict=True):
            path = temporary / f"{name}.arrow"
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schemas[name]) as writer:
                writer.write_table(pa.Table.from_pylist(rows, schema=schemas[name]))
            checks[name] = {"rows": len(rows), "crc32": zlib.crc32(path.read_bytes())}
        write_json(temporary / "shard.json", checks)


def _query_row(job: Job, position: CameraPosition) -> dict[str, Any]:
    lat, lon = job.region.scene.frame.to_degrees(position.x, position.y)
    picture = job.region.draw_ground(position, job.ground_size, samples_for(job.ground_size))
    return {
        "query_id": f"{job.region.area}-{position.number:03d}-ground",
        "ground": {"bytes": encode(picture.image), "path": None},
        "positive": position.tiles[0].name,
        "semi_positives": [tile.name for tile in position.tiles[1:]],
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
    """Compare a cached region with the checksums that were written with it.

    Raises:
        GenGeoError: A file is missing, truncated or changed. The message names the directory to delete.
    """
    try:
        checks = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
        for name in TABLES:
            if zlib.crc32((folder / f"{name}.arrow").read_bytes()) != checks[name]["crc32"]:
                raise ValueError(f"{name}.arrow has changed since it was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GenGeoError(
            f"the cached world in {folder} is damaged ({error}); delete that directory and build again"
        ) from error
