"""Merging of votes, the date line and EXIF priors, in small cases."""

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from gengeo_hf.common.geo import bounds_around, great_circle_m, offset
from gengeo_hf.common.metadata import PhotoPosition
from gengeo_hf.index import Hit
from gengeo_hf.localization.answers import (
    SHARPNESS,
    VOTE_WINDOW,
    Answer,
    Place,
    Track,
    merge_hits,
    to_geojson,
    view_cone,
)


def hit(name, score, east=0.0, lat=60.0, lon=25.0, size=100.0):
    at = tuple(float(value) for value in offset(lat, lon, east, 0.0))
    return Hit(name, score, *at, bounds_around(*at, size, size), "", "")


@pytest.mark.parametrize("behind", [0.0, 0.05, 0.2])
def test_merge_hits_weights_votes_by_the_exponential_of_their_score(behind):
    votes = [hit("a", 0.9), hit("b", 0.9 - behind, 60)]
    (place,) = merge_hits(votes)
    weight = math.exp(-20 * behind)
    east = (place.lon - votes[0].lon) / (votes[1].lon - votes[0].lon)
    assert SHARPNESS == 20 and east == pytest.approx(weight / (1 + weight), abs=1e-4)
    spread = weight / (1 + weight) ** 2 * 60**2  # variance of two points 60 m apart
    assert place.uncertainty_m == pytest.approx(math.sqrt(spread + 2 * 100**2 / 12), rel=5e-3)


def test_merge_hits_ignores_votes_of_much_lower_rank():
    near = [hit("a", 0.9), hit("b", 0.9, 40)]
    distant = [hit(f"s{n}", 0.89, 10_000 + 500 * n) for n in range(VOTE_WINDOW - 3)]
    late = hit("late", 0.89, 60)
    inside, outside = (merge_hits([*near, *distant[:count], late])[0] for count in (VOTE_WINDOW - 3, VOTE_WINDOW - 2))
    assert inside.votes == 3
    beyond = merge_hits([*near, *distant, hit("x", 0.89, 900_000), late])[0]
    assert beyond.votes == 2 and beyond.lon == merge_hits(near)[0].lon and outside.votes == 3


def test_merge_hits_on_both_sides_of_the_date_line_gives_a_position_at_the_date_line():
    (place,) = merge_hits([hit("a", 0.9, lat=-17.0, lon=179.9998), hit("b", 0.9, lat=-17.0, lon=-179.9998)])
    assert place.votes == 2 and abs(abs(place.lon) - 180) < 1e-6 and place.lat == pytest.approx(-17, abs=1e-6)


def test_to_geojson_splits_a_drive_at_the_date_line():
    answers = [Answer(str(n), [Place(1, float(n), lon, 0.9, "t")]) for n, lon in enumerate((179.9, -179.8, -179.7))]
    line = json.loads(to_geojson(answers, drive=True))["features"][-1]["geometry"]
    assert line["type"] == "MultiLineString"
    (first, second) = line["coordinates"]
    assert first[0] == [179.9, 0.0] and first[-1][0] == 180 and second[0][0] == -180 and second[-1] == [-179.7, 2.0]
    assert first[-1][1] == second[0][1] == pytest.approx(1 / 3, abs=1e-6)
    assert Track(answers).length_m == pytest.approx(
        sum(great_circle_m(n, a, n + 1, b) for n, (a, b) in enumerate([(179.9, 180.2), (180.2, 180.3)])), rel=1e-6
    )


def test_drive_line_leaves_out_unknown_frames():
    answers = [Answer(str(n), [Place(1, float(n), 25.0, 0.9, "t")], known=n != 1) for n in range(3)]
    assert Track(answers).line == [(0.0, 25.0), (2.0, 25.0)]


@pytest.mark.parametrize("prior", [True, False])
def test_exif_distance_of_a_prior_is_none(prior):
    position = PhotoPosition(60.001, 25.0)
    answer = Answer("a.jpg", [Place(1, 60.0, 25.0, 0.9, "t")], exif_position=position, exif_is_prior=prior)
    assert answer.exif_distance_m == (None if prior else pytest.approx(111.2, abs=0.2))
    features = json.loads(to_geojson([answer]))["features"]
    (exif,) = [feature for feature in features if feature["properties"]["kind"] == "exif"]
    assert exif["properties"]["prior"] is prior and (exif["properties"]["error_m"] is None) is prior
    assert Answer("a.jpg", exif_position=position).exif_distance_m is None


def test_view_cone_has_a_length_of_25_m_and_an_angle_of_40_degrees():
    place = Place(1, 60.0, 25.0, 0.9, "t", heading=30.0)
    corners = [
        offset(60.0, 25.0, 25 * math.sin(math.radians(turn)), 25 * math.cos(math.radians(turn)))
        for turn in (50, 30, 10)
    ]
    np.testing.assert_allclose(view_cone(place), [(60.0, 25.0), *corners, (60.0, 25.0)], rtol=0, atol=1e-12)
    north = view_cone(Place(1, 60.0, 25.0, 0.9, "t"))
    assert north == view_cone(Place(1, 60.0, 25.0, 0.9, "t", heading=0.0)) and north[2][1] == 25.0


def test_merge_hits_of_a_tile_that_is_not_square_uses_both_sides():
    at = (60.123, 25.456)
    (place,) = merge_hits([Hit("a", 0.9, *at, bounds_around(*at, 120.0, 50.0), "", "")])
    assert (place.lat, place.lon, place.votes) == (*at, 1)  # exactly the position of the tile
    assert place.uncertainty_m == pytest.approx(math.sqrt((120**2 + 50**2) / 12), rel=1e-6)


@pytest.mark.parametrize(("row", "votes"), [(40, 2), (41, 1)])
def test_merge_hits_takes_votes_from_40_hits_counted_from_the_best_of_the_place(row, votes):
    others = [hit(f"s{n}", 0.89, 10_000 + 500 * n) for n in range(row - 2)]
    places = merge_hits([hit("far", 0.95, -5000), hit("a", 0.9), *others, hit("late", 0.8, 60)])
    assert [place.rank for place in places] == list(range(1, row + 1))
    assert places[1].tile_id == "a" and places[1].votes == votes


def test_places_are_compared_without_their_position_maps():
    one, other = (Place(1, 60.0, 25.0, 0.9, "t", position_map=content) for content in ("map one", "map two"))
    assert one == other and "map one" not in repr(one)


def test_places_and_answers_cannot_be_changed():
    (place,) = merge_hits([hit("a", 0.9)])
    answer = Answer("a.jpg", [place])
    assert answer.best is place
    for value in (place, answer):
        with pytest.raises(FrozenInstanceError):
            value.rank = 2


def test_answer_without_places_or_exif_position_has_no_best_and_no_distance():
    assert Answer("a.jpg").known and not Answer("a.jpg").exif_is_prior
    places = [Place(1, 60.0, 25.0, 0.9, "t"), Place(2, 61.0, 25.0, 0.8, "u")]
    assert Answer("a.jpg").best is None and Answer("a.jpg", places).best is places[0]
    assert Answer("a.jpg", places).exif_distance_m is None


LONG = 60.123456789, 25.987654321


def test_to_geojson_rounds_to_seven_decimals():
    places = [Place(1, *LONG, 0.9, "t", heading=12.0, pose="fitted")]
    answers = [Answer("a.jpg", places, exif_position=PhotoPosition(*LONG)), Answer("b.jpg", places)]
    features = json.loads(to_geojson(answers, drive=True))["features"]
    kinds = [feature["properties"]["kind"] for feature in features]
    assert kinds == ["place", "view", "exif", "place", "view", "drive"]
    position = [25.9876543, 60.1234568]
    assert features[0]["geometry"]["coordinates"] == features[2]["geometry"]["coordinates"] == position
    assert features[5]["geometry"]["coordinates"] == [position, position]
    ring = features[1]["geometry"]["coordinates"][0]
    assert ring == [[round(lon, 7), round(lat, 7)] for lat, lon in view_cone(places[0])] and ring[0] == position


def test_to_geojson_properties_of_a_place_are_those_of_the_place_and_the_photo():
    box = bounds_around(60.0, 25.0, 100.0, 100.0)
    place = Place(1, 60.0, 25.0, 0.9, "t", box, 40.0, confidence=0.5, pose="fitted")
    answer = Answer("a.jpg", [place], ("note",), known=False, not_in_index=0.25, video_s=0.0)
    (feature,) = json.loads(to_geojson([answer]))["features"]  # no cone, because there is no heading
    found = feature["properties"]
    assert found["bounds"] == pytest.approx(list(box)) and "lat" not in found and "position_map" not in found
    expected = {"photo": "a.jpg", "time": None, "video_s": 0.0, "kind": "place", "known": False, "notes": ["note"]}
    expected |= {"not_in_index": 0.25, "rank": 1, "score": 0.9, "tile_id": "t", "uncertainty_m": 40.0, "votes": 1}
    assert expected.items() <= found.items()
    unposed = Answer("b.jpg", [Place(1, 60.0, 25.0, 0.9, "t", heading=12.0)])
    (feature,) = json.loads(to_geojson([unposed, Answer("c.jpg", error="broken")]))["features"]
    assert feature["properties"]["bounds"] is None and "video_s" not in feature["properties"]


@pytest.mark.parametrize(("count", "lines"), [(1, 0), (2, 1)])
def test_to_geojson_of_a_drive_needs_two_frames_for_a_line(count, lines):
    answers = [Answer(f"{n}", [Place(1, 60.0 + n, 25.0, 0.9, "t")]) for n in range(count)]
    for drive, wanted in ((True, lines), (False, 0)):
        features = json.loads(to_geojson(answers, drive=drive))["features"]
        assert sum(feature["properties"]["kind"] == "drive" for feature in features) == wanted


def drive_geometry(*positions):
    answers = [Answer(f"{n}", [Place(1, *position, 0.9, "t")]) for n, position in enumerate(positions)]
    return json.loads(to_geojson(answers, drive=True))["features"][-1]["geometry"]


def test_to_geojson_splits_a_line_only_where_it_is_shorter_across_the_date_line():
    assert drive_geometry((10.0, -90.0), (12.0, 90.0))["coordinates"] == [[-90.0, 10.0], [90.0, 12.0]]
    assert drive_geometry((10.0, -90.5), (12.0, 90.0))["coordinates"] == [
        [[-90.5, 10.0], [-180.0, pytest.approx(10 + 2 * 89.5 / 179.5, abs=1e-7)]],
        [[180.0, pytest.approx(10 + 2 * 89.5 / 179.5, abs=1e-7)], [90.0, 12.0]],
    ]
    assert drive_geometry((10.0, -180.0), (12.0, 180.0))["coordinates"] == [
        [[-180.0, 10.0], [-180.0, 10.0]],
        [[180.0, 10.0], [180.0, 12.0]],
    ]


def test_to_geojson_of_a_score_that_is_not_finite_raises_an_error():
    with pytest.raises(ValueError, match="JSON compliant"):
        to_geojson([Answer("a.jpg", [Place(1, 60.0, 25.0, math.nan, "t")])])
