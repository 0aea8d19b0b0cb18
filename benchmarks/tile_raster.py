"""Windowed tiling of a large GeoTIFF: tiles per second and peak memory.

    python benchmarks/tile_raster.py --side 10000

Tiles per CPU second are also printed, because other processes on a shared machine increase wall-clock time.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
from measuring import peak_mb
from rasterio.transform import from_origin
from rasterio.windows import Window

from gengeo_hf.imagery.raster import RasterTiles


def write(path: Path, side: int) -> None:
    """Write a tiled JPEG GeoTIFF of smooth noise block by block: 20 cm per pixel, UTM zone 35."""
    generator = np.random.default_rng(0)
    options = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8", "crs": "EPSG:32635"}
    options |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "jpeg", "photometric": "ycbcr"}
    with rasterio.open(path, "w", transform=from_origin(385_000, 6_675_000, 0.2, 0.2), **options) as file:
        for row in range(0, side, 512):
            height = min(512, side - row)
            coarse = generator.integers(1, 255, (3, height // 8 + 1, side // 8 + 1), np.uint8)
            block = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :side]
            file.write(block, window=Window(0, row, side, height))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--tile", type=float, default=72.0, help="side of a tile in metres")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.tif"
        write(path, arguments.side)
        before = peak_mb()
        started = time.perf_counter()
        source = RasterTiles([path], arguments.tile, 0.5)
        grid = time.perf_counter() - started
        started, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(arguments.threads) as pool:
            kept = sum(image is not None for image in pool.map(source.read, range(source.table.num_rows)))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        peak = peak_mb()
        print(
            f"{source.table.num_rows} tiles ({kept} with data), grid {grid:.2f} s, {kept / seconds:.0f} tiles/s, "
            f"{kept / cpu:.0f} tiles per CPU second, "
            f"peak memory {peak:.0f} MB ({before:.0f} MB before tiling)"
        )


if __name__ == "__main__":
    main()
