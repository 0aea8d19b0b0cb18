"""Converts answers to JSON objects: one line of `gengeo locate --json`, and the response of `POST /locate`.

Scripts of users depend on these keys: keys may be added, but not renamed or retyped. Unknown values are None.
"""

from typing import Any

from gengeo_hf.localization.answers import Answer, Place


def answer_record(answer: Answer) -> dict[str, Any]:
    """Convert the answer for one photo.

    Returns:
        photo (name as given), places (see `place_record`, best first), not_in_index (probability in [0, 1] that the
        photo was taken outside of the index, None without a calibration), notes (list of sentences), error (None, or
        why there is no answer), known (False if the confidence is below the threshold), exif (position in the photo's
        file or None), time (ISO 8601 or None) and video_s (seconds since the start of its video or None).
    """
    exif = answer.exif_position
    return {
        "photo": answer.photo,
        "places": [place_record(place) for place in answer.places],
        "not_in_index": answer.not_in_index,
        "notes": list(answer.notes),
        "error": answer.error or None,
        "known": answer.known,
        "exif": None if exif is None else {"lat": exif.lat, "lon": exif.lon, "distance_m": answer.exif_distance_m},
        "time": answer.time.isoformat() if answer.time else None,
        "video_s": answer.video_s,
    }


def place_record(place: Place) -> dict[str, Any]:
    """Convert one place.

    Returns:
        lat, lon (degrees, WGS84), score (cosine), confidence (probability in [0, 1] that the place is right, None
        without a calibration), radius_68_m and radius_95_m (radii in metres within which 68 % and 95 % of the
        cameras of right places lie, None where not calibrated), tile_id, bounds ([west, south, east, north] in
        degrees or None), heading (degrees clockwise from north or None), pose ("fitted" or "search" if position,
        heading and radii are those of a pose inside the tile, else None), source (name of the imagery file),
        attribution (text that must be shown with the imagery or None), licence and acquired (of the imagery: its
        licence, the date or year of the flight, or None); also pose_probability (posterior mass
        near the position or None), rank, votes (tiles merged), uncertainty_m (root-mean-square radius or None), area.
    """
    return {
        "lat": place.lat,
        "lon": place.lon,
        "score": place.score,
        "confidence": place.confidence,
        "radius_68_m": place.radius_68_m,
        "radius_95_m": place.radius_95_m,
        "tile_id": place.tile_id,
        "bounds": list(place.bounds) if place.bounds else None,
        "heading": place.heading,
        "pose": place.pose,
        "pose_probability": place.pose_probability,
        "source": place.source or None,
        "attribution": place.attribution or None,
        "licence": place.licence or None,
        "acquired": place.acquired or None,
        "rank": place.rank,
        "votes": place.votes,
        "uncertainty_m": place.uncertainty_m,
        "area": place.area or None,
    }
