"""Areas on the ground: a box, a circle around a position, or the polygons of a GeoJSON file.

Coordinates are degrees (WGS84). Longitudes inside an area are continuous: across the date line they run beyond 180, so
that an area of Fiji is one part and not two.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.geo import EARTH_RADIUS_M, Bounds, bounds_around, great_circle_m, metres_per_degree
from gengeo_hf.common.units import Near, parse_bounds, parse_near


class Area:
    """An area from which tiles or photos are selected.

    Build one with `from_bounds`, `from_near`, `from_geojson` or `parse_area`.

    Args:
        text: Name of the area in messages.
        boxes: South, north, west, east of each part in degrees, shape (parts, 4); east may lie beyond 180.
        near: The circle; None if the area is not a circle.
        polygons: A shapely geometry in degrees; None if the area does not consist of polygons.
    """

    def __init__(self, text: str, boxes: np.ndarray, near: Near | None = None, polygons: Any = None) -> None:
        self.text, self.boxes = text, np.asarray(boxes, dtype=np.float64)
        self._near, self._polygons = near, polygons

    def __str__(self) -> str:
        return self.text

    @classmethod
    def from_bounds(cls, bounds: Bounds) -> "Area":
        """Return the area of a box; a box with `west` greater than `east` crosses the date line."""
        east = bounds.west + bounds.width
        text = "the box " + ",".join(f"{value:g}" for value in bounds)
        return cls(text, np.array([[bounds.south, bounds.north, bounds.west, east]]))

    @classmethod
    def from_near(cls, near: Near) -> "Area":
        """Return the circle of `radius_m` metres around a position."""
        box = bounds_around(near.lat, near.lon, 2 * near.radius_m, 2 * near.radius_m)
        text = f"{near.radius_m:g} m around {near.lat:g},{near.lon:g}"
        return cls(text, np.array([[box.south, box.north, box.west, box.west + box.width]]), near=near)

    @classmethod
    def from_geojson(cls, path: str | Path) -> "Area":
        """Read the polygons of a GeoJSON file (RFC 7946), with their holes.

        Args:
            path: File with a Polygon, MultiPolygon, Feature, FeatureCollection or GeometryCollection, in degrees.

        Raises:
            GenGeoError: The file cannot be read, contains no polygon, or its coordinates are not degrees.
            MissingExtraError: shapely is not installed.
        """
        try:
            import shapely
        except ImportError as error:
            raise MissingExtraError("shapely", "net", "read an area from GeoJSON") from error
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            rings = list(_polygons(content))
        except OSError as error:
            raise GenGeoError(f"the area {path} cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise GenGeoError(f"{path} is not GeoJSON with polygons: {error}") from error
        if not rings:
            raise GenGeoError(f"{path} holds no polygon: an area is a Polygon or MultiPolygon, with latitude second")
        shape = _join([shapely.Polygon(shell, holes) for shell, *holes in rings], path)
        parts = shapely.get_parts(shape)
        boxes = np.array([[part.bounds[i] for i in (1, 3, 0, 2)] for part in parts])
        return cls(str(path), boxes, polygons=shape)

    @property
    def area_m2(self) -> float:
        """Surface of the area on the sphere in square metres."""
        if self._near is not None:
            return math.pi * self._near.radius_m**2
        if self._polygons is None:
            south, north, west, east = np.radians(self.boxes).T
            return float((EARTH_RADIUS_M**2 * (np.sin(north) - np.sin(south)) * (east - west)).sum())
        import shapely

        # Lambert's cylindrical projection is equal-area.
        flat = shapely.transform(
            self._polygons, lambda xy: np.stack([np.radians(xy[:, 0]), np.sin(np.radians(xy[:, 1]))], axis=1)
        )
        return float(flat.area) * EARTH_RADIUS_M**2

    @property
    def bounds(self) -> Bounds:
        """The smallest box that contains the area."""
        south, west = float(self.boxes[:, 0].min()), float(self.boxes[:, 2].min())
        north, east = float(self.boxes[:, 1].max()), float(self.boxes[:, 3].max())
        if east - west >= 360.0:
            return Bounds(-180.0, south, 180.0, north)
        return Bounds(west - 360.0 if west > 180.0 else west, south, east - 360.0 if east > 180.0 else east, north)

    @property
    def near(self) -> Near | None:
        """The circle if the area is a circle, else None."""
        return self._near

    def around(self) -> Near:
        """Return a circle that contains the area: the area itself, or one through the corners of its bounds."""
        if self._near is not None:
            return self._near
        west, south, east, north = self.bounds
        width = (east - west) % 360.0 or (360.0 if east != west else 0.0)
        if width > 180.0:
            return Near(0.0, 0.0, 2 * math.pi * EARTH_RADIUS_M)
        lat, lon = (south + north) / 2, west + width / 2
        edge_lat = np.array([south, south, north, north, min(max(0.0, south), north)])
        edge_lon = np.array([west, west + width, west, west + width, west])
        radius_m = float(great_circle_m(lat, lon, edge_lat, edge_lon).max())
        return Near(lat, (lon + 180.0) % 360.0 - 180.0, 1.001 * radius_m + 1.0)

    def touches(self, lat: np.ndarray, lon: np.ndarray, side_m: float) -> np.ndarray:
        """Test which squares intersect the area.

        Args:
            lat, lon: Centres of the squares in degrees, each of shape (n,).
            side_m: Side of the squares in metres on the ground; 0 tests the centres.

        Returns:
            Bool array of shape (n,).
        """
        lat, lon = np.asarray(lat, dtype=np.float64), np.asarray(lon, dtype=np.float64)
        per_lat, per_lon = metres_per_degree(lat)
        high, wide = side_m / 2 / per_lat, side_m / 2 / np.maximum(per_lon, 1e-3)
        if self._near is not None:
            return self._touches_circle(lat, lon, high, wide)
        inside = np.zeros(len(lat), dtype=bool)
        for turn in (-360.0, 0.0, 360.0):
            west, south, east, north = lon + turn - wide, lat - high, lon + turn + wide, lat + high
            for box in self.boxes if self._polygons is None else ():
                inside |= (south <= box[1]) & (north >= box[0]) & (west <= box[3]) & (east >= box[2])
            if self._polygons is not None:
                inside |= self._touches_polygons(west, south, east, north)
        return inside

    def _touches_circle(self, lat: np.ndarray, lon: np.ndarray, high: np.ndarray, wide: np.ndarray) -> np.ndarray:
        assert self._near is not None
        apart = (self._near.lon - lon + 180.0) % 360.0 - 180.0
        nearest_lon = lon + np.clip(apart, -wide, wide)
        nearest_lat = lat + np.clip(self._near.lat - lat, -high, high)
        return great_circle_m(self._near.lat, self._near.lon, nearest_lat, nearest_lon) <= self._near.radius_m

    def _touches_polygons(self, west: np.ndarray, south: np.ndarray, east: np.ndarray, north: np.ndarray) -> np.ndarray:
        import shapely

        shapely.prepare(self._polygons)
        found = np.zeros(len(west), dtype=bool)
        box = self._polygons.bounds
        near = np.flatnonzero((east >= box[0]) & (west <= box[2]) & (north >= box[1]) & (south <= box[3]))
        for rows in np.array_split(near, max(1, len(near) // 50_000)):  # bounds the memory of the shapely boxes
            squares = shapely.box(west[rows], south[rows], east[rows], north[rows])
            found[rows] = shapely.intersects(self._polygons, squares)
        return found


def parse_area(area: str | Path | None = None, bounds: str | None = None, near: str | None = None) -> Area | None:
    """Build the area from the options of a command.

    Args:
        area: Path of a GeoJSON file.
        bounds: Box as `west,south,east,north` in degrees.
        near: Circle as `lat,lon,radius`, for example `60.17,24.94,2km`.

    Returns:
        The area, or None if no option is set.

    Raises:
        GenGeoError: More than one option is set, or a value cannot be parsed.
    """
    given = [name for name, value in (("--area", area), ("--bounds", bounds), ("--near", near)) if value]
    if len(given) > 1:
        raise GenGeoError(f"{' and '.join(given)} both set the area: give one of them")
    if area:
        return Area.from_geojson(area)
    if bounds:
        return Area.from_bounds(parse_bounds(bounds))
    return Area.from_near(parse_near(near)) if near else None


def _polygons(value: Any) -> Any:
    """Yield the rings of every polygon in a GeoJSON value, as lists of arrays (points, 2) in degrees."""
    kind = value["type"]
    if kind == "FeatureCollection":
        for feature in value["features"]:
            yield from _polygons(feature)
    elif kind == "Feature":
        yield from _polygons(value["geometry"]) if value["geometry"] else ()
    elif kind == "GeometryCollection":
        for geometry in value["geometries"]:
            yield from _polygons(geometry)
    elif kind in ("Polygon", "MultiPolygon"):
        for polygon in [value["coordinates"]] if kind == "Polygon" else value["coordinates"]:
            rings = [_ring(ring) for ring in polygon]
            if rings:
                yield rings


def _ring(points: Sequence[Sequence[float]]) -> np.ndarray:
    """Return a ring in degrees, (points, 2), with longitudes that are continuous across the date line."""
    ring = np.array([[float(point[0]), float(point[1])] for point in points])
    if ring.ndim != 2 or len(ring) < 4 or not np.isfinite(ring).all():
        raise ValueError("a ring has four positions or more, of longitude and latitude")
    if np.abs(ring[:, 1]).max() > 90 or np.abs(ring[:, 0]).max() > 540:
        raise ValueError(
            f"{ring[0].tolist()} is not a position in degrees, longitude first; convert the file to WGS84 (EPSG:4326)"
        )
    steps = np.diff(ring[:, 0])
    is_jump = (np.abs(steps) > 180) & (np.abs(steps) < 360)  # 359.9 -> 0.1 as well as 179 -> -179
    ring[1:, 0] -= np.cumsum(np.where(is_jump, np.sign(steps) * 360.0, 0.0))
    return ring


def _join(polygons: list, path: str | Path) -> Any:
    """Join polygons into one valid geometry; parts that RFC 7946, section 3.1.9, splits at 180 degrees become one."""
    import shapely

    east_end = any(polygon.bounds[2] >= 180.0 for polygon in polygons)
    moved = []
    for polygon in polygons:
        starts_at_line = polygon.bounds[0] <= -180.0 and polygon.bounds[2] < 180.0
        shift = 360.0 if east_end and starts_at_line else 0.0
        moved.append(shapely.transform(shapely.make_valid(polygon), lambda xy, by=shift: xy + np.array([by, 0.0])))
    shape = shapely.union_all(moved)
    if shape.is_empty or shape.area <= 0:
        raise GenGeoError(f"{path} encloses no ground: its polygons have no area")
    return shape
