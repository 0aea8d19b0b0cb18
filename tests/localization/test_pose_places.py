"""Places with poses: radii and uncertainty."""

import pytest

from gengeo_hf.localization.answers import Place
from gengeo_hf.localization.pose_places import add_radii

PLACE = Place(1, 60.0, 25.0, 0.9, "t", uncertainty_m=30.0)


@pytest.mark.parametrize(
    ("factors", "radius_68", "radius_95", "uncertainty"),
    [
        ({"0.68": 1.5, "0.95": 4.0}, 6.0, 16.0, 6.0),
        ({"0.95": 4.0}, None, 16.0, 4.0),
        ({}, None, None, 4.0),
    ],
)
def test_radii_of_a_pose_are_its_spread_times_the_conformal_factors(factors, radius_68, radius_95, uncertainty):
    place = add_radii(PLACE, 4.0, factors)
    assert (place.radius_68_m, place.radius_95_m, place.uncertainty_m) == (radius_68, radius_95, uncertainty)
    assert (place.lat, place.lon, place.tile_id) == (60.0, 25.0, "t")
