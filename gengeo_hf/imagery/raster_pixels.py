"""Rendering of raster values as 8-bit RGB: bands, range of values, and mask of pixels without data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

LEVELS = 21  # number of quantiles of each file
# Values that programs write for missing data, often without declaring them.
SENTINELS = (-9999.0, -32767.0, -32768.0, -99999.0, float(np.finfo(np.float32).min), float(np.finfo(np.float64).min))
CORNER = 256  # side in pixels of the corners of a file that are searched for a fill colour
MIN_FILL, MIN_FILL_PIXELS = 0.005, 32  # minimum share and number of pixels of a uniform area at a corner


@dataclass(frozen=True)
class Rendering:
    """Rendering of one file as RGB.

    Args:
        bands: One band (grey or palette) or three (red, green, blue), counted from 1.
        low, high: Values that become 0 and 255.
        palette: Colours of a palette raster, uint8 (256, 3); None for other rasters.
        alpha: Band that masks the others, counted from 1; None without one.
        nodata: Declared value of pixels without data; None without one.
        levels: Quantiles of the values of a file deeper than 8 bits, from 1 to 99 %; empty for 8 bits.
        fills: Undeclared colours of pixels without data, each with one value for each of `bands`.
    """

    bands: tuple[int, ...]
    low: float = 0.0
    high: float = 255.0
    palette: np.ndarray | None = None
    alpha: int | None = None
    nodata: float | None = None
    levels: tuple[float, ...] = ()
    fills: tuple[tuple[float, ...], ...] = ()

    def to_rgb(self, bands: np.ndarray) -> np.ndarray:
        """Convert bands (n, height, width) of any dtype to RGB (height, width, 3) uint8."""
        if self.palette is not None:
            return self.palette[bands[0].astype(np.uint8)]
        if bands.dtype != np.uint8 or (self.low, self.high) != (0.0, 255.0):
            scaled = (np.nan_to_num(bands.astype(np.float32)) - self.low) * (255.0 / max(self.high - self.low, 1e-9))
            bands = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.moveaxis(np.broadcast_to(bands, (3, *bands.shape[1:])), 0, -1))


def rendering_of(dataset: "DatasetReader", nodata: float | None = None) -> Rendering:
    """Choose the rendering of a file by its header and a coarse sample of its pixels.

    Args:
        dataset: Opened file.
        nodata: Value of pixels without data that the user states, in addition to declared and detected ones; None for
            none.

    Raises:
        GenGeoError: The file has two bands, or complex values.
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
        alpha = None  # GDAL takes every fourth band for alpha, but in NAIP it is near infrared
    fills = _corner_fills(dataset, bands)
    if nodata is not None:
        fills = (*fills, (float(nodata),) * len(bands))
    levels = _levels(dataset, bands, fills)
    low, high = (levels[0], levels[-1]) if levels else (0.0, 255.0)
    return Rendering(bands, low, high, alpha=alpha, nodata=dataset.nodata, levels=levels, fills=fills)


def no_data_mask(dataset: "DatasetReader", rendering: Rendering, bands: np.ndarray, window: Any) -> np.ndarray:
    """Mask of pixels with data.

    Pixels without data are those of the file's nodata value, mask or alpha band (in a file without these, pixels that
    are exactly zero in every band), NaN and values such as -9999, and uniform areas of a fill colour.

    Args:
        dataset: Opened file.
        rendering: Rendering of the file.
        bands: Values of the window, (n, height, width).
        window: Window of the file that was read.

    Returns:
        Mask, uint8 (height, width), 255 for pixels with data and 0 for others.
    """
    mask = _declared_mask(dataset, rendering, bands, window)
    if bands.dtype.kind == "f":
        mask[~np.isfinite(bands).all(axis=0)] = 0
    if bands.dtype.kind in "fi":
        mask[np.isin(bands, SENTINELS).all(axis=0)] = 0
    for fill in rendering.fills:
        mask[_uniform_areas(bands, fill)] = 0
    return mask


def _declared_mask(dataset: "DatasetReader", rendering: Rendering, bands: np.ndarray, window: Any) -> np.ndarray:
    """The mask that the file declares; without one, 0 for pixels that are exactly zero in all bands."""
    from rasterio.enums import MaskFlags

    shape = bands.shape[1:]
    if rendering.alpha is not None:
        return np.where(dataset.read(rendering.alpha, window=window, out_shape=shape) > 0, 255, 0).astype(np.uint8)
    flags = dataset.mask_flag_enums[rendering.bands[0] - 1]
    if rendering.nodata is not None or (MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags):
        masks = dataset.read_masks(list(rendering.bands), window=window, out_shape=(len(rendering.bands), *shape))
        return np.asarray(masks.max(axis=0)).copy()
    if rendering.palette is not None:
        return np.full(shape, 255, np.uint8)
    return np.where((bands != 0).any(axis=0), 255, 0).astype(np.uint8)


def _sample(dataset: "DatasetReader", bands: tuple[int, ...]) -> np.ndarray:
    """A coarse sample of bands, at most 512 x 512 pixels."""
    shape = (len(bands), min(dataset.height, 512), min(dataset.width, 512))
    return dataset.read(list(bands), out_shape=shape)


def _is_mask(dataset: "DatasetReader", band: int) -> bool:
    """Whether a band holds only the two extremes of its range, as a mask does and near infrared does not."""
    values = np.unique(_sample(dataset, (band,)))
    top = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1
    return bool(np.isin(values, [0, 1, 255, top]).all())


def _corner_fills(dataset: "DatasetReader", bands: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Colours of uniform black or white areas at the corners of a file, except exact zeros.

    Only the corners are read, at full resolution: sampling a file without overviews would read the whole file.
    """
    from rasterio.errors import RasterioError
    from rasterio.windows import Window
    from scipy.ndimage import label

    height, width = min(dataset.height, CORNER), min(dataset.width, CORNER)
    fills: dict[tuple[float, ...], None] = {}
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        window = Window(-column * (dataset.width - width), -row * (dataset.height - height), width, height)
        try:
            corner = dataset.read(list(bands), window=window)
        except RasterioError:  # a damaged block is reported when tiles are read
            continue
        colour = corner[:, row, column].astype(np.float64)
        top = np.iinfo(corner.dtype).max - 1 if corner.dtype.kind in "ui" else np.inf
        if not np.isfinite(colour).all() or np.ptp(colour) or not (0 < colour[0] <= 1 or colour[0] >= top):
            continue  # uniform areas of other colours may be imagery
        areas, _ = label((corner == corner[:, row, column][:, None, None]).all(axis=0))
        if (areas == areas[row, column]).sum() >= max(MIN_FILL_PIXELS, MIN_FILL * height * width):
            fills[tuple(colour.tolist())] = None
    return tuple(fills)


def _uniform_areas(bands: np.ndarray, fill: tuple[float, ...]) -> np.ndarray:
    """Areas of one colour that are at least 5 pixels wide, and mixed pixels around them, bool (height, width)."""
    from scipy.ndimage import binary_dilation, binary_opening

    same = (bands == np.array(fill, dtype=np.float64)[:, None, None]).all(axis=0)
    if not same.any():
        return same
    # The edge is repeated, so that an area that extends beyond the window is wide enough.
    padded = binary_opening(np.pad(same, 5, mode="edge"), np.ones((5, 5)))[5:-5, 5:-5]
    return np.asarray(binary_dilation(padded, np.ones((3, 3))) & (padded | _near(bands, fill)))


def _near(bands: np.ndarray, fill: tuple[float, ...]) -> np.ndarray:
    """Pixels that interpolation mixed with the fill: nearer to it than to the other values of the window."""
    apart = np.abs(bands.astype(np.float64) - np.array(fill)[:, None, None]).max(axis=0)
    return apart < max(1.0, 0.5 * float(np.ptp(bands)))


def _levels(
    dataset: "DatasetReader", bands: tuple[int, ...], fills: tuple[tuple[float, ...], ...]
) -> tuple[float, ...]:
    """Quantiles from the 1st to the 99th percentile of the file; empty for 8 bits, which are not stretched."""
    if dataset.dtypes[bands[0] - 1] == "uint8":
        return ()
    values = _sample(dataset, bands).astype(np.float64)
    empty = np.isin(values, SENTINELS) | ~np.isfinite(values)
    empty |= values == (dataset.nodata if dataset.nodata is not None else 0)
    for fill in fills:
        empty |= (values == np.array(fill)[:, None, None]).all(axis=0)
    values = values[~empty]
    if not values.size:
        return (0.0, 1.0)
    levels = np.percentile(values, np.linspace(1, 99, LEVELS))
    levels[-1] = max(levels[-1], levels[0] + 1e-9)
    return tuple(map(float, levels))
