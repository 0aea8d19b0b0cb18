"""Georeference of raster files: CRS, outline in degrees, plausibility, and acquisition date."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

MAX_COORDINATE = 1e10  # of a raster's edge, in units of its CRS; the circumference of the Earth is 4e7 m
TOLERANCE = 1.0  # degrees beyond the area of use of a CRS
# Tags with the date of acquisition, in order of preference. TIFFTAG_DATETIME is the date of the file.
DATE_TAGS = (
    "ACQUISITIONDATETIME",
    "ACQUISITIONDATE",
    "ACQUISITION_DATE",
    "ACQUISITION",
    "EXIF_DateTimeOriginal",
    "TIFFTAG_DATETIME",
)


def georeference(dataset: "DatasetReader", path: str | Path) -> tuple[Any, Any]:
    """CRS of a raster, and the affine map from (x, y) in it to (column, row).

    Ground control points are fitted by an affine map. Without a CRS in the file, that of a `.prj` file is used.

    Args:
        dataset: Opened raster.
        path: Path of the raster.

    Raises:
        GenGeoError: The file has no CRS or no geotransform.
    """
    from rasterio.transform import from_gcps

    crs, transform = dataset.crs, dataset.transform
    points, points_crs = dataset.gcps
    if points and transform.is_identity:
        crs, transform = crs or points_crs, from_gcps(points)
    if crs is None:
        crs = _prj_beside(path)
    if crs is None:
        raise GenGeoError(
            f"{path} has no CRS, so its position on Earth is unknown; "
            "if you know it, write it with: rio edit-info --crs EPSG:xxxx FILE"
        )
    if transform.is_identity:
        raise GenGeoError(
            f"{path} has a CRS and no geotransform, so its position on Earth is unknown; put its world file beside it "
            "(.tfw, .pgw, .jgw), or write it with: gdal_edit -a_ullr WEST NORTH EAST SOUTH FILE"
        )
    return crs, ~transform


def _prj_beside(path: str | Path) -> Any:
    """The CRS of a `.prj` file of the same name, None without one."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    beside = Path(path).with_suffix(".prj")
    if not beside.is_file():
        return None
    try:
        return CRS.from_wkt(beside.read_text(encoding="utf-8", errors="replace"))
    except CRSError as error:
        raise GenGeoError(f"{beside} is not a CRS that can be read: {error}") from error


def from_degrees(crs: Any, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert latitudes and longitudes in degrees, (n,) each, to x and y in a CRS; infinite outside its domain."""
    from rasterio.warp import transform

    try:
        x, y = transform("EPSG:4326", crs, lon.tolist(), lat.tolist())
        return np.asarray(x), np.asarray(y)
    except Exception:  # one position outside the domain of the projection fails all of them
        from pyproj import Transformer

        to_crs = Transformer.from_crs("EPSG:4326", crs.to_wkt(), always_xy=True)
        x, y = to_crs.transform(lon, lat)
        return np.asarray(x), np.asarray(y)


def outline(crs: Any, to_pixel: Any, width: int, height: int, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes in degrees of points along a raster's edge, and of a pole inside it.

    Args:
        crs: CRS of the raster.
        to_pixel: Affine map from (x, y) in the CRS to (column, row).
        width, height: Size of the raster in pixels.
        path: Path of the raster, for messages.

    Raises:
        GenGeoError: The coordinates are not valid in this CRS.
    """
    from rasterio.warp import transform

    share = np.linspace(0, 1, 21)
    flat = np.zeros_like(share)
    columns = np.concatenate([share, share, flat, flat + 1]) * width
    rows = np.concatenate([flat, flat + 1, share, share]) * height
    x, y = (np.asarray(values) for values in ~to_pixel @ (columns, rows))
    if not (np.abs(x) < MAX_COORDINATE).all() or not (np.abs(y) < MAX_COORDINATE).all():  # PROJ may hang on these
        raise GenGeoError(f"{path} lies {np.abs([x, y]).max():g} units from its CRS's origin; is it damaged?")
    if crs.is_geographic and (np.abs(y).max() > 90.0 + 1e-6 or np.abs(x).max() > 540.0):
        raise GenGeoError(
            f"{path} is tagged with a CRS in degrees, and its corner lies at {x[0]:g}, {y[0]:g}, which are not "
            "degrees; write the right CRS with: rio edit-info --crs EPSG:xxxx FILE"
        )
    lon, lat = (np.asarray(v) for v in transform(crs, "EPSG:4326", x.tolist(), y.tolist()))
    if not (np.isfinite(lat).all() and np.isfinite(lon).all()):
        raise GenGeoError(f"{path} lies outside the domain of its CRS; are its CRS and position right?")
    if not crs.is_geographic:
        for pole in (90.0, -90.0):
            spot_x, spot_y = from_degrees(crs, np.array([pole]), np.array([0.0]))
            column, row = to_pixel @ (float(spot_x[0]), float(spot_y[0]))
            if 0 < column < width and 0 < row < height:  # infinite and NaN compare false
                return np.append(lat, [pole] * 2), np.append(lon, [-180.0, 179.999])
    return lat, lon


def area_of_use_note(crs: Any, box: np.ndarray, path: str | Path) -> str:
    """Note about a raster whose centre is outside the area of use of its CRS, "" if it is inside.

    Args:
        crs: CRS of the raster.
        box: South, north, west, east in degrees.
        path: Path of the raster.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    code = crs.to_epsg()
    try:
        used = None if code is None else CRS.from_epsg(code).area_of_use
    except CRSError:
        return ""
    if used is None:
        return ""
    lat, lon = (box[0] + box[1]) / 2, (box[2] + box[3]) / 2
    lon = (lon + 180.0) % 360.0 - 180.0
    width = (used.east - used.west) % 360.0 or 360.0
    inside_lon = (lon - used.west + TOLERANCE) % 360.0 <= width + 2 * TOLERANCE
    if inside_lon and used.south - TOLERANCE <= lat <= used.north + TOLERANCE:
        return ""
    return (
        f"{path} lies at {lat:.2f}, {lon:.2f}, outside the area of use of its CRS EPSG:{code} ({used.name:.60}): "
        "is it tagged with the right CRS?"
    )


def stated_date(path: str | Path, dates: Sequence[tuple[str, str]]) -> str:
    """The date that the user states for a file, in the form of `acquisition_date`; "" if no pattern matches.

    Args:
        path: Path of the file.
        dates: Pairs of a pattern of the file's name or of the end of its path, and a date; the first match is used.
    """
    for pattern, date in dates:
        if PurePath(path).match(pattern):
            return digits_of(date)
    return ""


def is_date(text: str) -> bool:
    """Whether a text is a date such as 2018, 2018-06, 2018-06-01 or 20180601."""
    return bool(re.fullmatch(r"\d{4}([-:/]?(0[1-9]|1[0-2])([-:/]?(0[1-9]|[12]\d|3[01]))?)?", text))


def digits_of(date: str) -> str:
    """The digits of a date.

    Raises:
        GenGeoError: The text is not a date, see `is_date`.
    """
    if not is_date(date):
        raise GenGeoError(f"{date!r} is not a date: expected for example 2018, 2018-06 or 2018-06-01")
    return re.sub(r"\D", "", date)


def readable_date(digits: str) -> str:
    """Format the digits of a date, for example as 2018, 2018-06 or 2018-06-01."""
    return "-".join(filter(None, (digits[:4], digits[4:6], digits[6:8])))


def acquisition_date(tags: Mapping[str, str]) -> str:
    """Date of acquisition from the tags of a file, as up to 14 digits that sort by time; "" without one."""
    for name in DATE_TAGS:
        digits = "".join(letter for letter in str(tags.get(name, "")) if letter.isdigit())
        if len(digits) >= 4 and digits[:4] != "0000":
            return digits[:14]
    return ""
