"""Merging of votes, the date line and EXIF priors, in small cases."""

import json
import math

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


@pytest.mark.parametrize("heading", [0.0, None])
def test_view_cone_without_a_turn_opens_to_the_north(heading):
    ring = view_cone(Place(1, 60.0, 25.0, 0.9, "t", heading=heading))
    assert ring[2][1] == pytest.approx(25.0, abs=1e-9) and ring[2][0] > 60.0


def test_view_cone_opens_in_the_direction_of_view():
    ring = view_cone(Place(1, 60.0, 25.0, 0.9, "t", heading=90.0))
    assert ring[0] == ring[-1] == (60.0, 25.0) and len(ring) == 5
    away = [great_circle_m(60.0, 25.0, lat, lon) for lat, lon in ring[1:4]]
    assert away == pytest.approx([25.0] * 3, rel=0.01)
    assert ring[2][0] == pytest.approx(60.0, abs=1e-6) and ring[2][1] > 25.0  # its middle lies in the east
    east, north = (ring[1][1] - 25) * math.cos(math.radians(60)), ring[1][0] - 60
    assert np.degrees(np.arctan2(east, north)) == pytest.approx(110, abs=0.5)  # right edge first: counter-clockwise
