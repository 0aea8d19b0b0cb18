"""Functions that write small random inputs: a checkpoint, map tiles, a GeoTIFF."""

import numpy as np
from PIL import Image

from tests.conftest import TINY, TINY_SIZES


def write_model(folder):
    """Write a checkpoint of a small model with random weights; returns its directory."""
    import torch

    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    torch.manual_seed(0)
    GenGeoModel(GenGeoConfig(**TINY)).eval().save_pretrained(folder)
    GenGeoImageProcessor(view_sizes=TINY_SIZES).save_pretrained(folder)
    return folder


def random_image(rng, side=48):
    """Square RGB image of smooth noise; each call gives another one."""
    small = rng.integers(0, 255, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def write_map_tiles(folder, columns, rows, first=0):
    """Write random map tiles z/x/y.png at zoom 17 in Helsinki; returns the directory.

    Args:
        folder: Directory to create.
        columns: Number of tile columns (x).
        rows: Number of tile rows (y).
        first: Offset of the first column; also the seed.
    """
    rng = np.random.default_rng(first)
    for x in range(columns):
        column = folder / "17" / str(74_600 + first + x)
        column.mkdir(parents=True)
        for y in range(rows):
            random_image(rng).save(column / f"{37_900 + y}.png")
    return folder


def write_geotiff(path, seed=0, side=200, crs="EPSG:32635", metres=1.0, **options):
    """Write a square GeoTIFF of smooth noise; returns its path.

    Args:
        path: File to write.
        seed: Seed of the noise.
        side: Width and height in pixels.
        crs: Coordinate reference system.
        metres: Size of a pixel in units of the CRS.
        **options: Further creation options of rasterio; they replace the defaults.
    """
    import rasterio
    from rasterio.transform import from_origin

    pixels = np.asarray(random_image(np.random.default_rng(seed), side)).transpose(2, 0, 1)
    pixels = pixels.astype(options.get("dtype", "uint8"))
    settings = {"count": 3, "dtype": "uint8", "crs": crs, "transform": from_origin(385_000, 6_672_000, metres, metres)}
    with rasterio.open(path, "w", driver="GTiff", width=side, height=side, **settings | options) as file:
        file.write(pixels[: file.count])
    return path
