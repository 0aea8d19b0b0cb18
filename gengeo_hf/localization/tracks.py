"""Export formats for other programs: GPX tracks, and photo-tile pairs for hloc."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from gengeo_hf.localization.answers import Answer

GPX_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<gpx version="1.1" creator="gengeo_hf" xmlns="http://www.topografix.com/GPX/1/1">\n'
)


def to_gpx(answers: Sequence[Answer], drive: bool = False) -> str:
    """Convert best places to GPX 1.1: a track of a drive, or one waypoint for each photo.

    Answers that are not known are left out. Times are written only if their time zone is known, because GPX times are
    UTC and EXIF times are usually local times without a zone.

    Args:
        answers: Answers of `GeoLocalizer`, in the order of the drive.
        drive: Write a track instead of waypoints.
    """
    known = [answer for answer in answers if answer.known and answer.best is not None]
    kind, lines = ("trkpt", ["<trk><trkseg>"]) if drive else ("wpt", [])
    for answer in known:
        best = answer.best
        assert best is not None
        facts = [f"<name>{escape(answer.photo)}</name>"]
        if answer.time is not None and answer.time.tzinfo is not None:
            facts.insert(0, f"<time>{answer.time.isoformat()}</time>")
        if best.heading is not None:
            facts.append(f"<desc>heading {best.heading:.0f} degrees</desc>")
        lines.append(f'<{kind} lat="{best.lat:.7f}" lon="{best.lon:.7f}">{"".join(facts)}</{kind}>')
    if drive:
        lines.append("</trkseg></trk>")
    return GPX_HEAD + "\n".join(lines) + "\n</gpx>\n"


def to_pairs(answers: Sequence[Answer]) -> str:
    """Convert answers to the pairs file of hloc: a line `photo tile` for each place of each photo, best first.

    Args:
        answers: Answers of `GeoLocalizer`. White space in names becomes an underscore, because hloc splits lines at it.
    """
    lines = [
        f"{'_'.join(answer.photo.split())} {'_'.join(place.tile_id.split())}"
        for answer in answers
        for place in answer.places
    ]
    return "".join(f"{line}\n" for line in lines)
