"""Small synthetic data sets for tests."""

import io

import datasets
import numpy as np
from PIL import Image

from gengeo_hf.common.schema import GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset


def encoded(array, fmt="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, fmt, **options)
    return file.getvalue()


def flat(colour, height, width):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def toy_dataset(count=12, ground=(28, 112), aerial=(56, 56), fov=360.0, broken=()):
    """Pairs whose photo and tile have one uniform colour that identifies the row."""
    queries, tiles = [], []
    for row in range(count):
        colour = (10 * row % 256, (255 - 10 * row) % 256, 7 * row % 256)
        picture = encoded(flat(colour, *ground))
        queries.append(
            {
                "query_id": f"q{row}",
                "ground": {"bytes": b"nothing" if row in broken else picture, "path": None},
                "positive": f"t{row}",
                "semi_positives": [],
                "lat": 60.0 + row / 1000,
                "lon": 24.0,
                "heading": 0.0,
                "fov": fov,
                "area": "here",
            }
        )
        tiles.append(
            {
                "tile_id": f"t{row}",
                "aerial": {"bytes": encoded(flat(colour, *aerial)), "path": None},
                "lat": 60.0 + row / 1000,
                "lon": 24.0,
                "west": None,
                "south": None,
                "east": None,
                "north": None,
                "area": "here",
            }
        )
    tiles = tiles[::-1]  # rows of the two tables differ, so that pairing by row instead of id fails
    return CrossViewDataset(
        "toy/train",
        datasets.Dataset.from_list(queries, features=QUERY_FEATURES),
        datasets.Dataset.from_list(tiles, features=GALLERY_FEATURES),
    )
