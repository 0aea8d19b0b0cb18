"""Geodesy: distances in metres, bounds from metres, neighbourhoods on the sphere, the date line and the poles.

Latitudes and longitudes are degrees (WGS84) everywhere. Distances are great-circle distances on the sphere, at most
0.56 % from those on the ellipsoid. Bounds and offsets of a few hundred metres use the radii of curvature of the WGS84
ellipsoid, so a tile of 250 m is 250 m wide at every latitude.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

EARTH_RADIUS_M = 6_371_008.8  # mean radius R1 of the IUGG
_SEMI_MAJOR_M = 6_378_137.0  # WGS84
_ECCENTRICITY_SQUARED = 6.69437999014e-3  # WGS84
FloatArray = NDArray[np.float64]


class Bounds(NamedTuple):
    """A box in degrees. Across the date line `west` is greater than `east` (the rule of RFC 7946, section 5.2)."""

    west: float
    south: float
    east: float
    north: float

    @property
    def crosses_date_line(self) -> bool:
        """True where the box runs over 180 degrees."""
        return self.west > self.east

    @property
    def width(self) -> float:
        """Degrees of longitude from west to east, up to 360."""
        return self.east - self.west + (360.0 if self.crosses_date_line else 0.0)

    def contains(self, lat: float, lon: float) -> bool:
        """True where the position lies in the box or on its edge.

        Args:
            lat, lon: degrees.
        """
        if not self.south <= lat <= self.north:
            return False
        lon = float(wrap_longitude(lon))
        return (lon >= self.west or lon <= self.east) if self.crosses_date_line else self.west <= lon <= self.east

    def overlaps(self, other: "Bounds") -> bool:
        """True where two boxes share ground; an edge in common is none (to a millionth of their size).

        Args:
            other: the other box.
        """
        east = other.west + other.width / 2 - self.west - self.width / 2  # from the middle of one to that of the other
        north = (other.south + other.north - self.south - self.north) / 2
        width = (self.width + other.width) / 2
        height = (self.north - self.south + other.north - other.south) / 2
        apart = abs((east + 180.0) % 360.0 - 180.0)
        return apart < width * (1 - 1e-6) and abs(north) < height * (1 - 1e-6)


def wrap_longitude(lon: ArrayLike) -> FloatArray:
    """Bring longitudes into [-180, 180); 180 itself is kept, because tables write it."""
    lon = np.asarray(lon, dtype=np.float64)
    inside = (lon >= -180.0) & (lon <= 180.0)
    return np.where(inside, lon, (lon + 180.0) % 360.0 - 180.0)


def great_circle_m(lat1: ArrayLike, lon1: ArrayLike, lat2: ArrayLike, lon2: ArrayLike) -> FloatArray:
    """Great-circle distance in metres (haversine, in radians, on the IUGG mean sphere).

    Args:
        lat1, lon1, lat2, lon2: degrees; numbers or arrays that broadcast against each other.

    Returns:
        Metres, in the broadcast shape.
    """
    phi1, lambda1, phi2, lambda2 = (np.radians(np.asarray(v, dtype=np.float64)) for v in (lat1, lon1, lat2, lon2))
    half = np.sin((phi2 - phi1) / 2) ** 2 + np.cos(phi1) * np.cos(phi2) * np.sin((lambda2 - lambda1) / 2) ** 2
    return 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))  # rounding may pass 1 at the antipode


def metres_per_degree(lat: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Metres in one degree of latitude and in one degree of longitude at `lat`, on the WGS84 ellipsoid."""
    phi = np.radians(np.asarray(lat, dtype=np.float64))
    flattening = 1 - _ECCENTRICITY_SQUARED * np.sin(phi) ** 2
    meridian = _SEMI_MAJOR_M * (1 - _ECCENTRICITY_SQUARED) / flattening**1.5
    parallel = _SEMI_MAJOR_M / np.sqrt(flattening) * np.cos(phi)
    return np.radians(1.0) * meridian, np.radians(1.0) * np.maximum(parallel, 0.0)


def offset(lat: ArrayLike, lon: ArrayLike, east_m: ArrayLike, north_m: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The position some metres to the east and north, in the tangent plane at (lat, lon).

    Meant for distances up to some kilometres. A step over a pole comes down on the other side.

    Args:
        lat, lon: degrees. `east_m`, `north_m`: metres. Shapes that broadcast.

    Returns:
        Latitudes and longitudes in degrees.
    """
    arrays = (np.asarray(value, dtype=np.float64) for value in (lat, lon, east_m, north_m))
    lat, lon, east_m, north_m = np.broadcast_arrays(*arrays)
    per_lat, per_lon = metres_per_degree(lat)
    # Right at a pole every longitude is the same place: the step east is left out instead of dividing by zero.
    new_lon = lon + np.where(per_lon > 1e-6, east_m / np.maximum(per_lon, 1e-6), 0.0)
    new_lat = lat + north_m / per_lat
    over = np.abs(new_lat) > 90.0
    new_lat = np.where(over, np.sign(new_lat) * 180.0 - new_lat, new_lat)
    return new_lat, wrap_longitude(np.where(over, new_lon + 180.0, new_lon))


def bounds_around(lat: float, lon: float, width_m: float, height_m: float) -> Bounds:
    """The box of a north-up tile of `width_m` x `height_m` metres whose centre is (lat, lon).

    A tile that touches a pole gets the whole circle of longitudes; one that passes 180 degrees gets west > east.

    Args:
        lat, lon: degrees.
        width_m, height_m: sides from west to east and from south to north.
    """
    per_lat, per_lon = (float(v) for v in metres_per_degree(lat))
    south, north = lat - height_m / 2 / per_lat, lat + height_m / 2 / per_lat
    half_width = width_m / 2 / per_lon if per_lon > 1e-6 else 180.0
    if north >= 90.0 or south <= -90.0 or half_width >= 180.0:
        return Bounds(-180.0, max(south, -90.0), 180.0, min(north, 90.0))
    return Bounds(float(wrap_longitude(lon - half_width)), south, float(wrap_longitude(lon + half_width)), north)


def size_of(bounds: Bounds) -> tuple[float, float]:
    """Width and height of a box in metres, measured along its middle parallel and meridian."""
    per_lat, per_lon = (float(v) for v in metres_per_degree((bounds.south + bounds.north) / 2))
    return bounds.width * per_lon, (bounds.north - bounds.south) * per_lat


def to_unit_vectors(lat: ArrayLike, lon: ArrayLike) -> FloatArray:
    """Points on the unit sphere, shape (..., 3): means and neighbour searches need no care at the date line there."""
    phi, lam = np.radians(np.asarray(lat, dtype=np.float64)), np.radians(np.asarray(lon, dtype=np.float64))
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def arc_m(chord: ArrayLike) -> FloatArray:
    """Great-circle distance in metres of straight distances between points of the unit sphere (`to_unit_vectors`)."""
    return 2 * EARTH_RADIUS_M * np.arcsin(np.clip(np.asarray(chord, dtype=np.float64) / 2, 0.0, 1.0))


def chord(arc_m: float) -> float:
    """Straight distance between two points of the unit sphere whose great-circle distance is `arc_m` metres.

    A search by straight distance loses no digits near zero, and a KD-tree of points answers it without an N x N array.
    """
    return float(2 * np.sin(min(arc_m / EARTH_RADIUS_M, np.pi) / 2))


def mean_position(lat: ArrayLike, lon: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """Weighted mean of positions that lie near each other, right across the date line and at the poles.

    Args:
        lat, lon: degrees, shape (n,).
        weights: shape (n,), at least one of them positive; None weighs all the same.
    """
    shares = None if weights is None else np.asarray(weights, dtype=np.float64)
    x, y, z = np.average(to_unit_vectors(lat, lon), axis=0, weights=shares)
    return float(np.degrees(np.arctan2(z, np.hypot(x, y)))), float(np.degrees(np.arctan2(y, x)))


def mean_positions(group: np.ndarray, lat: np.ndarray, lon: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle of each group of positions on the sphere, right across the date line and at the poles.

    Args:
        group: int (N,), from 0 to `count` - 1: to which group each position belongs.
        lat, lon: degrees, (N,); positions with NaN are left out.
        count: how many groups there are.

    Returns:
        Latitudes and longitudes in degrees, (count,), NaN where a group has no position. A group of one keeps its
        position to the last bit.
    """
    known = ~(np.isnan(lat) | np.isnan(lon))
    group, lat, lon = group[known], lat[known], lon[known]
    points = to_unit_vectors(lat, lon)
    x, y, z = (np.bincount(group, points[:, axis], count) for axis in range(3))
    members = np.bincount(group, minlength=count)
    middle = np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))
    for out, own in zip(middle, (lat, lon), strict=True):
        out[members == 0] = np.nan
        alone = members[group] == 1
        out[group[alone]] = own[alone]
    return middle
