"""Small encoders with pose heads of random weights, which need no fit."""

import numpy as np
import torch
from PIL import Image

from gengeo_hf.common.geo import bounds_around, offset
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index import Hit
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from gengeo_hf.pose.head import PoseConfig, PoseHead
from gengeo_hf.pose.tokens import encoder_fingerprint

SIZES = {"ground": {"height": 28, "width": 112}, "aerial": {"height": 56, "width": 42}}


def small_encoder(camera="panorama"):
    """An encoder with 2 x 8 ground patches and 4 x 3 aerial patches."""
    from tests.conftest import TINY

    torch.manual_seed(0)
    model = GenGeoModel(GenGeoConfig(**TINY, position_init_std=0.5, ground_camera=camera))
    return Encoder(model, GenGeoImageProcessor(view_sizes=SIZES), device="cpu")


def small_head(encoder, prior="known", seed=1, **more):
    """A head with random weights of two rows."""
    torch.manual_seed(seed)
    fitted_on = encoder_fingerprint(encoder)
    config = PoseConfig(32, 2, 4, 8, prior, step_m=6.0, encoder=fitted_on, radius_edges_m=(8.0,), **more)
    head = PoseHead(config).eval()
    with torch.no_grad():
        head.row_weights.normal_()
        head.log_scale.fill_(4.0)
    return head


class Tiles:
    """Tiles of noise in a row to the east; those of `empty` hold no data."""

    def __init__(self, count, empty=(), size_m=(60.0, 60.0)):
        rng = np.random.default_rng(3)
        self.images = [Image.fromarray(rng.integers(0, 255, (56, 42, 3), np.uint8)) for _ in range(count)]
        self.empty, self.reads = set(empty), []
        lat, lon = offset(60.0, 25.0, np.arange(count) * 100.0, 0.0)
        boxes = [bounds_around(a, b, *size_m) for a, b in zip(lat, lon, strict=True)]
        self.table = tile_table([f"t{row}" for row in range(count)], lat, lon, boxes, source="noise")

    def read(self, row):
        self.reads.append(row)
        return None if row in self.empty else self.images[row]


def tile_hit(row, score, east, size_m=(60.0, 60.0)):
    """Hit of tile `t<row>` with a size in metres."""
    at = tuple(float(value) for value in offset(60.0, 25.0, east, 0.0))
    return Hit(f"t{row}", score, *at, bounds_around(*at, *size_m), "area", "noise", "who", "CC0", "2020")
