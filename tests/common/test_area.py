"""Areas: boxes, circles and GeoJSON polygons, with holes, in parts and across the date line."""

import json

import numpy as np
import pytest

from gengeo_hf.common.area import Area, parse_area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M, great_circle_m
from gengeo_hf.common.units import Near


def write(path, geometry, **extra):
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": geometry} | extra))
    return path


def square(west, south, east, north):
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "area.geojson"


def test_touches_polygon_with_hole_excludes_hole(file):
    rings = [square(24.0, 60.0, 25.0, 61.0), square(24.4, 60.4, 24.6, 60.6)]
    area = parse_area(area=write(file, {"type": "Polygon", "coordinates": rings}))
    points = np.array([[60.2, 24.2], [60.5, 24.5], [60.5, 24.45], [61.5, 24.5]])
    assert area.touches(points[:, 0], points[:, 1], 0.0).tolist() == [True, False, False, False]
    # A square across the edge of the hole intersects the area.
    assert area.touches(np.array([60.5]), np.array([24.401]), 1000.0).tolist() == [True]


def test_area_m2_equals_spherical_formula(file):
    area = parse_area(area=write(file, {"type": "Polygon", "coordinates": [square(24.0, 60.0, 25.0, 61.0)]}))
    strip = EARTH_RADIUS_M**2 * (np.sin(np.radians(61)) - np.sin(np.radians(60))) * np.radians(1)
    assert area.area_m2 == pytest.approx(strip, rel=1e-4)
    assert parse_area(bounds="24,60,25,61").area_m2 == pytest.approx(strip, rel=1e-9)


@pytest.mark.parametrize(
    "parts",
    [
        [[square(179.0, -18.0, 180.0, -17.0)], [square(-180.0, -18.0, -179.0, -17.0)]],  # split, as in RFC 7946
        [[square(179.0, -18.0, -179.0, -17.0)]],  # longitudes of both signs
        [[square(179.0, -18.0, 181.0, -17.0)]],  # a longitude beyond 180, as some programs write
    ],
)
def test_from_geojson_across_date_line_is_one_part(file, parts):
    area = parse_area(area=write(file, {"type": "MultiPolygon", "coordinates": parts}))
    assert len(area.boxes) == 1 and area.boxes[0].tolist() == [-18.0, -17.0, 179.0, 181.0]
    lon = np.array([179.5, -179.5, 180.0, -180.0, 178.0, 0.0])
    assert area.touches(np.full(6, -17.5), lon, 0.0).tolist() == [True, True, True, True, False, False]
    assert area.bounds == parse_area(bounds="179,-18,-179,-17").bounds


def test_touches_bounds_across_date_line_includes_both_sides():
    area = parse_area(bounds="179,-18,-179,-17")
    lon = np.array([179.5, -179.5, 178.0])
    assert area.touches(np.full(3, -17.5), lon, 0.0).tolist() == [True, True, False]


def test_touches_circle_includes_intersecting_squares():
    area = parse_area(near="60,24,1km")
    lat, lon = np.full(3, 60.0), 24.0 + np.array([900.0, 1040.0, 1060.0]) / 55_800
    assert area.touches(lat, lon, 100.0).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"type": "Point", "coordinates": [24, 60]}, "holds no polygon"),
        ({"type": "Polygon", "coordinates": [square(385000, 6670000, 386000, 6671000)]}, "EPSG:4326"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "four positions"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]}, "no area"),
        ({"type": "Polygon"}, "is not GeoJSON"),
        ({"type": "Polygon", "coordinates": [[["a", 0], [1, 1], [2, 2], [0, 0]]]}, "is not GeoJSON"),
    ],
)
def test_from_geojson_invalid_geometry_is_refused(file, geometry, message):
    with pytest.raises(GenGeoError, match=message):
        Area.from_geojson(write(file, geometry))


def test_parse_area_two_options_or_unreadable_file_is_refused(file):
    with pytest.raises(GenGeoError, match="--bounds and --near"):
        parse_area(bounds="24,60,25,61", near="60,24,1km")
    with pytest.raises(GenGeoError, match="cannot be read"):
        parse_area(area=file)
    file.write_text("<html>")
    with pytest.raises(GenGeoError, match="is not GeoJSON"):
        parse_area(area=file)


@pytest.mark.parametrize(
    "bounds", ["24,60,25,61", "-71,-35,-70,-30", "179.5,-17,-179.5,-16", "-10,-5,10,40", "-170,0,170,1"]
)
def test_around_circle_contains_bounds(bounds):
    area = parse_area(bounds=bounds)
    circle = area.around()
    box = area.bounds
    east = box.west + (box.east - box.west) % 360
    lat, lon = np.meshgrid(np.linspace(box.south, box.north, 41), np.linspace(box.west, east, 41))
    assert np.all(great_circle_m(lat, lon, circle.lat, circle.lon) <= circle.radius_m)
    assert parse_area(near="60,24,2km").around() == Near(60.0, 24.0, 2000.0)
