"""JSON objects of answers, on whose keys scripts of users depend."""

from datetime import datetime

from gengeo_hf.common.geo import Bounds
from gengeo_hf.common.metadata import PhotoPosition
from gengeo_hf.localization.answer_json import answer_record, place_record
from gengeo_hf.localization.answers import Answer, Place

UNKNOWN = dict.fromkeys(
    "confidence radius_68_m radius_95_m bounds heading pose pose_probability source attribution licence acquired "
    "uncertainty_m area".split()
)


def test_place_record_of_unknown_values_has_none():
    assert place_record(Place(2, 60.0, 25.0, 0.9, "t")) == UNKNOWN | {
        "lat": 60.0,
        "lon": 25.0,
        "score": 0.9,
        "tile_id": "t",
        "rank": 2,
        "votes": 1,
    }


def test_place_record_has_all_known_values():
    text = {"area": "city", "source": "a.tif", "attribution": "© A", "licence": "CC0", "acquired": "2020"}
    numbers = {"confidence": 0.5, "radius_68_m": 1.0, "radius_95_m": 2.0, "uncertainty_m": 3.0, "votes": 4}
    pose = {"heading": 0.0, "pose": "fitted", "pose_probability": 0.25}
    place = Place(1, 60.0, 25.0, 0.9, "t", Bounds(1.0, 2.0, 3.0, 4.0), **text, **numbers, **pose)
    record = place_record(place)
    assert record["bounds"] == [1.0, 2.0, 3.0, 4.0]
    assert {key: record[key] for key in (*text, *numbers, *pose)} == text | numbers | pose


def test_answer_record_has_exif_position_time_and_error():
    place = Place(1, 60.0, 25.0, 0.9, "t")
    answer = Answer("a.jpg", [place], ("note",), exif_position=PhotoPosition(60.0, 25.0), time=datetime(2026, 5, 1))
    assert answer_record(answer) == {
        "photo": "a.jpg",
        "places": [place_record(place)],
        "not_in_index": None,
        "notes": ["note"],
        "error": None,
        "known": True,
        "exif": {"lat": 60.0, "lon": 25.0, "distance_m": 0.0},
        "time": "2026-05-01T00:00:00",
        "video_s": None,
    }
    broken = answer_record(Answer("b.jpg", error="cut off", known=False, video_s=0.0))
    assert (broken["error"], broken["exif"], broken["known"], broken["video_s"]) == ("cut off", None, False, 0.0)
