"""What people write for sizes and places: `100m`, `2km`, `50%`, `60.17,24.94,2km`.

Gives floats in metres, degrees and shares.
"""

import re
from typing import NamedTuple

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds

_SECONDS = {"": 1.0, "s": 1.0, "ms": 0.001, "min": 60.0}
_METRES = {"": 1.0, "m": 1.0, "km": 1000.0, "ft": 0.3048, "mi": 1609.344}


class Near(NamedTuple):
    """A location prior: only tiles whose centre lies within `radius_m` metres of (lat, lon) are asked."""

    lat: float
    lon: float
    radius_m: float


def parse_metres(text: str) -> float:
    """Metres from `100`, `100m`, `1.5km`, `300ft` or `1mi`.

    Raises:
        GenGeoError: no number, an unknown unit, or a length that is not positive.
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
    """Seconds from `2`, `2s`, `500ms` or `1min`.

    Raises:
        GenGeoError: no number, an unknown unit, or a time that is not positive.
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
    """A share in [0, 1) from `50%` or `0.5`.

    Raises:
        GenGeoError: not a number, or outside [0, 1).
    """
    try:
        share = float(text.strip().removesuffix("%")) / (100.0 if text.strip().endswith("%") else 1.0)
    except ValueError:
        raise GenGeoError(f"{text!r} is not a share: write it as 50% or 0.5") from None
    if not 0.0 <= share < 1.0:
        raise GenGeoError(f"the overlap must be at least 0 % and less than 100 %, found {text!r}")
    return share


def parse_range(text: str) -> tuple[float, float]:
    """Two values, the second one greater, from `low,high`.

    Raises:
        GenGeoError: not two numbers that rise.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise GenGeoError(f"{text!r} is not a range: write low,high, for example 0,3000") from None
    if not low < high:
        raise GenGeoError(f"a range must rise, found {text!r}")
    return low, high


def parse_near(text: str) -> Near:
    """A location prior from `lat,lon,radius`, for example `60.17,24.94,2km`.

    Raises:
        GenGeoError: not three parts, or a position that is not on Earth.
    """
    parts = text.split(",")
    if len(parts) != 3:
        raise GenGeoError(f"{text!r} is not a place: write lat,lon,radius, for example 60.17,24.94,2km")
    try:
        lat, lon = float(parts[0]), float(parts[1])
    except ValueError:
        raise GenGeoError(f"{text!r} does not start with a latitude and a longitude in degrees") from None
    return check_near(Near(lat, lon, parse_metres(parts[2])))


def check_near(near: tuple[float, float, float]) -> Near:
    """The prior as `Near`, refused where it is not a place on Earth with a positive radius in metres.

    Raises:
        GenGeoError: a position that is not on Earth, or a radius that is not positive.
    """
    lat, lon, radius_m = near
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise GenGeoError(f"{lat}, {lon} is not a place: latitude -90..90, longitude -180..180 degrees, in this order")
    if not (np.isfinite(radius_m) and radius_m > 0):
        raise GenGeoError(f"the radius must be a positive number of metres, found {radius_m}")
    return Near(float(lat), float(lon), float(radius_m))


def parse_bounds(text: str) -> Bounds:
    """A box from `west,south,east,north` in degrees; west > east runs across the date line.

    Raises:
        GenGeoError: not four numbers, or not a box on Earth.
    """
    try:
        box = Bounds(*map(float, text.split(",")))
    except (ValueError, TypeError):
        raise GenGeoError(f"{text!r} is not a box: write west,south,east,north in degrees") from None
    if not (-90 <= box.south < box.north <= 90 and abs(box.west) <= 180 and abs(box.east) <= 180):
        raise GenGeoError(f"{text!r} is not a box on Earth: west,south,east,north in degrees, south below north")
    return box
