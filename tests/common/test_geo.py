import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gengeo_hf.common.geo import (
    Bounds,
    bounds_around,
    great_circle_m,
    mean_position,
    metres_per_degree,
    offset,
    size_of,
    wrap_longitude,
)

pyproj = pytest.importorskip("pyproj")
SPHERE = pyproj.Geod(a=6_371_008.8, b=6_371_008.8)
WGS84 = pyproj.Geod(ellps="WGS84")
latitudes, longitudes = st.floats(-90, 90), st.floats(-180, 180)


@settings(max_examples=150, deadline=None)
@given(latitudes, longitudes, latitudes, longitudes)
@example(0.0, 179.9999, 0.0, -179.9999)
@example(90.0, 0.0, 90.0, 123.0)
@example(10.0, 20.0, -10.0, -160.0)
def test_great_circle_m_equals_geodesic_on_sphere(lat1, lon1, lat2, lon2):
    found = float(great_circle_m(lat1, lon1, lat2, lon2))
    assert found == pytest.approx(SPHERE.inv(lon1, lat1, lon2, lat2)[2], abs=0.2)  # arcsin loses digits at the antipode
    assert found == pytest.approx(WGS84.inv(lon1, lat1, lon2, lat2)[2], rel=0.0057, abs=0.01)


def test_great_circle_m_takes_degrees_and_broadcasts():
    found = great_circle_m(np.array([[0.0], [60.0]]), 0.0, np.array([0.0, 1.0, 2.0]), 0.0)
    assert found.shape == (2, 3)
    assert found[0, 1] == pytest.approx(111_195, abs=1)


@settings(max_examples=150, deadline=None)
@given(st.floats(-89.5, 89.5), longitudes, st.floats(1, 2000), st.floats(1, 2000))
@example(60.0, 179.9999, 250.0, 250.0)
def test_bounds_around_has_requested_size(lat, lon, width, height):
    box = bounds_around(lat, lon, width, height)
    assert box.contains(lat, lon)
    if box.west == -180 and box.east == 180:
        return
    assert WGS84.inv(lon, box.south, lon, box.north)[2] == pytest.approx(height, rel=1e-4)
    west, east = WGS84.inv(lon, lat, box.west, lat)[2], WGS84.inv(lon, lat, box.east, lat)[2]
    assert west + east == pytest.approx(width, rel=2e-3)  # near a pole a geodesic is shorter than the parallel
    assert size_of(box) == pytest.approx((width, height), rel=1e-3)


def test_bounds_around_across_date_line_has_west_greater_than_east():
    box = bounds_around(-17.0, 180.0, 400, 400)
    assert box.crosses_date_line and box.west > 179 and box.east < -179
    assert box.contains(-17.0, -179.999) and box.contains(-17.0, 179.999) and not box.contains(-17.0, 0.0)
    assert box.contains(-17.0, 180.001)


@pytest.mark.parametrize("lat", [90.0, 89.9995, -90.0])
def test_bounds_around_pole_contains_all_longitudes(lat):
    box = bounds_around(lat, 33.0, 500, 500)
    assert (box.west, box.east) == (-180.0, 180.0) and -90 <= box.south < box.north <= 90


@settings(max_examples=150, deadline=None)
@given(st.floats(-85, 85), longitudes, st.floats(-300, 300), st.floats(-300, 300), st.floats(20, 200))
@example(-17.0, 179.9999, 90.0, 0.0, 100.0)
@example(0.0, 0.0, 100.0, 0.0, 100.0)
def test_overlaps_is_true_for_common_point_and_false_when_apart(lat, lon, east, north, side):
    there = tuple(map(float, offset(lat, lon, east, north)))
    box, other = bounds_around(lat, lon, side, side), bounds_around(*there, side, side)
    spots = [
        offset(lat, lon, side * x, side * y) for x in np.linspace(-0.49, 0.49, 9) for y in np.linspace(-0.49, 0.49, 9)
    ]
    if any(box.contains(*map(float, spot)) and other.contains(*map(float, spot)) for spot in spots):
        assert box.overlaps(other) and other.overlaps(box)
    if max(abs(east), abs(north)) > 1.02 * side:
        assert not box.overlaps(other) and not other.overlaps(box)


def test_overlaps_at_pole_and_common_edge():
    pole = bounds_around(89.9995, 33.0, 500, 500)
    assert pole.overlaps(bounds_around(89.999, -120.0, 500, 500)) and not pole.overlaps(
        bounds_around(89.9, 33, 500, 500)
    )
    assert not Bounds(0, 0, 1, 1).overlaps(Bounds(1, 0, 2, 1)) and not Bounds(0, 0, 1, 1).overlaps(Bounds(0, 1, 1, 2))
    assert Bounds(-180, -90, 180, 90).overlaps(Bounds(179, 0, -179, 1))


@settings(max_examples=150, deadline=None)
@given(st.floats(-89, 89), longitudes, st.floats(-1000, 1000), st.floats(-1000, 1000))
def test_offset_has_requested_length(lat, lon, east, north):
    new = offset(lat, lon, east, north)
    # At 89 degrees meridians converge within the step, which the tangent plane ignores.
    tolerance = 0.3 if abs(lat) > 80 else 2e-3
    assert WGS84.inv(lon, lat, float(new[1]), float(new[0]))[2] == pytest.approx(
        np.hypot(east, north), rel=tolerance, abs=0.5
    )


def test_offset_over_pole_continues_on_opposite_meridian():
    lat, lon = offset(89.999, 10.0, 0.0, 1000.0)
    assert lat < 90 and lon == pytest.approx(-170.0)


def test_mean_position_crosses_date_line_and_uses_weights():
    assert mean_position([10, 10], [179.0, -179.0])[1] == pytest.approx(180, abs=1e-6)
    assert mean_position([10, 20], [5, 5], [3, 1])[0] == pytest.approx(12.5, abs=0.05)


@given(st.floats(-1e4, 1e4))
def test_wrap_longitude_keeps_direction(lon):
    wrapped = float(wrap_longitude(lon))
    assert -180 <= wrapped <= 180
    assert np.cos(np.radians(wrapped)) == pytest.approx(np.cos(np.radians(lon)), abs=1e-9)


def test_metres_per_degree_equals_ellipsoid():
    for lat in (0.0, 45.0, 60.0, 80.0):
        per_lat, per_lon = metres_per_degree(lat)
        assert per_lat == pytest.approx(WGS84.inv(0, lat - 0.005, 0, lat + 0.005)[2] * 100, rel=1e-6)
        assert per_lon == pytest.approx(WGS84.inv(0, lat, 0.001, lat)[2] * 1000, rel=1e-6)


def test_crosses_date_line_whole_earth_is_false():
    assert not Bounds(-180, -90, 180, 90).crosses_date_line
