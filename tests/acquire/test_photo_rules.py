"""Selection of photos by rules, their tiles, and their splits."""

import math

import numpy as np
import pytest

from gengeo_hf.acquire.city_pairs import TileGrid, assign_photo_splits, keep_paired, min_margin_m, pair
from gengeo_hf.acquire.photo_facts import field_of_view, parse_photo, rotation_matrix, tilt_of
from gengeo_hf.acquire.photo_rules import PhotoRules, Selection, flight_year, limit, select
from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, great_circle_m, offset
from gengeo_hf.data.own import SplitOptions
from tests.acquire.mapillary_double import LAT, LON, GridTiles, entity

AREA = Area.from_bounds(Bounds(LON - 0.004, LAT - 0.003, LON + 0.004, LAT + 0.003))


def photo(number, east_m=0.0, north_m=0.0, **changes):
    return parse_photo(str(number), entity(number, east_m, north_m, **changes))


def dropped(found, *, flight=2021.5, **rules):
    chosen = select([photo(1, -100, -100), found], PhotoRules(**rules), AREA, flight)
    assert "1" in [kept.id for kept in chosen.photos]
    return next(iter(chosen.dropped), "")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, ""),
        ({"geometry": None, "computed_geometry": None}, "without a position"),
        ({"computed_geometry": None}, "without a computed position"),
        ({"computed_geometry": {"type": "Point", "coordinates": [LON, None]}}, "without a computed position"),
        ({"is_pano": False}, "another kind of camera"),
        ({"camera_type": "fisheye"}, "another kind of camera"),
        ({"width": 4000}, "not twice as wide as high"),
        ({"compass_angle": None, "computed_compass_angle": None}, "without a heading"),
        ({"compass_angle": 150.0}, "headings more than 30 degrees apart"),
        ({"compass_angle": 0.0, "computed_compass_angle": 0.0}, "headings both 0"),
        ({"computed_rotation": [0.0, 0.0, 0.0]}, "tilted by more than 10 degrees"),  # looks straight up
        ({"quality_score": 0.1}, "quality below 0.5"),
        ({"quality_score": None, "captured_at": None, "creator": None, "computed_rotation": "?"}, ""),
        ({"captured_at": 1_300_000_000_000}, "more than 5 years from the flight"),
    ],
)
def test_select_drops_photo_by_the_violated_rule(changes, rule):
    assert dropped(photo(2, 50, 50, **changes), min_quality=0.5, max_years=5.0) == rule


def test_select_drops_photo_with_distant_positions():
    far = {"type": "Point", "coordinates": [float(v) for v in offset(LAT, LON, 70, 50)[::-1]]}
    assert dropped(photo(2, 50, 50, geometry=far)) == "positions more than 15 m apart"
    assert dropped(photo(2, 50, 50, geometry=far), max_shift_m=30.0) == ""


def test_select_compares_headings_across_north():
    assert dropped(photo(2, 50, 50, compass_angle=355.0, computed_compass_angle=10.0)) == ""


def test_select_outside_area_drops_photo_and_max_years_without_date_raises_error():
    assert dropped(photo(2, 400, 0)) == "outside the area"
    with pytest.raises(GenGeoError, match="--acquired"):
        select([photo(1)], PhotoRules(max_years=5.0), AREA, None)


def test_select_drops_sequence_with_constant_heading():
    same = {"computed_compass_angle": 77.0, "compass_angle": 77.0, "sequence": "stuck"}
    chosen = select([photo(n, n * 20, 0, **same) for n in range(1, 5)], PhotoRules(), AREA, None)
    assert chosen.dropped == {"one heading for a whole sequence": 4}


def test_select_keeps_frames_of_a_sequence_apart():
    frames = [photo(n, n * 1.3, 0, sequence="drive", captured_at=1_625_000_000_000 + n) for n in range(1, 41)]
    chosen = select(frames, PhotoRules(), AREA, None)
    at = [float(great_circle_m(LAT, LON, kept.lat, kept.lon)) for kept in chosen.photos]
    assert np.allclose(np.diff(sorted(at)), 5.2, atol=0.1) and len(at) == 10  # 3 x 1.3 m < 4 m


def test_select_keeps_best_photo_of_each_square():
    crowd = [photo(n, 0.01 * n, 0, quality_score=n / 10) for n in range(1, 6)]
    chosen = select(crowd, PhotoRules(), AREA, None)
    assert [kept.id for kept in chosen.photos] == ["5"]


def test_select_perspective_drops_panoramas():
    plain = photo(2, is_pano=False, camera_type="perspective", width=4000, height=3000, camera_parameters=[0.85, 0, 0])
    chosen = select([photo(1, 60, 0), plain], PhotoRules(kind="perspective"), AREA, None)
    assert [kept.id for kept in chosen.photos] == ["2"]
    assert chosen.photos[0].fov == pytest.approx(math.degrees(2 * math.atan(0.5 / 0.85)))


def test_limit_is_spread_and_reproducible():
    photos = [photo(n, n % 20 * 10, n // 20 * 10) for n in range(1, 200)]
    first, second = Selection(list(photos)), Selection(list(photos))
    limit(first, 50)
    limit(second, 50)
    assert [kept.id for kept in first.photos] == [kept.id for kept in second.photos]
    assert first.dropped == {"beyond --max-photos": 149}
    assert np.ptp([kept.lat for kept in first.photos]) > 0.8 * np.ptp([kept.lat for kept in photos])


@pytest.mark.parametrize("heading", [0.0, 37.0, 200.0])
@pytest.mark.parametrize(("pitch", "roll"), [(0.0, 0.0), (12.0, 0.0), (0.0, -15.0), (5.0, 3.0)])
def test_tilt_of_rotation_equals_pitch_or_roll(heading, pitch, roll):
    """The expected rotation is computed independently: camera axes in world coordinates, and the vector by SciPy."""
    from scipy.spatial.transform import Rotation

    h, p = np.radians([heading, pitch])
    forward = np.array([np.sin(h) * np.cos(p), np.cos(h) * np.cos(p), np.sin(p)])
    right = np.array([np.cos(h), -np.sin(h), 0.0])
    down = np.cross(forward, right)
    turn = Rotation.from_rotvec(np.radians(roll) * forward).as_matrix()
    matrix = np.stack([turn @ right, turn @ down, forward])  # world to camera
    vector = Rotation.from_matrix(matrix).as_rotvec()
    found = rotation_matrix(vector.tolist())
    assert np.allclose(found, matrix, atol=1e-9)
    bearing = math.degrees(math.atan2(found[2, 0], found[2, 1]))
    assert (bearing - heading + 180) % 360 == pytest.approx(180, abs=1e-6)
    assert tilt_of(vector.tolist()) == pytest.approx(max(abs(pitch), abs(roll) * np.cos(p)), abs=0.1)


def test_tilt_and_field_of_view_of_invalid_values_are_nan():
    assert math.isnan(tilt_of(None)) and math.isnan(tilt_of([1, 2])) and math.isnan(tilt_of([0, "x", 0]))
    assert math.isnan(field_of_view([0.0], 100, 100)) and math.isnan(field_of_view(None, 100, 100))


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("2023", 2023.5),
        ("2021-05-13", 2021.375),
        ("20210513", 2021.375),
        ("2019/2021", 2020.5),
        ("", None),
        ("new", None),
    ],
)
def test_flight_year_of_dates_and_ranges(text, year):
    assert flight_year(text) == (None if year is None else pytest.approx(year, abs=0.01))


def grid(tile_m=60.0):
    source = GridTiles(AREA, tile_m)
    return TileGrid.from_table(source.table, source.name)


def test_pair_gives_nearest_tile_and_tiles_whose_inner_half_contains_photo():
    rng = np.random.default_rng(0)
    tiles = grid()
    photos = [photo(n, *rng.uniform(-200, 200, 2)) for n in range(1, 300)]
    found = pair(photos, tiles)
    for one, tile, further in zip(photos, found.positive.tolist(), found.further, strict=True):
        distance = great_circle_m(one.lat, one.lon, tiles.lat, tiles.lon)  # brute force
        assert tile == int(distance.argmin())
        north = np.abs(tiles.lat - one.lat) * 111_200
        east = np.abs(tiles.lon - one.lon) * 111_200 * math.cos(math.radians(LAT))
        well_inside = np.flatnonzero((north < 14.8) & (east < 14.8))
        assert set(well_inside.tolist()) <= {tile, *further}
        assert tile not in further and all(north[row] < 15.3 and east[row] < 15.3 for row in further)


def test_keep_paired_drops_photos_without_tile_and_repeated_frames():
    chosen = Selection([photo(1), photo(2, 2, 2, sequence="a"), photo(3, 4, 4, sequence="a"), photo(4, 2000, 0)])
    keep_paired(chosen, grid())
    assert [kept.id for kept in chosen.photos] == ["1", "2"]
    assert set(chosen.dropped.values()) == {1}


def test_tile_grid_without_bounds_raises_error():
    source = GridTiles(AREA)
    bare = source.table.set_column(3, "west", [[None] * len(source.table)])
    with pytest.raises(GenGeoError, match="how large its tiles are"):
        TileGrid.from_table(bare, "bare")


def spread(count=400, per_sequence=20):
    rng = np.random.default_rng(1)
    return [
        photo(n, *rng.uniform([-280, -320], [280, 320]), sequence=f"s{n // per_sequence}") for n in range(1, count + 1)
    ]


def test_assign_photo_splits_tiles_do_not_overlap_and_near_sequences_are_separate():
    photos, tiles = spread(), grid()
    pairing = pair(photos, tiles)
    parts = assign_photo_splits(
        photos, pairing, tiles, SplitOptions(0.1, 0.2, block_m=100.0, margin_m=min_margin_m(60.0))
    )
    assert {"train", "validation", "test"} <= set(parts)
    own = pairing.positive
    for one in np.flatnonzero(parts == "train"):
        others = np.flatnonzero(parts == "test")
        apart = great_circle_m(tiles.lat[own[one]], tiles.lon[own[one]], tiles.lat[own[others]], tiles.lon[own[others]])
        assert apart.min() > 60 * 2**0.5  # tiles of 60 m do not overlap in any direction
        near = great_circle_m(photos[one].lat, photos[one].lon, *np.array([(p.lat, p.lon) for p in photos])[others].T)
        assert not any(photos[other].sequence == photos[one].sequence for other in others[near < 200])


def test_assign_photo_splits_of_photos_in_one_spot_raises_error():
    photos = [photo(n, n * 0.2, 0) for n in range(1, 5)]
    tiles = grid()
    with pytest.raises(GenGeoError, match="--split test"):
        assign_photo_splits(photos, pair(photos, tiles), tiles, SplitOptions(0.1, 0.2, margin_m=100.0))
