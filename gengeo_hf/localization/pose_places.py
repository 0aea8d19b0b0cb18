"""Places with their poses: position, heading, radii and the posterior of a tile."""

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


def posed_place(
    place: Place,
    hit: Hit,
    found: tuple[Poses, int],
    method: str,
    factors: Mapping[str, float] | None = None,
    rolled: float = 0.0,
    tile: TilePosterior | None = None,
) -> Place:
    """The place with its pose.

    Args:
        place: Of the tile.
        hit: The tile.
        found: Poses of several tiles, and the number of this one's.
        method: "fitted" or "search".
        factors: Conformal factors of the radii; None for none.
        rolled: Degrees that the panorama was rolled by.
        tile: Posterior of the position; None where there is none.
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
    return with_radii(posed, float(poses.spread_m[number]), factors or {})


def with_radii(place: Place, spread_m: float, factors: Mapping[str, float]) -> Place:
    """Conformal radii where factors are known; the spread itself stands for the uncertainty."""
    radii = {share: factors[share] * spread_m for share in ("0.68", "0.95") if share in factors}
    return replace(
        place, uncertainty_m=radii.get("0.68", spread_m), radius_68_m=radii.get("0.68"), radius_95_m=radii.get("0.95")
    )


def position_map(tile: TilePosterior) -> PositionMap:
    """The posterior of the position inside a tile, for maps."""
    return PositionMap(tile.lat, tile.lon, tile.positions, tile.mass)
