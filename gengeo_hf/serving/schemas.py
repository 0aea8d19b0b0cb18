"""Requests and responses of the service as types: the OpenAPI schema and the JSON come from here.

Angles are degrees (WGS84), distances metres.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gengeo_hf.common.camera import parse_camera
from gengeo_hf.common.units import parse_metres, parse_near
from gengeo_hf.index.index import GeoIndex
from gengeo_hf.localization.answer_json import answer_record
from gengeo_hf.localization.answers import Answer
from gengeo_hf.serving.locator import LocateQuery, Locator

MAX_TOP = 100
ErrorCode = Literal[
    "bad_parameter",
    "no_photo",
    "bad_photo",
    "too_large",
    "busy",
    "timeout",
    "cannot_answer",
    "not_found",
    "method_not_allowed",
    "bad_request",
    "no_space",
    "internal",
]


class Problem(BaseModel):
    """Why there is no answer."""

    code: ErrorCode = Field(description="for programs")
    message: str = Field(description="for people: what was found, what was expected, what to do")


class ErrorResponse(BaseModel):
    """Every answer that is not a success looks like this."""

    error: Problem


class PlaceResponse(BaseModel):
    """Where the photo may have been taken: the same keys as in `gengeo locate --json`."""

    lat: float
    lon: float
    score: float = Field(description="cosine of the photo and the best tile of this place, -1 to 1")
    confidence: float | None = Field(description="probability that the place is right; null without a calibration")
    radius_68_m: float | None = Field(description="metres that hold 68 % of cameras if the place is right, or null")
    radius_95_m: float | None = Field(description="metres that hold 95 % of cameras if the place is right, or null")
    tile_id: str
    bounds: list[float] | None = Field(description="west, south, east, north; west > east crosses the date line")
    heading: float | None = Field(description="of the centre column, degrees clockwise from north, where estimated")
    pose: str | None = Field(description="fitted or search, where position and heading are those of a pose")
    pose_probability: float | None = Field(description="mass of the posterior near the pose, 0 to 1, or null")
    source: str | None = Field(description="name of the imagery's file")
    attribution: str | None = Field(description="text that must be shown with the imagery")
    licence: str | None = Field(description="licence of the imagery, where it is stated")
    acquired: str | None = Field(description="date or year of the imagery, where it is stated")
    rank: int = Field(description="1 is the best")
    votes: int = Field(description="overlapping tiles that were merged into this place")
    uncertainty_m: float | None = Field(description="root-mean-square distance to expect when the place is right")
    area: str | None


class PositionResponse(BaseModel):
    """The position in the photo's EXIF data."""

    lat: float
    lon: float
    distance_m: float | None = Field(description="from the best place; null where this position limited the search")


class IndexResponse(BaseModel):
    """Which gallery answered."""

    name: str
    version: str = Field(description="start of the SHA-256 of its descriptors; empty for a store")
    created: str

    @classmethod
    def of(cls, index: Any) -> IndexResponse:
        """From an index folder or a store."""
        if not isinstance(index, GeoIndex):
            kind = str(index.address).partition(":")[0]  # where the database stands is nobody's business
            return cls(name=kind, version="", created="")
        manifest = index.manifest
        return cls(name=index.path.name, version=manifest.content_id, created=manifest.created)


class LocateResponse(BaseModel):
    """Places for one photo: the object of one line of `gengeo locate --json`, the caveat and the index."""

    photo: str
    places: list[PlaceResponse] = Field(description="best first; empty where no tile lies near the prior")
    not_in_index: float | None = Field(description="probability that the photo was taken elsewhere, or null")
    notes: list[str] = Field(description="what was assumed about the photo")
    error: str | None
    known: bool = Field(description='false: less confident than the threshold, the honest answer is "don\'t know"')
    exif: PositionResponse | None
    time: str | None = Field(description="when the photo was taken, by its file")
    caveat: str = Field(description="what must be known about the model before its answers are believed")
    index: IndexResponse

    @classmethod
    def of(cls, answer: Answer, index: Any, caveat: str) -> LocateResponse:
        """From an `Answer` and the index that gave it."""
        record = answer_record(answer)
        record["notes"] = [note.replace("--fov DEGREES", "fov=DEGREES") for note in record["notes"]]
        return cls(**record, caveat=caveat, index=IndexResponse.of(index))


class EncodeResponse(BaseModel):
    """The descriptor of one image."""

    view: Literal["ground", "aerial"]
    descriptor: list[float] = Field(description="unit length: the dot product of two is their cosine")
    model: str
    fingerprint: str = Field(description="descriptors of different fingerprints must never be compared")


class HealthResponse(BaseModel):
    """How the service is."""

    status: Literal["ok"]
    model: str
    fingerprint: str
    index: IndexResponse
    tiles: int
    index_outdated: bool = Field(description="another index lies on disk: send SIGHUP to take it")
    inside: int = Field(description="requests that are received, waiting or worked on now")
    capacity: int
    answered: int
    refused: int = Field(description="requests that found the queue full")


class LocateParameters(BaseModel):
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

    def query(self) -> LocateQuery:
        """The same for `Locator.ask`."""
        near = parse_near(self.near) if self.near is not None else None
        near_exif_m = parse_metres(self.near_exif) if self.near_exif is not None else None
        camera = parse_camera(self.fov, self.heading)
        return LocateQuery(self.top, near, near_exif_m, self.merge, self.threshold, camera)


class EncodeParameters(BaseModel):
    """Options of a description, in the query string."""

    model_config = ConfigDict(extra="forbid")

    view: Literal["ground", "aerial"] = Field("ground", description="ground for a photo, aerial for a tile")


def health(locator: Locator, inside: int, capacity: int, answered: int, refused: int) -> HealthResponse:
    """The state of the service and of its queue."""
    index = locator.localizer.index
    return HealthResponse(
        status="ok",
        model=locator.model_name,
        fingerprint=locator.encoder.fingerprint,
        index=IndexResponse.of(index),
        tiles=len(index),
        index_outdated=locator.outdated,
        inside=inside,
        capacity=capacity,
        answered=answered,
        refused=refused,
    )
