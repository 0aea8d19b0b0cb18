"""Results of localisation: `Answer` and `Place`, merging of overlapping tiles, and GeoJSON.

Tiles overlap, so one location matches several tiles. Hits whose tiles overlap are votes for the same place: they are
merged into one position, weighted by score, with a root-mean-square radius.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.geo import Bounds, great_circle_m, mean_position, offset, size_of
from gengeo_hf.index.hits import Hit
from gengeo_hf.localization.position_map import PositionMap

if TYPE_CHECKING:
    from gengeo_hf.common.metadata import PhotoPosition

NOT_IN_GEOJSON = ("lat", "lon", "bounds", "position_map")
CONE_M, CONE_DEG = 25.0, 40.0  # length in metres and angle in degrees of the cone that shows a heading
VOTE_WINDOW = 40  # a place takes votes from at most this many hits, counted from its best one
SHARPNESS = (
    20.0  # weight of a vote is exp(SHARPNESS * score): a cosine that is 0.05 lower has about a third of the weight
)


@dataclass(frozen=True)
class Place:
    """A candidate location of a photo.

    Args:
        rank: Rank among the places of the photo, 1 is the best.
        lat, lon: Position in degrees, WGS84: the score-weighted mean of the tiles that voted for the place.
        score: Cosine of the photo and the best of these tiles.
        tile_id: Id of the best tile.
        bounds: Bounds of the best tile in degrees; None where the index has none.
        uncertainty_m: Root-mean-square distance in metres between the position and a camera at a random position in
            the tiles that voted; None where neither a tile size nor a second vote gives one.
        votes: Number of tiles merged into this place.
        confidence: Probability that the place is right, in [0, 1]; None without a calibration.
        area, source: Area and imagery file of the best tile.
        heading: Heading of the photo's centre column, degrees clockwise from north; None where it was not estimated.
        radius_68_m, radius_95_m: Radii in metres within which 68 % and 95 % of the cameras of right places lie; None
            where they were not calibrated.
        pose: How position and heading inside the tile were estimated, "fitted" (a pose head) or "search"; None where
            the position is that of the tiles.
        pose_probability: Posterior mass near the position: given the tile, or with fused tiles given the index; None
            without a pose.
        attribution, licence, acquired: Text that must be shown with the imagery, its licence, and its date or year;
            empty where they are not stated.
        position_map: Posterior of the position inside the tile, for maps; None without a fitted pose.
    """

    rank: int
    lat: float
    lon: float
    score: float
    tile_id: str
    bounds: Bounds | None = None
    uncertainty_m: float | None = None
    votes: int = 1
    confidence: float | None = None
    area: str = ""
    source: str = ""
    heading: float | None = None
    radius_68_m: float | None = None
    radius_95_m: float | None = None
    pose: str | None = None
    pose_probability: float | None = None
    attribution: str = ""
    licence: str = ""
    acquired: str = ""
    position_map: PositionMap | None = field(default=None, repr=False, compare=False)

    @property
    def rights(self) -> str:
        """Attribution, licence and date of the imagery in one line; empty where nothing is stated."""
        return ", ".join(filter(None, (self.attribution, self.licence, self.acquired)))


@dataclass(frozen=True)
class Answer:
    """Places of one photo.

    Args:
        photo: Path or name of the photo.
        places: Places, best first; empty if the photo could not be read or no tile lies in the searched area.
        notes: Assumptions about the photo and corrections by the drive, one sentence each.
        error: Why there is no answer; empty if there is one.
        exif_position: Position in the photo's EXIF data. It is used for the search only with `exif_radius_m`.
        known: False if the confidence of the best place is below the threshold, or the drive left the frame out; such
            an answer should be read as "don't know".
        exif_is_prior: Whether the search was limited to `exif_position`; the distance to it is then not an error.
        time: Time of the photo in its EXIF data.
        not_in_index: Probability in [0, 1] that the photo was taken outside of the index; None without a calibration.
        video_s: Seconds since the start of its video; None for a photo.
    """

    photo: str
    places: list[Place] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    error: str = ""
    exif_position: "PhotoPosition | None" = None
    known: bool = True
    exif_is_prior: bool = False
    time: datetime | None = None
    not_in_index: float | None = None
    video_s: float | None = None

    @property
    def best(self) -> Place | None:
        """The best place; None where there is none."""
        return self.places[0] if self.places else None

    @property
    def exif_distance_m(self) -> float | None:
        """Metres from the best place to the position in the photo's EXIF data; None where that was the prior."""
        if self.best is None or self.exif_position is None or self.exif_is_prior:
            return None
        return float(great_circle_m(self.best.lat, self.best.lon, self.exif_position.lat, self.exif_position.lon))


class Track(list[Answer]):
    """Answers for the frames of one drive, in the order of the drive."""

    @property
    def line(self) -> list[tuple[float, float]]:
        """(lat, lon) in degrees of the best place of each known frame, in the order of the drive."""
        return drive_line(self)

    @property
    def length_m(self) -> float:
        """Length of `line` in metres."""
        return float(sum(float(great_circle_m(*one, *other)) for one, other in itertools.pairwise(self.line)))


def merge_hits(hits: Sequence[Hit]) -> list[Place]:
    """Merge hits with overlapping tiles into places.

    The best remaining hit takes all hits whose tiles overlap its own; tiles without bounds are never merged.

    Args:
        hits: Hits of one photo, best first.

    Returns:
        Places, best first.
    """
    left = list(enumerate(hits))
    places: list[Place] = []
    while left:
        first, best = left[0]
        merged = {row for row, hit in left if hit is best or tiles_overlap(best, hit)}
        # Hits of much lower rank do not vote, so that a position does not depend on the number of requested hits.
        votes = [hit for row, hit in left if row in merged and row < first + VOTE_WINDOW]
        left = [(row, hit) for row, hit in left if row not in merged]
        places.append(merge_votes(votes, len(places) + 1))
    return places


def tiles_overlap(one: "Hit | Place", other: "Hit | Place") -> bool:
    """Whether the tiles of two hits, or the best tiles of two places, overlap; False without bounds."""
    return one.bounds is not None and other.bounds is not None and one.bounds.overlaps(other.bounds)


def merge_votes(votes: Sequence[Hit], rank: int) -> Place:
    """Merge hits into one place.

    Args:
        votes: Hits of overlapping tiles, best first.
        rank: Rank of the place, 1 is the best.
    """
    best = votes[0]
    lat, lon = (np.array([getattr(hit, name) for hit in votes]) for name in ("lat", "lon"))
    weights = np.exp(SHARPNESS * (np.array([hit.score for hit in votes]) - best.score))
    middle = mean_position(lat, lon, weights) if len(votes) > 1 else (best.lat, best.lon)
    spread = float(np.average(great_circle_m(lat, lon, *middle) ** 2, weights=weights))
    # The mean square distance of a random position from the middle of a w x h tile is (w^2 + h^2) / 12.
    within = sum(side**2 for side in size_of(best.bounds)) / 12 if best.bounds else 0.0
    radius = math.sqrt(spread + within) or None
    return Place(
        rank,
        *middle,
        best.score,
        best.tile_id,
        best.bounds,
        radius,
        len(votes),
        area=best.area,
        source=best.source,
        attribution=best.attribution,
        licence=best.licence,
        acquired=best.acquired,
    )


def to_geojson(answers: Sequence[Answer], caveat: str = "", drive: bool = False) -> str:
    """Convert answers to a GeoJSON FeatureCollection (RFC 7946): a point for each place and each EXIF position.

    Args:
        answers: Answers of `GeoLocalizer`.
        caveat: Text that is stored in the collection.
        drive: Add a line through the best places of the known answers, split at the date line.
    """
    features = []
    for answer in answers:
        common: dict[str, Any] = {"photo": answer.photo, "time": answer.time.isoformat() if answer.time else None}
        common |= {"video_s": answer.video_s} if answer.video_s is not None else {}
        for place in answer.places:
            values = {key: value for key, value in vars(place).items() if key not in NOT_IN_GEOJSON}
            values |= {"bounds": list(place.bounds) if place.bounds else None, "known": answer.known}
            values |= {"notes": list(answer.notes), "not_in_index": answer.not_in_index}
            features.append(_feature(place.lat, place.lon, common | {"kind": "place"} | values))
        if answer.best is not None and answer.best.pose is not None and answer.best.heading is not None:
            ring = [[round(lon, 7), round(lat, 7)] for lat, lon in view_cone(answer.best)]
            cone = {"type": "Polygon", "coordinates": [ring]}
            features.append({"type": "Feature", "geometry": cone, "properties": common | {"kind": "view"}})
        if (position := answer.exif_position) is not None:
            properties = {"kind": "exif", "error_m": answer.exif_distance_m, "prior": answer.exif_is_prior}
            features.append(_feature(position.lat, position.lon, common | properties))
    line = drive_line(answers)
    if drive and len(line) > 1:
        parts = [[[round(lon, 7), round(lat, 7)] for lat, lon in part] for part in _split_at_date_line(line)]
        kind, coordinates = ("LineString", parts[0]) if len(parts) == 1 else ("MultiLineString", parts)
        path = {"type": kind, "coordinates": coordinates}
        features.append({"type": "Feature", "geometry": path, "properties": {"kind": "drive"}})
    errors = {answer.photo: answer.error for answer in answers if answer.error}
    collection = {"type": "FeatureCollection", "features": features, "caveat": caveat, "errors": errors}
    return json.dumps(collection, indent=1, allow_nan=False) + "\n"


def view_cone(place: Place) -> list[tuple[float, float]]:
    """Cone in the direction of view, from the position: (lat, lon) of a closed ring, counter-clockwise.

    It shows the heading of the photo's centre column; its angle is not the field of view.
    """
    heading = math.radians(place.heading or 0.0)
    half = math.radians(CONE_DEG / 2)
    corners = [
        (CONE_M * math.sin(heading + turn), CONE_M * math.cos(heading + turn)) for turn in (half, 0.0, -half)
    ]  # from right to left of the direction of view
    ring = [(place.lat, place.lon)]
    for east, north in corners:
        lat, lon = offset(place.lat, place.lon, east, north)
        ring.append((float(lat), float(lon)))
    return [*ring, ring[0]]


def drive_line(answers: Sequence[Answer]) -> list[tuple[float, float]]:
    """(lat, lon) of the best place of each known answer, in order."""
    return [(a.places[0].lat, a.places[0].lon) for a in answers if a.known and a.places]


def _split_at_date_line(line: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Split a line of (lat, lon) into parts that do not cross 180 degrees (RFC 7946, section 3.1.9)."""
    parts = [[line[0]]]
    for (lat, lon), (next_lat, next_lon) in itertools.pairwise(line):
        if abs(next_lon - lon) > 180.0:
            edge = math.copysign(180.0, lon)
            unwrapped = next_lon + 2 * edge  # next_lon without the jump at 180 degrees
            middle = lat + (next_lat - lat) * ((edge - lon) / (unwrapped - lon) if unwrapped != lon else 0.0)
            parts[-1].append((middle, edge))
            parts.append([(middle, -edge)])
        parts[-1].append((next_lat, next_lon))
    return parts


def _feature(lat: float, lon: float, properties: dict[str, Any]) -> dict[str, Any]:
    point = {"type": "Point", "coordinates": [round(lon, 7), round(lat, 7)]}
    return {"type": "Feature", "geometry": point, "properties": properties}
