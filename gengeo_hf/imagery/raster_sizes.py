"""Tiles of one or several ground sizes, cropped from rasters around the same centres."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from gengeo_hf.imagery.options import TilingOptions
from gengeo_hf.imagery.raster import OpenDataset, RasterTiles


class SeveralRasterSizes:
    """Tiles of several ground sizes around the centres of the smallest one.

    Args:
        paths: Raster files.
        sizes: Sides of a tile in metres on the ground.
        overlap: Share of the smallest tile that its neighbour repeats.
        options: Further arguments of `RasterTiles`.

    Raises:
        GenGeoError: See `RasterTiles`.
    """

    def __init__(self, paths: Sequence[str | Path], sizes: Sequence[float], overlap: float, **options: Any) -> None:
        self.tile_sizes = tuple(sorted(set(sizes)))
        smallest = RasterTiles(paths, self.tile_sizes[0], overlap, **options)
        centres = smallest.table["lat"].to_numpy(), smallest.table["lon"].to_numpy()
        rest = [RasterTiles(paths, size, overlap, centres=centres, **options) for size in self.tile_sizes[1:]]
        self._parts = [smallest, *rest]
        self.name, self.acquired, self.rights = smallest.name, smallest.acquired, smallest.rights
        self.notes = list(dict.fromkeys(note for part in self._parts for note in part.notes))
        self.rendering = "; ".join(part.rendering for part in self._parts)
        self.table, self._part, self._row = _by_cell(self._parts)

    def read(self, row: int) -> Image.Image | None:
        """Read one tile, None if too much of it has no data.

        Raises:
            GenGeoError: A file cannot be read at the tile.
        """
        return self._parts[int(self._part[row])].read(int(self._row[row]))


def open_rasters(
    paths: Sequence[str | Path],
    options: TilingOptions,
    *,
    dates: Sequence[tuple[str, str]] = (),
    open_dataset: OpenDataset | None = None,
) -> RasterTiles | SeveralRasterSizes:
    """Crop rasters into tiles of one or several ground sizes.

    Args:
        paths: Raster files.
        options: Options of tiling.
        dates: Further pairs of pattern and date, after those of the options.
        open_dataset: See `RasterTiles`.

    Raises:
        GenGeoError: See `RasterTiles`.
    """
    cropping: dict[str, Any] = {
        "pixels": options.pixels,
        "value_range": options.value_range,
        "area": options.area,
        "nodata": options.nodata,
        "max_empty": options.max_empty,
        "dates": [*options.dates, *dates],
        "open_dataset": open_dataset,
    }
    if len(set(options.sizes)) == 1:
        return RasterTiles(paths, options.sizes[0], options.overlap, **cropping)
    return SeveralRasterSizes(paths, options.sizes, options.overlap, **cropping)


def _by_cell(parts: Sequence[RasterTiles]) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Table of the tiles of all sizes, grouped by centre with the smallest first; part and row in it of each tile."""
    first = parts[0].table
    cell_of = {centre: cell for cell, centre in enumerate(zip(*_centres(first), strict=True))}
    cells = np.concatenate([[cell_of[centre] for centre in zip(*_centres(part.table), strict=True)] for part in parts])
    part = np.concatenate([np.full(len(one.table), number) for number, one in enumerate(parts)])
    row = np.concatenate([np.arange(len(one.table)) for one in parts])
    order = np.lexsort((part, cells))
    table = pa.concat_tables([one.table for one in parts]).take(pa.array(order)).combine_chunks()
    return table, part[order], row[order]


def _centres(table: pa.Table) -> tuple[list[float], list[float]]:
    """Latitudes and longitudes of the tiles in degrees."""
    return table["lat"].to_pylist(), table["lon"].to_pylist()
