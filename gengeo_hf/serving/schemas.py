"""Types of the requests and responses of the service, which define its OpenAPI schema and its JSON.

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
    """An error: its code and message."""

    code: ErrorCode = Field(description="identifier of the error, for programs")
    message: str = Field(description="explanation for people: what was found, what was expected, what to do")


class ErrorResponse(BaseModel):
    """Body of every error response."""

    error: Problem


class PlaceResponse(BaseModel):
    """A place where the photo may have been taken, with the keys of `gengeo locate --json`."""

    lat: float
    lon: float
    score: float = Field(description="cosine similarity of the photo and the best tile of this place, -1 to 1")
    confidence: float | None = Field(description="probability that the place is right; null without a calibration")
    radius_68_m: float | None = Field(
        description="radius in metres with 68 % of the cameras if the place is right, or null"
    )
    radius_95_m: float | None = Field(
        description="radius in metres with 95 % of the cameras if the place is right, or null"
    )
    tile_id: str
    bounds: list[float] | None = Field(description="west, south, east, north; west > east crosses the date line")
    heading: float | None = Field(description="direction of the photo's centre, degrees clockwise from north, or null")
    pose: str | None = Field(description="method of the pose that gave position and heading, fitted or search, or null")
    pose_probability: float | None = Field(description="posterior probability near the pose, 0 to 1, or null")
    source: str | None = Field(description="name of the imagery, such as its file")
    attribution: str | None = Field(description="text that must be shown with the imagery")
    licence: str | None = Field(description="licence of the imagery, or null")
    acquired: str | None = Field(description="date or year of the imagery, or null")
    rank: int = Field(description="1 is the best")
    votes: int = Field(description="number of overlapping tiles that were merged into this place")
    uncertainty_m: float | None = Field(description="root-mean-square error to expect, in metres, or null")
    area: str | None = Field(description="name of the tile's area in the index, or null")


class PositionResponse(BaseModel):
    """The position in the photo's EXIF data."""

    lat: float
    lon: float
    distance_m: float | None = Field(description="metres to the best place; null if this position limited the search")


class IndexResponse(BaseModel):
    """The index that an answer comes from."""

    name: str
    version: str = Field(description="start of the SHA-256 of its descriptors; empty for a store")
    created: str

    @classmethod
    def of(cls, index: Any) -> IndexResponse:
        """Identify an index directory or a store."""
        if not isinstance(index, GeoIndex):
            kind = str(index.address).partition(":")[0]  # the address of the database is not published
            return cls(name=kind, version="", created="")
        manifest = index.manifest
        return cls(name=index.path.name, version=manifest.content_id, created=manifest.created)


class LocateResponse(BaseModel):
    """Places of one photo: the keys of `gengeo locate --json`, with the caveat and the index."""

    photo: str
    places: list[PlaceResponse] = Field(description="best first; empty where no tile lies in the search area")
    not_in_index: float | None = Field(description="probability that the photo was taken outside the index, or null")
    notes: list[str] = Field(description="assumptions about the photo")
    error: str | None
    known: bool = Field(description='false: the confidence is below the threshold, the answer is "don\'t know"')
    exif: PositionResponse | None
    time: str | None = Field(description="time when the photo was taken, from its file, or null")
    caveat: str = Field(description="warnings about the training data and the calibration; empty where there are none")
    index: IndexResponse

    @classmethod
    def of(cls, answer: Answer, index: Any, caveat: str) -> LocateResponse:
        """Convert an `Answer` and the index that it comes from."""
        record = answer_record(answer)
        record["notes"] = [note.replace("--fov DEGREES", "fov=DEGREES") for note in record["notes"]]
        return cls(**record, caveat=caveat, index=IndexResponse.of(index))


class EncodeResponse(BaseModel):
    """The descriptor of one image."""

    view: Literal["ground", "aerial"]
    descriptor: list[float] = Field(description="vector of length 1: a dot product is a cosine similarity")
    model: str
    fingerprint: str = Field(
        description="checksum of model and preprocessing; only descriptors with the same one can be compared"
    )


class HealthResponse(BaseModel):
    """State of the service."""

    status: Literal["ok"]
    model: str
    fingerprint: str
    index: IndexResponse
    tiles: int
    index_outdated: bool = Field(description="the index on disk was replaced; SIGHUP loads the new one")
    inside: int = Field(description="requests that are being received, waiting or being processed")
    capacity: int = Field(description="largest number of requests in the queue")
    answered: int = Field(description="requests that were answered since the start")
    refused: int = Field(description="requests that were refused because the queue was full")


class LocateParameters(BaseModel):
    """Options of `POST /locate`, in the query string."""

    model_config = ConfigDict(extra="forbid")

    top: int = Field(5, ge=1, le=MAX_TOP, description="largest number of places")
    near: str | None = Field(
        None, description="search only within this circle: lat,lon,radius", examples=["60.17,24.94,2km"], max_length=200
    )
    near_exif: str | None = Field(
        None,
        description="search only within this distance of the GPS position in the photo's EXIF data, where it has one",
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
        description="horizontal field of view in degrees, 360 for a panorama; default: as the photo's file states",
    )
    heading: str = Field(
        "exif",
        max_length=50,
        description="direction of a panorama's centre: degrees clockwise from north, exif (as the file states, else 0) "
        "or unknown (eight directions are tried)",
    )
    format: Literal["json", "geojson"] | None = Field(
        None, description="default: geojson where the Accept header asks for application/geo+json, else json"
    )

    @field_validator("near")
    @classmethod
    def _check_near(cls, text: str | None) -> str | None:
        if text is not None:
            parse_near(text)
        return text

    @field_validator("near_exif")
    @classmethod
    def _check_near_exif(cls, text: str | None) -> str | None:
        if text is not None:
            parse_metres(text)
        return text

    @field_validator("heading")
    @classmethod
    def _check_heading(cls, text: str) -> str:
        parse_camera(None, text)
        return text

    def query(self) -> LocateQuery:
        """Convert to the options of `Locator.locate`."""
        near = parse_near(self.near) if self.near is not None else None
        near_exif_m = parse_metres(self.near_exif) if self.near_exif is not None else None
        camera = parse_camera(self.fov, self.heading)
        return LocateQuery(self.top, near, near_exif_m, self.merge, self.threshold, camera)


class EncodeParameters(BaseModel):
    """Options of `POST /encode`, in the query string."""

    model_config = ConfigDict(extra="forbid")

    view: Literal["ground", "aerial"] = Field("ground", description="ground for a photo, aerial for a tile")


def health(locator: Locator, inside: int, capacity: int, answered: int, refused: int) -> HealthResponse:
    """State of the service and of its queue.

    Args:
        locator: Model and index.
        inside: Number of requests in the queue.
        capacity: Largest number of requests in the queue.
        answered: Number of requests answered since the start.
        refused: Number of requests refused because the queue was full.
    """
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
