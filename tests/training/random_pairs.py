"""A small data set for tests: both views of a pair have the same random pattern of colours."""

import io

import datasets
import numpy as np
from PIL import Image

from gengeo_hf.common.schema import GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def random_pairs(count, seed=0, name="random/train"):
    rng = np.random.default_rng(seed)
    queries, gallery = [], []
    for number in range(count):
        blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        aerial = np.kron(blocks, np.ones((14, 14, 1), dtype=np.uint8))
        ground = np.kron(blocks.reshape(1, 16, 3)[:, ::2].repeat(2, 0), np.ones((14, 14, 1), dtype=np.uint8))
        lat, lon = 10 + number * 1e-3, 20.0
        tile = f"tile-{seed}-{number}"
        queries.append(
            {
                "query_id": f"photo-{seed}-{number}",
                "ground": png(ground),
                "positive": tile,
                "semi_positives": [],
                "lat": lat,
                "lon": lon,
                "heading": 0.0,
                "fov": 360.0,
                "area": "a",
            }
        )
        gallery.append(
            {
                "tile_id": tile,
                "aerial": png(aerial),
                "lat": lat,
                "lon": lon,
                "west": None,
                "south": None,
                "east": None,
                "north": None,
                "area": "a",
            }
        )
    return CrossViewDataset(
        name,
        datasets.Dataset.from_list(queries, features=QUERY_FEATURES),
        datasets.Dataset.from_list(gallery, features=GALLERY_FEATURES),
    )


def load_random_pairs(name, root=None, split="train", **options):
    return random_pairs(48 if split == "train" else 16, seed=split == "train", name=f"random/{split}").validate()
