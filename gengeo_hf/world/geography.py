"""Positions of the synthetic regions on Earth, and conversion of metres to degrees.

The regions are in the Atlantic, so that they are not confused with real towns. Splits are hundreds of kilometres apart,
regions of one split some kilometres.
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
    """Tangent plane of the Earth at (lat, lon) in degrees: x points east, y north, in metres.

    Over a region of 1 km the plane and the sphere differ by less than 1 cm in north-south distances and less than 2 cm
    in east-west distances at the latitudes of the regions.
    """

    lat: float
    lon: float

    def to_degrees(self, x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Convert metres east and north to latitudes and longitudes in degrees."""
        lat = self.lat + np.degrees(np.asarray(y, np.float64) / EARTH_RADIUS_M)
        lon = self.lon + np.degrees(np.asarray(x, np.float64) / (EARTH_RADIUS_M * np.cos(np.radians(self.lat))))
        return lat, lon

    def bounds(self, x: float, y: float, half_width: float, half_height: float) -> tuple[float, float, float, float]:
        """Return (west, south, east, north) in degrees of a box around (x, y).

        Args:
            x, y: Centre in metres east and north of the origin.
            half_width, half_height: Half sides in metres.
        """
        south, west = self.to_degrees(x - half_width, y - half_height)
        north, east = self.to_degrees(x + half_width, y + half_height)
        return float(west), float(south), float(east), float(north)


def region_frame(domain_index: int, split: str, region: int) -> LocalFrame:
    """Return the frame at the centre of a region.

    Args:
        domain_index: Index of the domain in `DOMAINS`; domains are 4 degrees of longitude apart.
        split: Split "train", "validation" or "test"; splits are 6 degrees of latitude apart.
        region: Zero-based number of the region in the split.

    Raises:
        GenGeoError: The split is unknown, or the region number is `MAX_REGIONS` or more.
    """
    if split not in SPLITS:
        raise GenGeoError(f"unknown split {split!r}; the world has {', '.join(SPLITS)}")
    if region >= MAX_REGIONS:
        raise GenGeoError(
            f"a split of the world has {MAX_REGIONS} regions, found region number {region}; use fewer pairs"
        )
    row, column = divmod(region, REGIONS_PER_ROW)
    lat = 24.0 + 6.0 * SPLITS.index(split) + REGION_STEP_DEGREES * row
    lon = -46.0 + 4.0 * domain_index + REGION_STEP_DEGREES * column
    return LocalFrame(lat, lon)
