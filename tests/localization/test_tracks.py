"""Text of GPX tracks and of the pairs file of hloc."""

from datetime import UTC, datetime

from gengeo_hf.localization.answers import Answer, Place
from gengeo_hf.localization.tracks import to_gpx, to_pairs

HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<gpx version="1.1" creator="gengeo_hf" xmlns="http://www.topografix.com/GPX/1/1">\n'
)


def answers():
    here = Place(1, 60.5, 25.123456789, 0.9, "tile a", heading=44.6)
    there = Place(2, 61.0, 26.0, 0.8, "b")
    return [
        Answer("a&b.jpg", [here, there], time=datetime(2026, 5, 1, 12, tzinfo=UTC)),
        Answer("local time.jpg", [there], time=datetime(2026, 5, 1, 12)),
        Answer("unknown.jpg", [here], known=False),
        Answer("broken.jpg", error="cut off"),
    ]


POINTS = (
    '<{0} lat="60.5000000" lon="25.1234568"><time>2026-05-01T12:00:00+00:00</time><name>a&amp;b.jpg</name>'
    "<desc>heading 45 degrees</desc></{0}>\n"
    '<{0} lat="61.0000000" lon="26.0000000"><name>local time.jpg</name></{0}>\n'
)


def test_to_gpx_writes_waypoints_with_the_elements_in_the_order_of_the_schema():
    assert to_gpx(answers()) == HEAD + POINTS.format("wpt") + "</gpx>\n"


def test_to_gpx_of_a_drive_writes_one_track():
    expected = HEAD + "<trk><trkseg>\n" + POINTS.format("trkpt") + "</trkseg></trk>\n</gpx>\n"
    assert to_gpx(answers(), drive=True) == expected


def test_to_pairs_writes_a_line_for_each_place():
    assert to_pairs(answers()[:2]) == "a&b.jpg tile_a\na&b.jpg b\nlocal_time.jpg b\n"
