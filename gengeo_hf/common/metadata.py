"""Metadata of a photo: position and time (EXIF), camera (EXIF, GPano XMP).

Values that cannot be used are listed in `PhotoMetadata.notes` and never guessed.
Sources: EXIF 2.32 (CIPA DC-008), https://developers.google.com/streetview/spherical-metadata.
"""

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from PIL import ExifTags

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError

FULL_FRAME_DIAGONAL_MM = math.hypot(36, 24)  # reference of the 35 mm equivalent focal length (CIPA DC-008)
MODEL_YEARS = (2010.0, 2029.99)  # range of the World Magnetic Models in pygeomag
_GPANO = re.compile(rb"GPano:(\w+)\s*(?:=\s*[\"']|>)\s*([^\"'<]*)|\b(Pose\w+Degrees)\s*=\s*[\"']([^\"'<]*)")


@dataclass(frozen=True)
class PhotoPosition:
    """Position that the EXIF data of a photo state.

    Args:
        lat: Latitude in degrees, WGS84.
        lon: Longitude in degrees, WGS84.
        error_m: Horizontal error in metres that the receiver reported; None if unknown.
        heading: True bearing of the image's centre column in degrees; None if unknown.
    """

    lat: float
    lon: float
    error_m: float | None = None
    heading: float | None = None


@dataclass(frozen=True)
class PhotoMetadata:
    """Metadata of one image file.

    Args:
        position: Position in the EXIF data; None if it is missing or implausible.
        time: When the photo was taken, in the local time of the camera; None if unknown.
        camera: Field of view, heading, pitch, roll and projection that the file states.
        notes: One line for each value that was corrected or could not be used.
        heading_is_magnetic: Whether the heading comes from a compass (corrected by the declination); it may be wrong by
            some tens of degrees.
    """

    position: PhotoPosition | None = None
    time: datetime | None = None
    camera: CameraView = field(default_factory=CameraView)
    notes: tuple[str, ...] = ()
    heading_is_magnetic: bool = False


def parse_metadata(gps: Mapping[int, Any], exif: Mapping[int, Any], xmp: bytes, size: tuple[int, int]) -> PhotoMetadata:
    """Interpret the tags of one file.

    Args:
        gps: GPS directory of the EXIF data, by tag number.
        exif: Exif directory of the EXIF data, by tag number.
        xmp: XMP packet; empty if there is none.
        size: Width and height in pixels of the upright image.
    """
    notes: list[str] = []
    position, time = _position(gps, notes), _time(exif)
    camera, is_complete = _gpano(xmp, size, notes)
    if not is_complete:
        camera = camera.completed_by(_lens(exif.get(ExifTags.Base.FocalLengthIn35mmFilm), size))
    is_magnetic = False
    if camera.heading is None and (heading := _heading(gps, position, time, notes)) is not None:
        camera = CameraView(heading=heading).completed_by(camera)
        is_magnetic = _text(gps.get(ExifTags.GPS.GPSImgDirectionRef)) == "M"
    if position is not None:
        position = replace(position, heading=camera.bearing)
    return PhotoMetadata(position, time, camera, tuple(notes), is_magnetic)


def magnetic_declination(lat: float, lon: float, time: datetime | None = None) -> float:
    """Degrees from true north to magnetic north, positive eastwards, by the World Magnetic Model (NOAA, pygeomag).

    Args:
        lat: Latitude in degrees.
        lon: Longitude in degrees.
        time: Time of the photo; None is the current time. Times outside 2010..2029 use the nearest covered year.
    """
    from pygeomag import GeoMag

    moment = time or datetime.now()
    year = moment.year + (moment.timetuple().tm_yday - 1) / 365.25
    year = min(max(year, MODEL_YEARS[0]), MODEL_YEARS[1])
    return float(GeoMag(base_year=int(year)).calculate(lat, lon, 0.0, year, allow_date_outside_lifespan=True).d)


def _position(gps: Mapping[int, Any], notes: list[str]) -> PhotoPosition | None:
    """Return the position, or None if it is missing or implausible: NaN, (0, 0), out of range."""
    angles = []
    for part, reference, hemispheres in (
        (ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "NS"),
        (ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "EW"),
    ):
        angles.append(_degrees(gps.get(part), gps.get(reference), hemispheres, notes))
    lat, lon = angles
    if lat is None or lon is None:
        if not notes and any(part in gps for part in (ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLongitude)):
            notes.append("its EXIF position is incomplete (a number, or N, S, E or W, is missing): not used")
        return None
    datum = _text(gps.get(ExifTags.GPS.GPSMapDatum)).replace("-", "").replace(" ", "")
    if datum and not datum.startswith("WGS84"):
        notes.append(f"its EXIF position is of the datum {datum:.20}: taken as WGS84, the error may exceed 100 m")
    if abs(lat) > 90 or abs(lon) > 180 or (lat == 0 and lon == 0):
        notes.append(f"its EXIF position {lat:g}, {lon:g} cannot be right: not used")
        return None
    error_m = _number(gps.get(ExifTags.GPS.GPSHPositioningError))
    return PhotoPosition(lat, lon, error_m if error_m is not None and error_m >= 0 else None)


def _degrees(parts: Any, reference: Any, hemispheres: str, notes: list[str]) -> float | None:
    """Convert degrees, minutes, seconds to signed degrees; None without a hemisphere, which gives the sign.

    Some writers store signed numbers with the hemisphere: -86 W means 86 W; -86 E is contradictory.
    """
    values = [_number(part) for part in (parts if isinstance(parts, tuple | list) else (parts,))]
    sign = {hemispheres[0]: 1.0, hemispheres[1]: -1.0}.get(_text(reference)[:1])
    known = [value for value in values if value is not None]
    if sign is None or not 1 <= len(values) <= 3 or len(known) < len(values):
        return None
    negative = any(value < 0 for value in known)
    if (negative and sign > 0) or any(abs(value) > 60 for value in known[1:]):
        written = " ".join(f"{value:g}" for value in known)
        notes.append(f"its EXIF position has {written} {_text(reference)}, which contradicts itself: not used")
        return None
    return sign * sum(abs(value) / 60.0**power for power, value in enumerate(known))


def _heading(
    gps: Mapping[int, Any], position: PhotoPosition | None, time: datetime | None, notes: list[str]
) -> float | None:
    """Return GPSImgDirection as a true bearing in degrees."""
    heading = _number(gps.get(ExifTags.GPS.GPSImgDirection))
    if heading is None:
        return None
    if not 0 <= heading <= 360:
        notes.append(f"its EXIF heading is {heading:g}, expected 0..360 degrees: not used")
        return None
    if _text(gps.get(ExifTags.GPS.GPSImgDirectionRef)) != "M":
        return heading % 360.0
    if position is None:
        notes.append("its heading is relative to magnetic north and cannot be corrected without a position: not used")
        return None
    declination = magnetic_declination(position.lat, position.lon, time)
    notes.append(f"its heading is relative to magnetic north: corrected by {declination:+.1f} degrees to true north")
    return (heading + declination) % 360.0


def _gpano(xmp: bytes, size: tuple[int, int], notes: list[str]) -> tuple[CameraView, bool]:
    """Return the camera of the GPano metadata, and whether EXIF must not complete its field of view and projection."""
    tags: dict[str, str] = {}
    for name, value, bare, bare_value in _GPANO.findall(xmp):
        tags.setdefault((name or bare).decode("ascii"), (value or bare_value).decode("utf-8", "replace").strip())
    numbers = {name: number for name, value in tags.items() if (number := _number(value)) is not None}
    kind = tags.get("ProjectionType", "equirectangular").lower()
    full, part = numbers.get("FullPanoWidthPixels"), numbers.get("CroppedAreaImageWidthPixels")
    angles = _pose(numbers, notes)
    if not (full and part and full > 0 and part > 0):
        return CameraView(**angles), False
    if kind not in ("equirectangular", "cylindrical"):
        notes.append(f"its GPano projection {kind!r} is not supported: taken as a photo of unknown field of view")
        return CameraView(**angles), True
    fov = min(360.0, max(1.0, 360.0 * part / full))
    view: dict[str, Any] = {"fov": fov, "projection": kind} | angles
    left = numbers.get("CroppedAreaLeftPixels")
    if "heading" in view and left is not None:  # GPano states the heading of the centre of the uncropped panorama
        view["heading"] = (view["heading"] + 360.0 * ((left + part / 2) / full - 0.5)) % 360.0
    if kind == "equirectangular":
        view |= _vertical(numbers, fov, size, notes)
    return _build_view(view, notes), True


def _vertical(numbers: dict[str, float], fov: float, size: tuple[int, int], notes: list[str]) -> dict[str, float]:
    """Return the vertical field of view and the elevation of the middle row of an equirectangular image."""
    full, part = numbers.get("FullPanoHeightPixels"), numbers.get("CroppedAreaImageHeightPixels")
    top = numbers.get("CroppedAreaTopPixels")
    if not full or not part:
        return {"vertical_fov": min(180.0, fov * size[1] / size[0])}  # assumes square pixels in degrees
    found = {"vertical_fov": min(180.0, 180.0 * part / full)}
    if top is not None:
        found["middle_elevation"] = 180.0 * (0.5 - (top + part / 2) / full)
    return found


def _pose(numbers: dict[str, float], notes: list[str]) -> dict[str, Any]:
    """Return heading, pitch and roll of the GPano metadata."""
    found: dict[str, Any] = {}
    tags = (("heading", "PoseHeadingDegrees", 360.0), ("pitch", "PosePitchDegrees", 90.0))
    for name, tag, limit in (*tags, ("roll", "PoseRollDegrees", 180.0)):
        value = numbers.get(tag)
        if value is not None and abs(value) > limit:
            notes.append(f"its GPano {tag} is {value:g}, expected at most {limit:g} degrees: not used")
        elif value is not None:
            found[name] = value % 360.0 if name == "heading" else value
    return found


def _build_view(view: dict[str, Any], notes: list[str]) -> CameraView:
    """Build the view; values out of range give an empty view and a note."""
    try:
        return CameraView(**view)
    except GenGeoError as error:
        notes.append(f"its GPano metadata cannot be used: {error}")
        return CameraView()


def _lens(focal_35mm: Any, size: tuple[int, int]) -> CameraView:
    """Return the view of an ordinary lens from its 35 mm equivalent focal length (diagonal) and the image size."""
    focal = _number(focal_35mm)
    if focal is None or focal <= 0:
        if abs(size[0] - 2 * size[1]) <= 0.01 * size[0]:  # only full spheres are exactly twice as wide as high
            return CameraView(360.0, projection="equirectangular")
        return CameraView()
    millimetres = FULL_FRAME_DIAGONAL_MM / math.hypot(*size) / 2
    wide, high = (math.degrees(2 * math.atan(side * millimetres / focal)) for side in size)
    return CameraView(max(1.0, wide), vertical_fov=max(1.0, high), projection="perspective")


def _time(exif: Mapping[int, Any]) -> datetime | None:
    """Return DateTimeOriginal with its fraction of a second, or None if it is missing or invalid."""
    text = str(exif.get(ExifTags.Base.DateTimeOriginal, "")).strip("\0 ")
    try:
        time = datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    fraction = re.fullmatch(r"\d{1,9}", str(exif.get(ExifTags.Base.SubsecTimeOriginal, "")).strip("\0 "))
    return time + timedelta(seconds=float(f"0.{fraction[0]}")) if fraction else time


def _number(value: Any) -> float | None:
    """Return the value as a finite float, or None."""
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError, OverflowError):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def _text(value: Any) -> str:
    """Return a short EXIF text in upper case; some cameras store bytes or trailing zero bytes."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return str(value or "").strip("\0 ").upper()
