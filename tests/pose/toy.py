"""Pairs of smooth random colours: a tile and a panorama of the same colour field."""

import io

import datasets
import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from gengeo_hf.common.geo import bounds_around, offset
from gengeo_hf.common.schema import GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset

SIDE_M, GRAIN_M = 60.0, 8.0
GROUND, AERIAL = (28, 112), (56, 56)


def field(rng, side_m=SIDE_M):
    """Colours on a square of twice the tile's side, one value every `GRAIN_M` metres."""
    count = int(2 * side_m / GRAIN_M) + 2
    return 127 + 60 * rng.normal(size=(3, count, count))


def sampled(colours, east, north, side_m=SIDE_M):
    rows, columns = (side_m - north) / GRAIN_M, (side_m + east) / GRAIN_M
    return np.stack([map_coordinates(band, [rows, columns], order=1, mode="nearest") for band in colours], -1)


def tile(colours, size=AERIAL, side_m=SIDE_M):
    east = ((np.arange(size[1]) + 0.5) / size[1] - 0.5) * side_m
    north = (0.5 - (np.arange(size[0]) + 0.5) / size[0]) * side_m
    return _picture(sampled(colours, *np.meshgrid(east, north), side_m))


def panorama(colours, east, north, heading=0.0, size=GROUND, side_m=SIDE_M):
    azimuth = np.radians(((np.arange(size[1]) + 0.5) / size[1] - 0.5) * 360 + heading)
    distance = np.linspace(25.0, 3.0, size[0])[:, None]  # the bottom row is near
    return _picture(sampled(colours, east + distance * np.sin(azimuth), north + distance * np.cos(azimuth), side_m))


def _picture(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def toy_pairs(count=120, seed=0, shift_m=0.0, side_m=SIDE_M, **changes):
    """`count` pairs; `shift_m` moves photos off their tile's centre; `changes` overwrite columns of the queries."""
    rng = np.random.default_rng(seed)
    queries, gallery = [], []
    for number in range(count):
        colours, (east, north) = field(rng, side_m), rng.uniform(-shift_m, shift_m, 2) if shift_m else (0.0, 0.0)
        lat, lon = 47.0 + number * 0.01, 8.0
        where = offset(lat, lon, east, north)
        name = f"place-{number:03d}"
        area = f"area-{number // 10}"
        queries.append(
            {
                "query_id": name,
                "ground": encoded(panorama(colours, east, north, side_m=side_m)),
                "positive": name,
                "semi_positives": [],
                "lat": float(where[0]),
                "lon": float(where[1]),
                "heading": 0.0,
                "fov": 360.0,
                "area": area,
            }
            | changes
        )
        west, south, e, n = bounds_around(lat, lon, side_m, side_m)
        gallery.append(
            {
                "tile_id": name,
                "aerial": encoded(tile(colours, side_m=side_m)),
                "lat": lat,
                "lon": lon,
                "west": west,
                "south": south,
                "east": e,
                "north": n,
                "area": area,
            }
        )
    tables = (
        datasets.Dataset.from_list(rows, features=features)
        for rows, features in ((queries, QUERY_FEATURES), (gallery, GALLERY_FEATURES))
    )
    return CrossViewDataset("toy", *tables).validate()
