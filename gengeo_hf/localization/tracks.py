"""Answers as files for other programs: GPX tracks, and photo-tile pairs for hloc."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from gengeo_hf.localization.answers import Answer

GPX_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<gpx version="1.1" creator="gengeo_hf" xmlns="http://www.topografix.com/GPX/1/1">\n'
)


def to_gpx(answers: Sequence[Answer], drive: bool = False) -> str:
    """Best places as GPX 1.1: a track of a drive, or one waypoint for each photo.

    Places that are not known are left out. Times are the camera's local time without a zone, as EXIF has them; GPX
    counts in UTC, so they are written only where a zone is known.

    Args:
        answers: Of `GeoLocalizer`, in the order of the drive.
        drive: Write a track.
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
    """One line `photo tile` for each place of each photo, best first: the pairs file that hloc reads.

    Args:
        answers: Of `GeoLocalizer`. White space in a name becomes an underscore, since hloc splits lines there.
    """
    lines = [
        f"{'_'.join(answer.photo.split())} {'_'.join(place.tile_id.split())}"
        for answer in answers
        for place in answer.places
    ]
    return "".join(f"{line}\n" for line in lines)
