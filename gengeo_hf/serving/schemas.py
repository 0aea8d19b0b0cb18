"""What the service says, as types: the OpenAPI schema and the JSON come from here.

Before: `Answer`s of the places room. After: JSON. Angles in degrees (WGS84), distances in metres.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gengeo_hf.common.camera import parse_camera
from gengeo_hf.common.units import parse_metres, parse_near
from gengeo_hf.index.index import GeoIndex
from gengeo_hf.localization.localizer import Answer, Place
from gengeo_hf.serving.locator import Desk, Question

MAX_TOP = 100
ErrorCode = Literal[
    "bad_parameter", "no_photo", "bad_photo", "too_large", "busy", "timeout", "cannot_answer", "not_found",
    "method_not_allowed", "bad_request", "internal",
]  # fmt: skip


class Problem(BaseModel):
    """Why there is no answer."""

    code: ErrorCode = Field(description="for programs")
    message: str = Field(description="for people: what was found, what was expected, what to do")


class ErrorReply(BaseModel):
    """Every answer that is not a success looks like this."""

    error: Problem


class Box(BaseModel):
    """A tile's box in degrees; west > east runs across the date line."""

    west: float
    south: float
    east: float
    north: float


class PlaceReply(BaseModel):
    """Where the photo may have been taken."""

    rank: int = Field(description="1 is the best")
    lat: float
    lon: float
    score: float = Field(description="cosine of the photo and the best tile of this place, -1 to 1")
    confidence: float | None = Field(description="chance that the place is right; null without a calibration")
    uncertainty_m: float | None = Field(description="root-mean-square distance to expect when the place is right")
    votes: int = Field(description="overlapping tiles that were merged into this place")
    tile_id: str
    bounds: Box | None
    area: str
    source: str = Field(description="name of the imagery's file")
    heading: float | None = Field(description="of a panorama's centre column, degrees from north, where it was sought")

    @classmethod
    def of(cls, place: Place) -> PlaceReply:
        """From a `Place`."""
        bounds = Box(**place.bounds._asdict()) if place.bounds else None
        names = [name for name in cls.model_fields if name != "bounds"]
        return cls(bounds=bounds, **{name: getattr(place, name) for name in names})


class PositionReply(BaseModel):
    """The position in the photo's EXIF data."""

    lat: float
    lon: float
    heading: float | None
    distance_m: float | None = Field(description="from the best place; null where this position limited the search")


class IndexReply(BaseModel):
    """Which gallery answered."""

    name: str
    version: str = Field(description="start of the SHA-256 of its descriptors; empty for a store")
    created: str

    @classmethod
    def of(cls, index: Any) -> IndexReply:
        """From an index folder or a store."""
        if not isinstance(index, GeoIndex):
            kind = str(index.address).partition(":")[0]  # where the database stands is nobody's business
            return cls(name=kind, version="", created="")
        manifest = index.manifest
        return cls(name=index.path.name, version=manifest.content_id, created=manifest.created)


class LocateReply(BaseModel):
    """Places for one photo."""

    known: bool = Field(description='false: less sure than the threshold, the honest answer is "don\'t know"')
    places: list[PlaceReply] = Field(description="best first; empty where no tile lies near the prior")
    exif: PositionReply | None
    notes: list[str] = Field(description="what was assumed about the photo")
    caveat: str = Field(description="what must be known about the model before its answers are believed")
    index: IndexReply

    @classmethod
    def of(cls, answer: Answer, index: Any, caveat: str) -> LocateReply:
        """From an `Answer` and the index that gave it."""
        position = answer.exif_position
        exif = None
        if position is not None:
            exif = PositionReply(
                lat=position.lat, lon=position.lon, heading=position.heading, distance_m=answer.exif_distance_m
            )
        places = [PlaceReply.of(place) for place in answer.places]
        return cls(
            known=answer.known,
            places=places,
            exif=exif,
            notes=[note.replace("--fov", "fov") for note in answer.notes],
            caveat=caveat,
            index=IndexReply.of(index),
        )


class DescribeReply(BaseModel):
    """The descriptor of one image."""

    view: Literal["ground", "aerial"]
    descriptor: list[float] = Field(description="unit length: the dot product of two is their cosine")
    model: str
    fingerprint: str = Field(description="descriptors of different fingerprints must never be compared")


class HealthReply(BaseModel):
    """How the service is."""

    status: Literal["ok"]
    model: str
    fingerprint: str
    index: IndexReply
    tiles: int
    index_outdated: bool = Field(description="another index lies on disk: send SIGHUP to take it")
    inside: int = Field(description="requests that are received, waiting or worked on now")
    capacity: int
    answered: int
    refused: int = Field(description="requests that found the queue full")


class LocateOptions(BaseModel):
    """Options of a question, in the query string."""

    model_config = ConfigDict(extra="forbid")

    top: int = Field(5, ge=1, le=MAX_TOP, description="how many places at most")
    near: str | None = Field(
        None, description="search only here: lat,lon,radius", examples=["60.17,24.94,2km"], max_length=200
    )
    near_exif: str | None = Field(
        None,
        description="search only within this distance of the photo's own GPS position, where it has one",
        examples=["500m"],
        max_length=50,
    )
    merge: bool = Field(True, description="merge overlapping tiles into one place")
    threshold: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description="confidence below which known is false")
    fov: float | None = Field(
        None,
        ge=1,
        le=360,
        allow_inf_nan=False,
        description="horizontal field of view in degrees, 360 for a panorama; default: what the photo's file tells",
    )
    heading: str = Field(
        "exif",
        max_length=50,
        description="of a panorama's centre column: degrees clockwise from north, exif (what its file states, else 0), "
        "or unknown (tries eight)",
    )
    format: Literal["json", "geojson"] | None = Field(
        None, description="default: geojson where the Accept header asks for application/geo+json, else json"
    )

    @field_validator("near")
    @classmethod
    def _a_place(cls, text: str | None) -> str | None:
        if text is not None:
            parse_near(text)
        return text

    @field_validator("near_exif")
    @classmethod
    def _a_length(cls, text: str | None) -> str | None:
        if text is not None:
            parse_metres(text)
        return text

    @field_validator("heading")
    @classmethod
    def _a_heading(cls, text: str) -> str:
        parse_camera(None, text)
        return text

    def question(self) -> Question:
        """What the desk is asked."""
        near = parse_near(self.near) if self.near is not None else None
        near_exif_m = parse_metres(self.near_exif) if self.near_exif is not None else None
        camera = parse_camera(self.fov, self.heading)
        return Question(self.top, near, near_exif_m, self.merge, self.threshold, camera)


class DescribeOptions(BaseModel):
    """Options of a description, in the query string."""

    model_config = ConfigDict(extra="forbid")

    view: Literal["ground", "aerial"] = Field("ground", description="ground for a photo, aerial for a tile")


def health(desk: Desk, inside: int, capacity: int, answered: int, refused: int) -> HealthReply:
    """The state of the desk and of the line before it."""
    index = desk.localizer.index
    return HealthReply(
        status="ok",
        model=desk.model_name,
        fingerprint=desk.encoder.fingerprint,
        index=IndexReply.of(index),
        tiles=len(index),
        index_outdated=desk.outdated,
        inside=inside,
        capacity=capacity,
        answered=answered,
        refused=refused,
    )
