"""Notes for searches in an area without tiles."""

import pytest

from gengeo_hf.common.area import Area
from gengeo_hf.common.geo import Bounds, offset
from gengeo_hf.common.units import Near
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization.area_notes import far_note
from tests.stubs import ListSource, StubEncoder


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index of 30 tiles, 100 m apart to the east."""
    return GeoIndex.build(StubEncoder(), ListSource(30, lat=60.0, lon=25.0), tmp_path_factory.mktemp("a") / "idx")


def moved(east, north):
    lat, lon = offset(60.0, 25.0, east, north)
    return float(lat), float(lon)


def test_far_note_states_the_distance_to_the_nearest_tile_and_the_extent(index):
    near = (*moved(1500.0, 8000.0), 2000.0)  # north of a tile in the middle
    note = "no tile within 2,000 m: the nearest is 8.0 km away; the index covers 60.0000..60.0000 N, 25.0000..25.0520 E"
    assert far_note(index, near) == note
    assert far_note(index, Area.from_near(Near(*near))) == note
    assert far_note(index, None) == far_note(object(), near) == ""


def test_far_note_of_a_box_names_the_box(index):
    note = far_note(index, Area.from_bounds(Bounds(10.0, 20.0, 11.0, 21.0)))
    assert note.startswith("no tile of the index has its centre in the box 10,20,11,21; the index covers 60.0000")


@pytest.mark.parametrize(
    ("metres", "radius", "swapped"),
    [(49_500, 2000.0, True), (50_500, 2000.0, False), (90_000, 91_000.0, True), (90_000, 2000.0, False)],
)
def test_far_note_suggests_swapped_coordinates_within_50_km_or_the_radius(index, metres, radius, swapped):
    lat, lon = moved(-metres, 0.0)
    note = far_note(index, (lon, lat, radius))  # as if latitude and longitude were swapped
    assert ("swapped" in note) is swapped
    if swapped:
        assert note.endswith(f"--near {lat:g},{lon:g},{radius:g}m lies in it")


@pytest.mark.parametrize(("lon", "swapped"), [(90.0, True), (90.5, False)])
def test_far_note_does_not_swap_a_longitude_beyond_90_degrees(tmp_path, lon, swapped):
    # 44 km from the pole, so that a "latitude" of 90.5 would lie near it.
    polar = GeoIndex.build(StubEncoder(), ListSource(1, lat=89.6, lon=-170.0), tmp_path / "idx")
    assert ("swapped" in far_note(polar, (10.0, lon, 2000.0))) is swapped
