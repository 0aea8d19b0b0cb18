"""Plausibility checks of tables: ranges of positions, headings and bounds, and distances of photos to their tiles."""

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M, great_circle_m, metres_per_degree, to_unit_vectors

LARGEST_TILE_M = 100_000.0  # sides of real tiles are some hundred metres
APART_M = 5_000.0  # a photo farther from its tile does not show the ground of the tile
LEAST_FOV = 7.0  # degrees; smaller values are probably radians: a panorama has 2 pi
FEW = 8  # distinct headings; fewer values may all be small although they are degrees
SCATTERED_M = 50_000.0  # tiles whose nearest neighbour is farther away do not cover an area


def check_degrees(file: str, lat: np.ndarray, lon: np.ndarray) -> None:
    """Refuse positions out of range.

    Args:
        file: Name of the table in messages.
        lat, lon: Positions in degrees, shape (N,); NaN where unknown.

    Raises:
        GenGeoError: A latitude is outside -90..90 or a longitude outside -180..180. The message names the row.
    """
    for name, values, limit in (("lat", lat, 90), ("lon", lon, 180)):
        wrong = np.abs(values) > limit  # NaN compares false
        if wrong.any():
            row = int(np.argmax(wrong))
            raise GenGeoError(
                f"{file}, row {row + 1}: {name} is {values[row]:g}, expected -{limit}..{limit} degrees; are the "
                "columns swapped or in metres?"
            )


def zero_warning(lat: np.ndarray, lon: np.ndarray) -> str:
    """Return a warning if positions are exactly 0, 0, which devices without a fix write; else an empty text.

    Args:
        lat, lon: Positions in degrees, shape (N,); NaN where unknown.
    """
    zero = int(((lat == 0) & (lon == 0)).sum())
    return f"{zero:,} positions are exactly 0, 0: leave the cells empty where the position is unknown" if zero else ""


def angle_warning(heading: np.ndarray, fov: np.ndarray) -> str:
    """Return a warning if headings or fields of view are probably not degrees; else an empty text.

    Args:
        heading, fov: Values that should be degrees, shape (N,); NaN where unknown.
    """
    known, fields = heading[np.isfinite(heading)], fov[np.isfinite(fov)]
    warnings = []
    if len(fields) and fields.max() < LEAST_FOV:
        warnings.append(f"all fields of view are below {LEAST_FOV:g} degrees: are they radians?")
    if len(np.unique(known)) > FEW and np.abs(known).max() <= 2 * np.pi + 0.01:
        warnings.append(f"all headings lie between {known.min():.2f} and {known.max():.2f}: are they radians?")
    if outside := int((np.abs(known) > 360).sum()):
        warnings.append(f"{outside:,} headings lie outside of -360..360 degrees: full turns are subtracted")
    return "; ".join(warnings)


def check_bounds(file: str, sides: np.ndarray, lat: np.ndarray | None = None, lon: np.ndarray | None = None) -> None:
    """Refuse implausible bounds of tiles.

    Args:
        file: Name of the table in messages.
        sides: West, south, east, north in degrees, shape (N, 4); rows with NaN are ignored.
        lat, lon: Centres of the tiles, or positions of their photos, in degrees, shape (N,); None if unknown.

    Raises:
        GenGeoError: Bounds are outside -180..180, -90..90, have south above north, are larger than 100 km, or are far
            from their centre. The message names the row.
    """
    known = np.isfinite(sides).all(axis=1)
    west, south, east, north = (np.where(known, sides[:, side], 0.0) for side in range(4))
    width = np.where(west > east, east + 360.0 - west, east - west)
    per_lat, per_lon = metres_per_degree((south + north) / 2)
    tests = [
        (
            (np.abs(west) > 180) | (np.abs(east) > 180) | (np.abs(south) > 90) | (np.abs(north) > 90),
            "expected degrees in -180..180 and -90..90; are they metres of a projection, or in another order?",
        ),
        (south >= north, "south must lie below north; are the two columns swapped?"),
        (width * per_lon > LARGEST_TILE_M, "a tile wider than 100 km; are west and east swapped?"),
        ((north - south) * per_lat > LARGEST_TILE_M, "a tile higher than 100 km"),
    ]
    if lat is not None and lon is not None:
        middle_lon = west + width / 2
        far = great_circle_m((south + north) / 2, middle_lon, np.nan_to_num(lat), np.nan_to_num(lon))
        reach = np.hypot(width * per_lon, (north - south) * per_lat)
        placed = np.isfinite(lat) & np.isfinite(lon)
        tests.append((placed & (far > reach + 1.0), "its photo or centre lies outside of it"))
    for wrong, advice in tests:
        if (wrong & known).any():
            row = int(np.argmax(wrong & known))
            box = ", ".join(f"{value:g}" for value in sides[row])
            raise GenGeoError(f"{file}, row {row + 1}: bounds west, south, east, north are {box}: {advice}")


def distance_summary(lat: np.ndarray, lon: np.ndarray, tile_lat: np.ndarray, tile_lon: np.ndarray) -> tuple[str, str]:
    """Summarise the distances between photos and tiles in one line, and warn if they are implausible.

    Args:
        lat, lon: Positions of photos in degrees, shape (N,); NaN where unknown.
        tile_lat, tile_lon: Centre of the tile of each photo in degrees, shape (N,); NaN where unknown.

    Returns:
        The summary, empty if no distance is known, and the warning, empty if there is none.
    """
    has_tile = np.isfinite(tile_lat) & np.isfinite(tile_lon)
    both = has_tile & np.isfinite(lat) & np.isfinite(lon)
    tiles = np.unique(np.stack([tile_lat[has_tile], tile_lon[has_tile]], axis=1), axis=0)
    next_m = _neighbour_m(tiles[:, 0], tiles[:, 1])
    parts, warnings = [], []
    if both.any():
        own_m = great_circle_m(lat[both], lon[both], tile_lat[both], tile_lon[both])
        middle = float(np.median(own_m))
        parts.append(f"photos stand up to {own_m.max():,.0f} m from their tile's centre (median {middle:,.0f} m)")
        far = int((own_m > APART_M).sum())
        if far:
            warnings.append(
                f"{far:,} photos stand more than {APART_M / 1000:g} km from their tile: are latitude and longitude "
                "swapped, or rows shifted against one another?"
            )
        elif next_m is not None and middle > 2 * next_m and middle > 100:
            warnings.append(
                f"photos stand {middle:,.0f} m from their own tile, while tiles stand {next_m:,.0f} m apart: are rows "
                "shifted against one another?"
            )
    if next_m is not None:
        parts.append(f"tiles stand {next_m:,.0f} m from the next (median)")
        if next_m > SCATTERED_M:
            warnings.append(f"tiles stand {next_m / 1000:,.0f} km apart: are their positions in metres?")
    return "; ".join(parts), "; ".join(warnings)


def _neighbour_m(lat: np.ndarray, lon: np.ndarray) -> float | None:
    """Return the median distance in metres from a position to its nearest neighbour; None for fewer than two."""
    if len(lat) < 2:
        return None
    from scipy.spatial import cKDTree

    points = to_unit_vectors(lat, lon)
    sample = points if len(points) <= 20_000 else points[:: len(points) // 20_000 + 1]
    chord = cKDTree(points).query(sample, k=2)[0][:, 1]
    return float(np.median(2 * EARTH_RADIUS_M * np.arcsin(np.clip(chord / 2, 0, 1))))
