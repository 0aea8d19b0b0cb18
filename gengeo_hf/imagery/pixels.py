"""From a raster's numbers to RGB: which bands, which range, and which pixels hold no data.

Before: raster.py reads a window. After: an 8-bit RGB array and a mask.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

LEVELS = 21  # quantiles kept of each file


@dataclass(frozen=True)
class Rendering:
    """How one file becomes RGB.

    Args:
        bands: one band (grey or palette) or three (red, green, blue), counted from 1.
        low, high: values that become 0 and 255.
        palette: (256, 3) uint8 colours of a palette raster.
        alpha: band that masks the others, counted from 1.
        nodata: value of pixels without data.
        levels: quantiles of the values of a file deeper than 8 bits, from 1 to 99 %; empty for 8 bits.
    """

    bands: tuple[int, ...]
    low: float = 0.0
    high: float = 255.0
    palette: np.ndarray | None = None
    alpha: int | None = None
    nodata: float | None = None
    levels: tuple[float, ...] = ()

    def to_rgb(self, bands: np.ndarray) -> np.ndarray:
        """Bands (n, height, width) of any number type to RGB (height, width, 3) uint8."""
        if self.palette is not None:
            return self.palette[bands[0].astype(np.uint8)]
        if bands.dtype != np.uint8 or (self.low, self.high) != (0.0, 255.0):
            scaled = (np.nan_to_num(bands.astype(np.float32)) - self.low) * (255.0 / max(self.high - self.low, 1e-9))
            bands = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.moveaxis(np.broadcast_to(bands, (3, *bands.shape[1:])), 0, -1))


def rendering_of(dataset: "DatasetReader") -> Rendering:
    """Decide from a file's header and a coarse look at its pixels.

    Raises:
        GenGeoError: the file has two bands, or numbers that are not colours (complex).
    """
    from rasterio.enums import ColorInterp

    kinds = list(dataset.colorinterp)
    if np.dtype(dataset.dtypes[0]).kind == "c":
        raise GenGeoError(f"{dataset.name} holds complex numbers, not colours")
    if ColorInterp.palette in kinds:
        colours = np.zeros((256, 3), np.uint8)
        for value, colour in dataset.colormap(1).items():
            colours[value] = colour[:3]
        return Rendering((1,), palette=colours, nodata=dataset.nodata)
    named = [kinds.index(kind) + 1 for kind in (ColorInterp.red, ColorInterp.green, ColorInterp.blue) if kind in kinds]
    bands = tuple(named) if len(named) == 3 else (1, 2, 3) if dataset.count >= 3 else (1,)
    alpha = kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None
    if dataset.count == 2 and alpha is None:
        raise GenGeoError(f"{dataset.name} has two bands; one (grey), three (RGB) or more (RGB and NIR) are expected")
    if alpha is not None and not _is_mask(dataset, alpha):
        alpha = None  # NAIP's near infrared is the fourth band, and GDAL calls every fourth band alpha
    levels = _levels(dataset, bands)
    low, high = (levels[0], levels[-1]) if levels else (0.0, 255.0)
    return Rendering(bands, low, high, alpha=alpha, nodata=dataset.nodata, levels=levels)


def no_data_mask(dataset: "DatasetReader", rendering: Rendering, bands: np.ndarray, window: Any) -> np.ndarray:
    """Mask (height, width) uint8, 255 where there is data.

    A file that declares neither a nodata value nor a mask is taken at its word, except for pixels that are exactly
    zero in every band: that is what the corners of orthophotos are filled with.
    """
    from rasterio.enums import MaskFlags

    shape = bands.shape[1:]
    if rendering.alpha is not None:
        return np.where(dataset.read(rendering.alpha, window=window, out_shape=shape) > 0, 255, 0).astype(np.uint8)
    flags = dataset.mask_flag_enums[rendering.bands[0] - 1]
    if rendering.nodata is not None or (MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags):
        masks = dataset.read_masks(list(rendering.bands), window=window, out_shape=(len(rendering.bands), *shape))
        return masks.max(axis=0)
    if rendering.palette is not None:
        return np.full(shape, 255, np.uint8)
    return np.where((bands != 0).any(axis=0), 255, 0).astype(np.uint8)


def _look(dataset: "DatasetReader", bands: tuple[int, ...]) -> np.ndarray:
    """A coarse sample of bands, at most 512 x 512."""
    shape = (len(bands), min(dataset.height, 512), min(dataset.width, 512))
    return dataset.read(list(bands), out_shape=shape)


def _is_mask(dataset: "DatasetReader", band: int) -> bool:
    """True where a band holds only the two ends of its range, as a mask does and near infrared does not."""
    values = np.unique(_look(dataset, (band,)))
    top = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1
    return bool(np.isin(values, [0, 1, 255, top]).all())


def _levels(dataset: "DatasetReader", bands: tuple[int, ...]) -> tuple[float, ...]:
    """Quantiles from the 1st to the 99th percentile of the whole file; none for 8 bits, which need no stretch."""
    if dataset.dtypes[bands[0] - 1] == "uint8":
        return ()
    values = _look(dataset, bands).astype(np.float64)
    values = values[np.isfinite(values) & (values != (dataset.nodata if dataset.nodata is not None else 0))]
    if not values.size:
        return (0.0, 1.0)
    levels = np.percentile(values, np.linspace(1, 99, LEVELS))
    levels[-1] = max(levels[-1], levels[0] + 1e-9)
    return tuple(map(float, levels))
