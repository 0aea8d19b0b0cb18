"""Position on Earth of an invented region, and conversion of metres to degrees.

The regions lie in the Atlantic, where maps show no town, so that they are not mistaken for real places. Splits are
hundreds of kilometres apart, regions of one split kilometres apart.
"""

from dataclasses import dataclass

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M

SPLITS = ("train", "validation", "test")
REGIONS_PER_ROW = 20
REGION_STEP_DEGREES = 0.05  # about 5 km between the centres of neighbouring regions
MAX_REGIONS = 1600  # rows of regions reach 4 degrees north; the next split starts 6 degrees further


@dataclass(frozen=True)
class LocalFrame:
    """A plane that touches the Earth at (lat, lon), degrees. x points east, y north, in metres.

    Over a region of 1 km the plane and the sphere differ by less than a centimetre in north-south distances and less
    than 2 cm in east-west ones at these latitudes.
    """

    lat: float
    lon: float

    def to_degrees(self, x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """(lat, lon) in degrees of metres east and north."""
        lat = self.lat + np.degrees(np.asarray(y, np.float64) / EARTH_RADIUS_M)
        lon = self.lon + np.degrees(np.asarray(x, np.float64) / (EARTH_RADIUS_M * np.cos(np.radians(self.lat))))
        return lat, lon

    def bounds(self, x: float, y: float, half_width: float, half_height: float) -> tuple[float, float, float, float]:
        """(west, south, east, north) in degrees of a box around (x, y); the half sides in metres.

        Args:
            x, y: metres east and north of the frame's origin.
            half_width, half_height: metres.
        """
        south, west = self.to_degrees(x - half_width, y - half_height)
        north, east = self.to_degrees(x + half_width, y + half_height)
        return float(west), float(south), float(east), float(north)


def region_frame(domain_index: int, split: str, region: int) -> LocalFrame:
    """The frame at the centre of a region.

    Args:
        domain_index: place of the domain in `DOMAINS`; domains lie 4 degrees of longitude apart.
        split: "train", "validation" or "test"; splits lie 6 degrees of latitude apart.
        region: number within the split.

    Raises:
        GenGeoError: unknown split, or more regions than the split has room for.
    """
    if split not in SPLITS:
        raise GenGeoError(f"unknown split {split!r}; the world has {', '.join(SPLITS)}")
    if region >= MAX_REGIONS:
        raise GenGeoError(
            f"the world has room for {MAX_REGIONS} regions a split, asked for region {region}; use fewer pairs"
        )
    row, column = divmod(region, REGIONS_PER_ROW)
    lat = 24.0 + 6.0 * SPLITS.index(split) + REGION_STEP_DEGREES * row
    lon = -46.0 + 4.0 * domain_index + REGION_STEP_DEGREES * column
    return LocalFrame(lat, lon)
