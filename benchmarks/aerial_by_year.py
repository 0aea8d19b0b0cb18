"""Indexing and search on real imagery: tiles of one year are searched in an index of another year.

    python benchmarks/aerial_by_year.py --gallery "naip/*_2018_*.tif" --queries "naip/*_2020_*.tif" --model CHECKPOINT

Rasters are tiled, encoded as aerial views, indexed on disk, loaded and searched; a query is right if the best tile
covers the same ground. Needs georeferenced rasters of the same area from two dates. Without --model a small model with
random weights is used, which only tests the code path and untrained features. A colour histogram is the baseline that a
model must exceed.
"""

import argparse
import glob
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.imagery.raster import RasterTiles
from gengeo_hf.index import GeoIndex

HIDDEN, LAYERS, PATCH, SIDE = 96, 4, 14, 126  # size of the model with random weights; SIDE is in pixels


class Histogram:
    """Colour histograms of a tile in 4 x 4 fields, as a descriptor without learning."""

    dim, batch_size, fingerprint = 4 * 4 * 3 * 8, 64, "colour histogram in 4 x 4 fields"

    def encode(self, images: list[Image.Image], view: str) -> np.ndarray:
        rows = []
        for image in images:
            fields = np.asarray(image.resize((64, 64))).reshape(4, 16, 4, 16, 3).transpose(0, 2, 4, 1, 3)
            rows.append([np.histogram(f, 8, (0, 256))[0] for f in fields.reshape(48, -1)])
        vectors = np.sqrt(np.array(rows, np.float32).reshape(len(rows), -1))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def random_model(seed: int):  # noqa: ANN201
    """A small model with random weights."""
    import torch

    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    torch.manual_seed(seed)
    backbone = {
        "model_type": "dinov2",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "mlp_ratio": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    config = GenGeoConfig(
        backbone_config=backbone,
        num_clusters=16,
        cluster_dim=32,
        token_dim=32,
        head_hidden_dim=64,
        descriptor_dim=256,
        trainable_blocks=None,
    )
    sizes = {"ground": {"height": SIDE, "width": SIDE}, "aerial": {"height": SIDE, "width": SIDE}}
    return Encoder(GenGeoModel(config).eval(), GenGeoImageProcessor(view_sizes=sizes), device="cpu", batch_size=16)


def measure(encoder, gallery: RasterTiles, queries: RasterTiles, name: str) -> dict:  # noqa: ANN001
    """Build, load and search an index; returns recall@1 and @5, and the median error in metres."""
    images, lat, lon = [], [], []
    for row in range(queries.table.num_rows):
        if (tile := queries.read(row)) is not None:
            images.append(tile)
            lat.append(queries.table["lat"][row].as_py())
            lon.append(queries.table["lon"][row].as_py())
    with tempfile.TemporaryDirectory() as folder:
        GeoIndex.build(encoder, gallery, Path(folder) / "year.gengeo")
        index = GeoIndex.load(Path(folder) / "year.gengeo")
        found = index.search(np.concatenate([encoder.encode([image], view="aerial") for image in images]), 5)
        count = len(index)
        near = gallery._tile_m / 2  # tiles that overlap by more than half along each axis show the same ground
        errors = np.array(
            [
                [great_circle_m(hit.lat, hit.lon, a, b) for hit in hits]
                for hits, a, b in zip(found, lat, lon, strict=True)
            ]
        )
    return {
        "model": name,
        "tiles": count,
        "queries": len(images),
        "recall_at_1": float((errors[:, 0] < near).mean()),
        "recall_at_5": float((errors < near).any(axis=1).mean()),
        "median_error_m": float(np.median(errors[:, 0])),
        "chance_at_1": 1 / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", required=True, help="pattern of the rasters of one date")
    parser.add_argument("--queries", required=True, help="pattern of the rasters of another date")
    parser.add_argument("--model", help="checkpoint directory or Hub id; default: random weights")
    parser.add_argument("--seeds", type=int, default=3, help="number of models with random weights")
    parser.add_argument("--tile", type=float, default=50.0, help="side of a tile, metres")
    parser.add_argument("--overlap", type=float, default=0.0)
    arguments = parser.parse_args()
    sources = [
        RasterTiles(sorted(glob.glob(pattern)), arguments.tile, arguments.overlap)  # noqa: PTH207  # the user gives a pattern
        for pattern in (arguments.gallery, arguments.queries)
    ]
    print(json.dumps(measure(Histogram(), *sources, "colour histogram")))
    if arguments.model:
        from gengeo_hf.encoding.encoder import Encoder

        print(json.dumps(measure(Encoder.from_pretrained(arguments.model), *sources, arguments.model)))
    else:
        for seed in range(arguments.seeds):
            print(json.dumps(measure(random_model(seed), *sources, f"random weights, seed {seed}")), flush=True)


if __name__ == "__main__":
    main()
