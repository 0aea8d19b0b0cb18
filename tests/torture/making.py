"""Small inputs that are made here: a model, map tiles, indexes."""

import numpy as np
from PIL import Image

from tests.conftest import TINY, TINY_SIZES


def model(folder):
    import torch

    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    torch.manual_seed(0)
    GenGeoModel(GenGeoConfig(**TINY)).eval().save_pretrained(folder)
    GenGeoImageProcessor(view_sizes=TINY_SIZES).save_pretrained(folder)
    return folder


def picture(generator, side=48):
    """Smooth noise: no two are alike."""
    small = generator.integers(0, 255, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def map_tiles(folder, columns, rows, first=0):
    """A folder z/x/y.png in Helsinki."""
    generator = np.random.default_rng(first)
    for x in range(columns):
        column = folder / "17" / str(74_600 + first + x)
        column.mkdir(parents=True)
        for y in range(rows):
            picture(generator).save(column / f"{37_900 + y}.png")
    return folder


def geotiff(path, seed=0, side=200, crs="EPSG:32635", metres=1.0, **options):
    """A raster of smooth noise, one metre a pixel."""
    import rasterio
    from rasterio.transform import from_origin

    pixels = np.asarray(picture(np.random.default_rng(seed), side)).transpose(2, 0, 1)
    pixels = pixels.astype(options.get("dtype", "uint8"))
    settings = {"count": 3, "dtype": "uint8", "crs": crs, "transform": from_origin(385_000, 6_672_000, metres, metres)}
    with rasterio.open(path, "w", driver="GTiff", width=side, height=side, **settings | options) as file:
        file.write(pixels[: file.count])
    return path
