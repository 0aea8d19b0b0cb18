"""Adds poses to places: position, heading, radii and posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from gengeo_hf.common.geo import offset
from gengeo_hf.localization.position_map import PositionMap

if TYPE_CHECKING:
    from gengeo_hf.index.hits import Hit
    from gengeo_hf.localization.answers import Place
    from gengeo_hf.localization.fusion import TilePosterior
    from gengeo_hf.pose.posterior import Poses


def place_with_pose(
    place: Place,
    hit: Hit,
    found: tuple[Poses, int],
    method: str,
    factors: Mapping[str, float] | None = None,
    rolled: float = 0.0,
    tile: TilePosterior | None = None,
) -> Place:
    """Replace position and heading of a place by a pose.

    Args:
        place: Place of the tile.
        hit: Hit of the tile.
        found: Poses in several tiles, and the index of the pose in this tile.
        method: "fitted" or "search".
        factors: Conformal factors of the radii by coverage; None gives no radii.
        rolled: Degrees by which the panorama was rolled.
        tile: Posterior of the position; None if there is none.
    """
    poses, number = found
    east, north = poses.offset_m[number]
    lat, lon = offset(hit.lat, hit.lon, east, north)
    heading = (float(poses.heading[number]) + rolled) % 360
    posed = replace(
        place,
        lat=float(lat),
        lon=float(lon),
        heading=heading,
        pose=method,
        pose_probability=float(poses.mode_mass[number]),
        position_map=None if tile is None else position_map(tile),
    )
    return add_radii(posed, float(poses.spread_m[number]), factors or {})


def add_radii(place: Place, spread_m: float, factors: Mapping[str, float]) -> Place:
    """Set conformal radii if there are factors, and the uncertainty: the 68 % radius, else the spread."""
    radii = {share: factors[share] * spread_m for share in ("0.68", "0.95") if share in factors}
    return replace(
        place, uncertainty_m=radii.get("0.68", spread_m), radius_68_m=radii.get("0.68"), radius_95_m=radii.get("0.95")
    )


def position_map(tile: TilePosterior) -> PositionMap:
    """Convert the posterior of the position inside a tile for maps."""
    return PositionMap(tile.lat, tile.lon, tile.positions, tile.mass)
