"""How a ground photo was taken: `CameraView`, which data sets, localisation and the service share.

Values that a user states take precedence over columns of a table, columns over the EXIF and XMP data of the file, and
these over defaults: `CameraView.completed_by` merges two views in that order. Unknown values are None.

Angles are degrees. The heading is the true bearing of the image's centre column, clockwise from north. Pitch is
positive upwards. As roll grows, the horizon turns counterclockwise in the image. Pitch and roll follow the
Photo Sphere XMP metadata (GPano), https://developers.google.com/streetview/spherical-metadata.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError

logger = logging.getLogger(__name__)

PROJECTIONS = ("perspective", "equirectangular", "cylindrical")
UNKNOWN_HEADING = "unknown"
WHOLE_CIRCLE = 360.0
# Field -> lowest and highest value in degrees.
_LIMITS = {
    "fov": (1.0, WHOLE_CIRCLE),
    "vertical_fov": (1.0, 180.0),
    "pitch": (-90.0, 90.0),
    "roll": (-180.0, 180.0),
    "middle_elevation": (-90.0, 90.0),
}


@dataclass(frozen=True)
class CameraView:
    """How a photo was taken: angles in degrees, None where a value is unknown.

    Args:
        fov: Horizontal field of view, 1 to 360; 360 is a whole panorama.
        heading: True bearing of the centre column, clockwise from north. "unknown" also discards the heading that the
            file states.
        vertical_fov: Vertical field of view, 1 to 180.
        pitch: Elevation of the optical axis above the horizon, -90 to 90.
        roll: Rotation about the optical axis, -180 to 180.
        projection: "perspective" (an ordinary lens), "equirectangular" or "cylindrical".
        middle_elevation: Elevation of the middle row of a level equirectangular or cylindrical image, for panoramas
            that were cropped unevenly. None stands for the horizon, 0.

    Raises:
        GenGeoError: An angle is outside its range, or the projection is unknown.
    """

    fov: float | None = None
    heading: float | str | None = None
    vertical_fov: float | None = None
    pitch: float | None = None
    roll: float | None = None
    projection: str | None = None
    middle_elevation: float | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # NaN compares false
                raise GenGeoError(f"{name} must lie in {low:g}..{high:g} degrees, found {value:g}")
        known = self.heading is None or self.heading == UNKNOWN_HEADING
        if not known and not (isinstance(self.heading, int | float) and math.isfinite(self.heading)):
            raise GenGeoError(f"heading must be a number of degrees, exif or unknown, found {self.heading!r}")
        if self.projection is not None and self.projection not in PROJECTIONS:
            raise GenGeoError(f"projection must be one of {', '.join(PROJECTIONS)}, found {self.projection!r}")

    @property
    def is_panorama(self) -> bool:
        """Whether the image covers 360 degrees around the camera."""
        return self.fov is not None and self.fov >= WHOLE_CIRCLE and self.projection != "perspective"

    @property
    def bearing(self) -> float | None:
        """The heading in degrees, or None if it is unknown."""
        return None if self.heading is None or isinstance(self.heading, str) else float(self.heading)

    @property
    def is_level(self) -> bool:
        """Whether pitch and roll are unknown or zero."""
        return not self.pitch and not self.roll

    def completed_by(self, other: "CameraView") -> "CameraView":
        """Return a copy in which fields that are None have the values of `other`.

        `projection`, `vertical_fov` and `middle_elevation` of `other` are taken only if the two fields of view agree
        within 1 degree or one of them is unknown: they belong to one field of view.

        Args:
            other: View of lower precedence: that of the table, of the file or of the defaults.
        """
        together = ("projection", "vertical_fov", "middle_elevation")
        same_image = self.fov is None or other.fov is None or abs(self.fov - other.fov) < 1.0
        taken = {
            field.name: getattr(other, field.name)
            for field in fields(self)
            if getattr(self, field.name) is None and (same_image or field.name not in together)
        }
        return replace(self, **taken)


def parse_camera(fov: float | None = None, heading: str | float | None = None) -> CameraView:
    """Build a `CameraView` from the options of a command line.

    Args:
        fov: Horizontal field of view in degrees; None if unknown.
        heading: Degrees clockwise from north, "unknown", or "exif" (the same as None: the heading of the file).

    Raises:
        GenGeoError: A value is refused by `CameraView`, or the heading is outside 0..360.
    """
    if heading is None or heading == "exif":
        return CameraView(fov)
    try:
        view = CameraView(fov, float(heading))
    except GenGeoError:
        raise
    except ValueError:
        return CameraView(fov, heading)  # "unknown"; CameraView refuses other text
    check_heading(float(heading))
    return view


def check_heading(heading: float) -> float:
    """Return a stated heading in degrees if it is in range.

    Raises:
        GenGeoError: The heading is outside 0..360.
    """
    if not 0 <= heading <= WHOLE_CIRCLE:
        raise GenGeoError(f"a heading lies in 0..360 degrees clockwise from north, found {heading:g}")
    return heading


def table_cameras(columns: dict[str, Sequence[Any]], count: int) -> list[CameraView]:
    """Return the `CameraView` of each row of a table.

    Args:
        columns: Values of each column, by field name of `CameraView`. None, NaN and missing columns mean unknown.
        count: Number of rows.

    Raises:
        GenGeoError: A value is refused by `CameraView`.
    """
    known = {field.name: columns[field.name] for field in fields(CameraView) if columns.get(field.name) is not None}
    clean = {name: [_known(value) for value in values] for name, values in known.items()}
    views: dict[tuple[Any, ...], CameraView] = {}  # most tables repeat a few cameras
    rows = []
    for row in range(count):
        key = tuple(values[row] for values in clean.values())
        if key not in views:
            views[key] = CameraView(**dict(zip(clean, key, strict=True)))
        rows.append(views[key])
    return rows


def _known(value: Any) -> Any:
    """Return the value, or None if it is NaN or None."""
    return None if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)) else value
