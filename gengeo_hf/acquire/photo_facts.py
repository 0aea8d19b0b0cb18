"""Parsing of the API's record of a photo: position, heading, time, camera.

A field that is missing or has an unexpected type is treated as unknown; it is not an error.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gengeo_hf.common.geo import great_circle_m

SPHERES = ("spherical", "equirectangular")
FISHEYES = ("fisheye", "fisheye_opencv", "fisheye62", "fisheye624", "dual")


@dataclass(frozen=True)
class PhotoRecord:
    """Metadata of a photo.

    Args:
        id: Id as text of digits, which may exceed the precision of a floating-point number.
        lat, lon: Computed or, without it, stated position in degrees; NaN if unknown.
        shift_m: Distance in metres between computed and stated position; NaN if one is unknown.
        heading: Heading of the centre column in degrees clockwise from north; NaN if unknown.
        is_heading_computed: Whether the heading is from the reconstruction instead of the camera's compass.
        heading_gap: Difference of both headings in degrees, 0 to 180; NaN if one is unknown.
        tilt: Larger of pitch and roll in degrees; NaN if unknown.
        captured_at: Time of capture in milliseconds since 1970; None if unknown.
        is_panorama: Whether the API states that the photo is a panorama.
        camera: Camera type in lower case, "" if unknown.
        fov: Horizontal field of view in degrees; NaN if unknown.
        width, height: Size of the original in pixels; 0 if unknown.
        sequence, creator: Id of the sequence and name of the creator, "" if unknown.
        quality: Quality score, 0 to 1; NaN if unknown.
    """

    id: str
    lat: float
    lon: float
    shift_m: float
    heading: float
    is_heading_computed: bool
    heading_gap: float
    tilt: float
    captured_at: int | None
    is_panorama: bool
    camera: str
    fov: float
    width: int
    height: int
    sequence: str
    creator: str
    quality: float

    @property
    def is_sphere(self) -> bool:
        """Whether the image shows the whole sphere."""
        return self.is_panorama and self.camera in (*SPHERES, "")


def parse_photo(photo_id: str, entity: dict[str, Any]) -> PhotoRecord:
    """Parse the API's record of one photo.

    Args:
        photo_id: Id of the photo.
        entity: Decoded JSON object.
    """
    computed, stated = (_position(entity.get(key)) for key in ("computed_geometry", "geometry"))
    lat, lon = computed or stated or (math.nan, math.nan)
    shift = float(great_circle_m(*computed, *stated)) if computed and stated else math.nan
    solved, compass = (_angle(entity.get(key)) for key in ("computed_compass_angle", "compass_angle"))
    width, height = (int(_number(entity.get(key), 0.0)) for key in ("width", "height"))
    creator = entity.get("creator")
    captured = _number(entity.get("captured_at"), math.nan)
    return PhotoRecord(
        id=photo_id,
        lat=lat,
        lon=lon,
        shift_m=shift,
        heading=compass if math.isnan(solved) else solved,
        is_heading_computed=not math.isnan(solved),
        heading_gap=abs((solved - compass + 180.0) % 360.0 - 180.0),
        tilt=tilt_of(entity.get("computed_rotation")),
        captured_at=None if math.isnan(captured) else int(captured),
        is_panorama=entity.get("is_pano") is True,
        camera=str(entity.get("camera_type") or "").lower(),
        fov=field_of_view(entity.get("camera_parameters"), width, height),
        width=width,
        height=height,
        sequence=str(entity.get("sequence") or ""),
        creator=str(creator.get("username") or "") if isinstance(creator, dict) else "",
        quality=_number(entity.get("quality_score"), math.nan),
    )


def tilt_of(rotation: Any) -> float:
    """Larger of a camera's pitch and roll in degrees; NaN if the rotation is unknown.

    Args:
        rotation: Angle-axis vector of three numbers in radians, from world axes (east, north, up) to camera axes
            (right, down, forward).
    """
    matrix = rotation_matrix(rotation)
    if matrix is None:
        return math.nan
    pitch, roll = (math.degrees(math.asin(max(-1.0, min(1.0, float(row[2]))))) for row in (matrix[2], matrix[0]))
    return max(abs(pitch), abs(roll))


def rotation_matrix(rotation: Any) -> np.ndarray | None:
    """Rotation matrix (3, 3) of an angle-axis vector (Rodrigues' formula); None if the value is not such a vector."""
    if not isinstance(rotation, list) or len(rotation) != 3:
        return None
    vector = np.array([_number(value, math.nan) for value in rotation])
    if not np.isfinite(vector).all():
        return None
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def field_of_view(parameters: Any, width: int, height: int) -> float:
    """Horizontal field of view of a perspective camera in degrees; NaN if unknown.

    Args:
        parameters: List of the focal length, as a multiple of the longer side, and distortion coefficients.
        width, height: Size of the original in pixels.
    """
    focal = _number(parameters[0], 0.0) if isinstance(parameters, list) and parameters else 0.0
    if focal <= 0 or min(width, height) < 1:
        return math.nan
    return math.degrees(2 * math.atan(width / (2 * focal * max(width, height))))


def _position(geometry: Any) -> tuple[float, float] | None:
    """Latitude and longitude of a GeoJSON point; None if it is invalid."""
    if not isinstance(geometry, dict) or not isinstance(geometry.get("coordinates"), list):
        return None
    numbers = [_number(value, math.nan) for value in geometry["coordinates"][:2]]
    if len(numbers) != 2 or not all(math.isfinite(value) for value in numbers):
        return None
    lon, lat = numbers
    return (lat, lon) if abs(lat) <= 90 and abs(lon) <= 180 else None


def _angle(value: Any) -> float:
    """An angle in degrees, 0 to 360; NaN if unknown, which the API states by -1 or a missing key."""
    number = _number(value, math.nan)
    return number % 360.0 if math.isfinite(number) and 0.0 <= number <= 360.0 else math.nan


def _number(value: Any, default: float) -> float:
    """A finite number as float; `default` for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return default
    return float(value)
