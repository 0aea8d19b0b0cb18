"""Parsers of lengths, times, fractions, ranges, positions and boxes on the command line, such as `100m` or `50%`.

Results are floats in metres, seconds and degrees, and fractions from 0 to 1.
"""

import re
from typing import NamedTuple

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds

_SECONDS = {"": 1.0, "s": 1.0, "ms": 0.001, "min": 60.0}
_METRES = {"": 1.0, "m": 1.0, "km": 1000.0, "ft": 0.3048, "mi": 1609.344}


class Near(NamedTuple):
    """A location prior: only tiles whose centre lies within `radius_m` metres of (lat, lon) are searched."""

    lat: float
    lon: float
    radius_m: float


def parse_metres(text: str) -> float:
    """Parse a length such as `100`, `100m`, `1.5km`, `300ft` or `1mi` to metres.

    Raises:
        GenGeoError: The number is missing, the unit is unknown, or the length is not positive.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found[2] not in _METRES:
        raise GenGeoError(f"{text!r} is not a length: write it as 100m, 1.5km, 300ft or 1mi")
    try:
        metres = float(found[1]) * _METRES[found[2]]
    except ValueError:
        raise GenGeoError(f"{text!r} is not a length: write it as 100m or 1.5km") from None
    if not (np.isfinite(metres) and metres > 0):
        raise GenGeoError(f"a length must be positive, found {text!r}")
    return metres


def parse_seconds(text: str) -> float:
    """Parse a time such as `2`, `2s`, `500ms` or `1min` to seconds.

    Raises:
        GenGeoError: The number is missing, the unit is unknown, or the time is not positive.
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", text.lower())
    try:
        seconds = float(found[1]) * _SECONDS[found[2]] if found is not None else 0.0
    except (ValueError, KeyError):
        seconds = 0.0
    if not (np.isfinite(seconds) and seconds > 0):
        raise GenGeoError(f"{text!r} is not a time between frames: write it as 1s, 500ms or 1min")
    return seconds


def parse_share(text: str) -> float:
    """Parse an overlap such as `50%` or `0.5` to a fraction in [0, 1).

    Raises:
        GenGeoError: The text is not a number, or the fraction is outside [0, 1).
    """
    try:
        share = float(text.strip().removesuffix("%")) / (100.0 if text.strip().endswith("%") else 1.0)
    except ValueError:
        raise GenGeoError(f"{text!r} is not a fraction: write it as 50% or 0.5") from None
    if not 0.0 <= share < 1.0:
        raise GenGeoError(f"the overlap must be at least 0 % and less than 100 %, found {text!r}")
    return share


def parse_range(text: str) -> tuple[float, float]:
    """Parse a range `low,high` with `low` below `high`.

    Raises:
        GenGeoError: The text is not two numbers, or `low` is not below `high`.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise GenGeoError(f"{text!r} is not a range: write low,high, for example 0,3000") from None
    if not low < high:
        raise GenGeoError(f"the second value of a range must be greater than the first, found {text!r}")
    return low, high


def parse_near(text: str) -> Near:
    """Parse a location prior `lat,lon,radius`, for example `60.17,24.94,2km`.

    Raises:
        GenGeoError: The text does not have three parts, or the position or the radius is out of range.
    """
    parts = text.split(",")
    if len(parts) != 3:
        raise GenGeoError(f"{text!r} is not a position with a radius: write lat,lon,radius, as in 60.17,24.94,2km")
    try:
        lat, lon = float(parts[0]), float(parts[1])
    except ValueError:
        raise GenGeoError(f"{text!r} does not start with a latitude and a longitude in degrees") from None
    return check_near(Near(lat, lon, parse_metres(parts[2])))


def check_near(near: tuple[float, float, float]) -> Near:
    """Check a location prior (latitude, longitude in degrees, radius in metres) and return it as `Near`.

    Raises:
        GenGeoError: The position is out of range, or the radius is not positive.
    """
    lat, lon, radius_m = near
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise GenGeoError(
            f"{lat}, {lon} is not a position: expected latitude -90..90, longitude -180..180 degrees, in this order"
        )
    if not (np.isfinite(radius_m) and radius_m > 0):
        raise GenGeoError(f"the radius must be a positive number of metres, found {radius_m}")
    return Near(float(lat), float(lon), float(radius_m))


def parse_bounds(text: str) -> Bounds:
    """Parse a box `west,south,east,north` in degrees; a box with west > east crosses the date line.

    Raises:
        GenGeoError: The text is not four numbers, or the box is out of range.
    """
    try:
        box = Bounds(*map(float, text.split(",")))
    except (ValueError, TypeError):
        raise GenGeoError(f"{text!r} is not a box: write west,south,east,north in degrees") from None
    if not (-90 <= box.south < box.north <= 90 and abs(box.west) <= 180 and abs(box.east) <= 180):
        raise GenGeoError(f"{text!r} is not a box on Earth: west,south,east,north in degrees, south below north")
    return box
