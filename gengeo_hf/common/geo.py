"""Geodesy: distances in metres, bounds of tiles, unit vectors on the sphere, the date line and the poles.

Latitudes and longitudes are degrees (WGS84) everywhere. Distances are great-circle distances on the sphere, at most
0.56 % from those on the ellipsoid. Bounds and offsets of a few hundred metres use the radii of curvature of the WGS84
ellipsoid, so that a tile of 250 m is 250 m wide at every latitude.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

EARTH_RADIUS_M = 6_371_008.8  # mean radius R1 of the IUGG
_SEMI_MAJOR_M = 6_378_137.0  # WGS84
_ECCENTRICITY_SQUARED = 6.69437999014e-3  # WGS84
FloatArray = NDArray[np.float64]


class Bounds(NamedTuple):
    """A box in degrees. A box that crosses the date line has `west` greater than `east` (RFC 7946, section 5.2)."""

    west: float
    south: float
    east: float
    north: float

    @property
    def crosses_date_line(self) -> bool:
        """Whether the box crosses the meridian of 180 degrees."""
        return self.west > self.east

    @property
    def width(self) -> float:
        """Degrees of longitude from west to east, at most 360."""
        return self.east - self.west + (360.0 if self.crosses_date_line else 0.0)

    def contains(self, lat: float, lon: float) -> bool:
        """Test whether a position lies in the box or on its edge.

        Args:
            lat, lon: Position in degrees.
        """
        if not self.south <= lat <= self.north:
            return False
        lon = float(wrap_longitude(lon))
        return (lon >= self.west or lon <= self.east) if self.crosses_date_line else self.west <= lon <= self.east

    def overlaps(self, other: "Bounds") -> bool:
        """Test whether two boxes overlap; a common edge, to a millionth of their size, is not an overlap.

        Args:
            other: Box to compare with.
        """
        east = other.west + other.width / 2 - self.west - self.width / 2  # between the centres of the boxes
        north = (other.south + other.north - self.south - self.north) / 2
        width = (self.width + other.width) / 2
        height = (self.north - self.south + other.north - other.south) / 2
        apart = abs((east + 180.0) % 360.0 - 180.0)
        return apart < width * (1 - 1e-6) and abs(north) < height * (1 - 1e-6)


def wrap_longitude(lon: ArrayLike) -> FloatArray:
    """Wrap longitudes in degrees into [-180, 180); 180 itself is kept, because tables contain it."""
    lon = np.asarray(lon, dtype=np.float64)
    inside = (lon >= -180.0) & (lon <= 180.0)
    return np.where(inside, lon, (lon + 180.0) % 360.0 - 180.0)


def great_circle_m(lat1: ArrayLike, lon1: ArrayLike, lat2: ArrayLike, lon2: ArrayLike) -> FloatArray:
    """Great-circle distance in metres (haversine formula on the IUGG mean sphere).

    Args:
        lat1, lon1, lat2, lon2: Positions in degrees; numbers or arrays that broadcast against each other.

    Returns:
        Distances in metres, of the broadcast shape.
    """
    phi1, lambda1, phi2, lambda2 = (np.radians(np.asarray(v, dtype=np.float64)) for v in (lat1, lon1, lat2, lon2))
    half = np.sin((phi2 - phi1) / 2) ** 2 + np.cos(phi1) * np.cos(phi2) * np.sin((lambda2 - lambda1) / 2) ** 2
    return 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))  # rounding may exceed 1 at the antipode


def metres_per_degree(lat: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Metres in one degree of latitude and in one degree of longitude at `lat`, on the WGS84 ellipsoid."""
    phi = np.radians(np.asarray(lat, dtype=np.float64))
    flattening = 1 - _ECCENTRICITY_SQUARED * np.sin(phi) ** 2
    meridian = _SEMI_MAJOR_M * (1 - _ECCENTRICITY_SQUARED) / flattening**1.5
    parallel = _SEMI_MAJOR_M / np.sqrt(flattening) * np.cos(phi)
    return np.radians(1.0) * meridian, np.radians(1.0) * np.maximum(parallel, 0.0)


def offset(lat: ArrayLike, lon: ArrayLike, east_m: ArrayLike, north_m: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Move positions by metres to the east and north, in the tangent plane at (lat, lon).

    Accurate for distances up to some kilometres. A step beyond a pole continues on the opposite meridian.

    Args:
        lat, lon: Positions in degrees. All arguments broadcast against each other.
        east_m, north_m: Offsets in metres, positive to the east and north.

    Returns:
        Latitudes and longitudes in degrees, of the broadcast shape.
    """
    arrays = (np.asarray(value, dtype=np.float64) for value in (lat, lon, east_m, north_m))
    lat, lon, east_m, north_m = np.broadcast_arrays(*arrays)
    per_lat, per_lon = metres_per_degree(lat)
    # At a pole all longitudes are the same point: the step east is omitted instead of dividing by zero.
    new_lon = lon + np.where(per_lon > 1e-6, east_m / np.maximum(per_lon, 1e-6), 0.0)
    new_lat = lat + north_m / per_lat
    over = np.abs(new_lat) > 90.0
    new_lat = np.where(over, np.sign(new_lat) * 180.0 - new_lat, new_lat)
    return new_lat, wrap_longitude(np.where(over, new_lon + 180.0, new_lon))


def bounds_around(lat: float, lon: float, width_m: float, height_m: float) -> Bounds:
    """Bounds of a north-up tile of `width_m` x `height_m` metres with its centre at (lat, lon).

    A tile that touches a pole gets all longitudes; a tile that crosses 180 degrees gets west > east.

    Args:
        lat, lon: Centre in degrees.
        width_m, height_m: Sides in metres from west to east and from south to north.
    """
    per_lat, per_lon = (float(v) for v in metres_per_degree(lat))
    south, north = lat - height_m / 2 / per_lat, lat + height_m / 2 / per_lat
    half_width = width_m / 2 / per_lon if per_lon > 1e-6 else 180.0
    if north >= 90.0 or south <= -90.0 or half_width >= 180.0:
        return Bounds(-180.0, max(south, -90.0), 180.0, min(north, 90.0))
    return Bounds(float(wrap_longitude(lon - half_width)), south, float(wrap_longitude(lon + half_width)), north)


def size_of(bounds: Bounds) -> tuple[float, float]:
    """Return width and height of a box in metres, along its middle parallel and meridian."""
    per_lat, per_lon = (float(v) for v in metres_per_degree((bounds.south + bounds.north) / 2))
    return bounds.width * per_lon, (bounds.north - bounds.south) * per_lat


def to_unit_vectors(lat: ArrayLike, lon: ArrayLike) -> FloatArray:
    """Convert degrees to unit vectors, shape (..., 3), in which means and neighbour searches ignore the date line."""
    phi, lam = np.radians(np.asarray(lat, dtype=np.float64)), np.radians(np.asarray(lon, dtype=np.float64))
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def arc_m(chord: ArrayLike) -> FloatArray:
    """Convert straight distances between unit vectors (`to_unit_vectors`) to great-circle distances in metres."""
    return 2 * EARTH_RADIUS_M * np.arcsin(np.clip(np.asarray(chord, dtype=np.float64) / 2, 0.0, 1.0))


def chord(arc_m: float) -> float:
    """Convert a great-circle distance of `arc_m` metres to the straight distance between two unit vectors.

    Straight distances keep their precision near zero, and a KD-tree searches by them without an N x N array.
    """
    return float(2 * np.sin(min(arc_m / EARTH_RADIUS_M, np.pi) / 2))


def mean_position(lat: ArrayLike, lon: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """Weighted mean of positions near each other, correct across the date line and at the poles.

    Args:
        lat, lon: Positions in degrees, shape (n,).
        weights: Weights of shape (n,), at least one of them positive; None weights all positions equally.

    Returns:
        Latitude and longitude in degrees.
    """
    factors = None if weights is None else np.asarray(weights, dtype=np.float64)
    x, y, z = np.average(to_unit_vectors(lat, lon), axis=0, weights=factors)
    return float(np.degrees(np.arctan2(z, np.hypot(x, y)))), float(np.degrees(np.arctan2(y, x)))


def mean_positions(group: np.ndarray, lat: np.ndarray, lon: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean position of each group of positions, correct across the date line and at the poles.

    Args:
        group: Group of each position, int from 0 to `count` - 1, shape (N,).
        lat, lon: Positions in degrees, shape (N,); positions with NaN are ignored.
        count: Number of groups.

    Returns:
        Latitudes and longitudes in degrees, shape (count,), NaN for a group without positions. The position of a group
        of one is returned exactly.
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
