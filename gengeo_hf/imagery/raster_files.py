"""Opening of raster files from untrusted sources, by the driver of their suffix only and without network access.

GDAL chooses a driver by the content of a file, and some formats (VRT and other XML formats) name further files or
addresses that GDAL then reads. Therefore only the drivers of the suffix are tried, and the sources of a VRT must be
local rasters.
"""

from __future__ import annotations

import contextlib
import sqlite3
import xml.etree.ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_TIFF, _JP2 = ("GTiff",), ("JP2OpenJPEG",)
REMOTE_DRIVERS = _TIFF + _JP2  # formats that do not refer to other files
DRIVERS = {  # GDAL drivers by suffix
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".gtiff": _TIFF,
    ".vrt": ("VRT",),
    ".jp2": _JP2,
    ".j2k": _JP2,
    ".img": ("HFA", "ENVI"),
    ".gpkg": ("GPKG",),
    ".png": ("PNG",),
    ".jpg": ("JPEG",),
    ".jpeg": ("JPEG",),
    ".bmp": ("BMP",),
    ".webp": ("WEBP",),
    ".asc": ("AAIGrid",),
    ".ecw": ("ECW",),
    ".sid": ("MrSID",),
}
STARTS = (  # first bytes of the files that a VRT may name
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"\0\0\0\x0cjP",
    b"\xff\x4f\xff\x51",
    b"EHFA_HEADER_TAG",
    b"BM",
)
NAMES = ("SourceFilename", "SourceDataset")  # elements of a VRT that name files
MAX_VRT_BYTES = 256_000_000
MAX_DEPTH = 8  # of VRTs that name VRTs


def open_raster(path: str) -> DatasetReader:
    """Open a local raster file.

    Args:
        path: Path of the file.

    Raises:
        GenGeoError: The suffix is not that of a known format, or the file names sources other than local rasters.
        rasterio.errors.RasterioIOError: The format differs from the suffix, or the file is damaged.
    """
    suffix = Path(path).suffix.lower()
    drivers = DRIVERS.get(suffix)
    if drivers is None:
        raise GenGeoError(
            f"{path} has the suffix {suffix or '(none)'}, expected one of {', '.join(DRIVERS)}; convert it with "
            "gdal_translate"
        )
    if suffix == ".vrt":
        _check_vrt(Path(path), [])
    elif suffix == ".gpkg":
        _check_geopackage(path)
    return open_with(drivers, path)


def open_with(drivers: Sequence[str], path: str, **options: Any) -> DatasetReader:
    """Open a raster by the first driver that accepts it.

    Args:
        drivers: Names of GDAL drivers.
        path: Path or name that GDAL opens.
        options: Further arguments of `rasterio.open`.

    Raises:
        rasterio.errors.RasterioIOError: No driver accepts the file.
    """
    import rasterio

    for driver in drivers[:-1]:
        with contextlib.suppress(rasterio.errors.RasterioIOError):
            return rasterio.open(path, driver=driver, **options)
    return rasterio.open(path, driver=drivers[-1], **options)


def _check_vrt(path: Path, within: list[Path]) -> None:
    """Check that a VRT names local rasters only.

    Args:
        path: Path of the VRT.
        within: Resolved paths of the VRTs that lead to it.

    Raises:
        GenGeoError: The VRT names an address, a missing file, a file of another kind or itself, is nested too deeply,
            or is too large.
    """
    if path.resolve() in within or len(within) >= MAX_DEPTH:
        raise GenGeoError(f"{path} names itself, or VRTs nested deeper than {MAX_DEPTH}")
    if path.stat().st_size > MAX_VRT_BYTES:
        raise GenGeoError(f"{path} has more than {MAX_VRT_BYTES / 1e6:.0f} MB, too many for a VRT")
    try:
        for _, element in xml.etree.ElementTree.iterparse(path):  # expat limits the expansion of entities
            texts = [element.text or "", *element.attrib.values()]
            if any("://" in text or "/vsi" in text.lower() for text in texts):
                raise GenGeoError(f"{path} names an address or a virtual file; only local files are read from a VRT")
            if element.tag in NAMES:
                _check_source(path, element, [*within, path.resolve()])
            element.clear()
    except xml.etree.ElementTree.ParseError as error:
        raise GenGeoError(f"{path} cannot be read as a VRT: {error}") from error


def _check_source(vrt: Path, element: xml.etree.ElementTree.Element, within: list[Path]) -> None:
    """Check one source that a VRT names."""
    name = (element.text or "").strip()
    beside = element.get("relativeToVRT", element.get("relativetoVRT", "0")) == "1"
    source = vrt.parent / name if beside else Path(name)
    if not name or not source.is_file():
        raise GenGeoError(f"{vrt} names {name[:200]!r}, which is not a local file")
    with source.open("rb") as file:
        start = file.read(512)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<VRTDataset", b"<?xml")):
        _check_vrt(source, within)
    elif not start.startswith(STARTS):
        raise GenGeoError(f"{vrt} names {name[:200]!r}, which is not a raster of a known kind")


def _check_geopackage(path: str) -> None:
    """Check that the contents of a GeoPackage are not views, whose queries may never end and cannot be stopped.

    Raises:
        GenGeoError: The contents are views, or the file is not a GeoPackage.
    """
    statement = (
        "SELECT name FROM sqlite_master WHERE type = 'view' AND name IN (SELECT table_name FROM gpkg_contents) LIMIT 1"
    )
    try:
        with contextlib.closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)) as file:
            kinds = file.execute("SELECT type FROM sqlite_master WHERE name = 'gpkg_contents'").fetchall()
            view = kinds != [("table",)] or file.execute(statement).fetchone()
    except (sqlite3.Error, UnicodeError, MemoryError) as error:
        raise GenGeoError(f"{path} cannot be read as a GeoPackage: {error}") from error
    if view:
        raise GenGeoError(f"{path} keeps its tiles in a view or has no list of contents; only tables are read")
