"""What is known of a photo before its pixels: position, heading, time, camera; from the API's answer, field by field.

Every field may be missing or of another type than expected: it is then unknown, never an error.
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
    """A photo as the API describes it.

    Args:
        id: Digits as text; they may be more than a floating point number holds.
        lat, lon: Degrees; NaN where unknown. The computed position where there is one.
        shift_m: Metres between computed and stated position; NaN where one is unknown.
        heading: Degrees clockwise from north of the centre column; NaN where unknown.
        is_heading_computed: Whether the heading comes from the reconstruction, and not from the camera's compass.
        heading_gap: Degrees between both headings, 0 to 180; NaN where one is unknown.
        tilt: The larger of pitch and roll in degrees; NaN where unknown.
        captured_at: Milliseconds since 1970; None where unknown.
        is_panorama: What the API says.
        camera: Camera type in lower case, "" where unknown.
        fov: Horizontal field of view in degrees; NaN where unknown.
        width, height: Pixels of the original; 0 where unknown.
        sequence, creator: Text, "" where unknown.
        quality: 0 to 1; NaN where unknown.
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
        """Whether the picture shows the whole sphere."""
        return self.is_panorama and self.camera in (*SPHERES, "")


def photo_of(photo_id: str, entity: dict[str, Any]) -> PhotoRecord:
    """Read the API's answer for one photo."""
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
    """Degrees by which a camera is pitched or rolled, whichever is more; NaN where the rotation is unknown.

    Args:
        rotation: Angle-axis vector of three numbers, world (east, north, up) to camera (right, down, forward).
    """
    matrix = rotation_matrix(rotation)
    if matrix is None:
        return math.nan
    pitch, roll = (math.degrees(math.asin(max(-1.0, min(1.0, float(row[2]))))) for row in (matrix[2], matrix[0]))
    return max(abs(pitch), abs(roll))


def rotation_matrix(rotation: Any) -> np.ndarray | None:
    """Matrix (3, 3) of an angle-axis vector (Rodrigues' formula), None where it is not one."""
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
    """Horizontal field of view in degrees of a perspective camera; NaN where unknown.

    Args:
        parameters: Focal length in units of the longer side, then distortion.
        width, height: Pixels of the original.
    """
    focal = _number(parameters[0], 0.0) if isinstance(parameters, list) and parameters else 0.0
    if focal <= 0 or min(width, height) < 1:
        return math.nan
    return math.degrees(2 * math.atan(width / (2 * focal * max(width, height))))


def _position(geometry: Any) -> tuple[float, float] | None:
    """Latitude and longitude of a GeoJSON point, whose coordinates are longitude and latitude."""
    if not isinstance(geometry, dict) or not isinstance(geometry.get("coordinates"), list):
        return None
    numbers = [_number(value, math.nan) for value in geometry["coordinates"][:2]]
    if len(numbers) != 2 or not all(math.isfinite(value) for value in numbers):
        return None
    lon, lat = numbers
    return (lat, lon) if abs(lat) <= 90 and abs(lon) <= 180 else None


def _angle(value: Any) -> float:
    """Degrees in 0..360; NaN where unknown (the API writes -1 or leaves the key out)."""
    number = _number(value, math.nan)
    return number % 360.0 if math.isfinite(number) and 0.0 <= number <= 360.0 else math.nan


def _number(value: Any, default: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return default
    return float(value)
