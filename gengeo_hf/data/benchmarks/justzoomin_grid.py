"""Grid of Just Zoom In: the map projection of Washington DC's orthophoto and the 256 x 256 cells.

The projection is EPSG:26985 (NAD83 / Maryland), a Lambert conformal conic with two standard parallels, in the closed
form of Snyder, "Map Projections: A Working Manual" (USGS Professional Paper 1395, 1987), pages 107 to 109. NAD83 and
WGS84 are treated as equal, as by the data set's authors; they differ by about 1 m.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

CRS = "EPSG:26985"
AXIS_M, ECCENTRICITY = 6_378_137.0, 0.0818191910428158  # GRS80
PARALLELS = np.radians([38.3, 39.45])
ORIGIN = np.radians([37.0 + 40 / 60, -77.0])  # latitude, longitude
FALSE_EASTING_M = 400_000.0

CELLS = 256  # along a side of the square: four zoom steps into 4 x 4 parts
CELL_M = 39.0625
CENTRE = (38.8936, -77.0116)  # of the authors' box: 3 km to the west, 7 km to the east, 5 km north and south
TILE_ORIGIN_M = (600.0, 200.0)  # easting and northing of the origin of tile 0, 0 at every zoom level
TILE_M, TILE_PIXELS = 20.0, 250  # at zoom 0; each lower level doubles the metres


class _Cone(NamedTuple):
    """Constants of the projection: Snyder's n, a F and rho_0."""

    n: float
    scale: float
    rho: float


def _radius(lat: ArrayLike) -> FloatArray:
    """Snyder's m: radius of the parallel divided by the semi-major axis (14-15)."""
    return np.cos(lat) / np.sqrt(1 - (ECCENTRICITY * np.sin(lat)) ** 2)


def _isometric(lat: ArrayLike) -> FloatArray:
    """Snyder's t (15-9)."""
    sine = ECCENTRICITY * np.sin(lat)
    return np.tan(np.pi / 4 - np.asarray(lat) / 2) / ((1 - sine) / (1 + sine)) ** (ECCENTRICITY / 2)


def _cone() -> _Cone:
    (m1, m2), (t1, t2) = _radius(PARALLELS), _isometric(PARALLELS)
    n = float(np.log(m1 / m2) / np.log(t1 / t2))  # (15-8)
    scale = float(AXIS_M * m1 / (n * t1**n))  # a F, (15-10)
    return _Cone(n, scale, scale * float(_isometric(ORIGIN[0])) ** n)


_CONE = _cone()


def project(lat: ArrayLike, lon: ArrayLike) -> FloatArray:
    """Project positions in degrees, (n,) each, to easting and northing in metres, (2, n)."""
    rho = _CONE.scale * _isometric(np.radians(lat)) ** _CONE.n
    theta = _CONE.n * (np.radians(lon) - ORIGIN[1])
    return np.stack([FALSE_EASTING_M + rho * np.sin(theta), _CONE.rho - rho * np.cos(theta)])


def unproject(easting: ArrayLike, northing: ArrayLike) -> FloatArray:
    """Convert easting and northing in metres, (n,) each, to latitude and longitude in degrees, (2, n)."""
    x, y = np.asarray(easting, np.float64) - FALSE_EASTING_M, _CONE.rho - np.asarray(northing, np.float64)
    t = (np.hypot(x, y) / _CONE.scale) ** (1 / _CONE.n)  # (14-11), (15-11)
    lat = np.pi / 2 - 2 * np.arctan(t)
    for _ in range(8):  # (7-9); each iteration adds about three digits
        sine = ECCENTRICITY * np.sin(lat)
        lat = np.pi / 2 - 2 * np.arctan(t * ((1 - sine) / (1 + sine)) ** (ECCENTRICITY / 2))
    return np.degrees(np.stack([lat, np.arctan2(x, y) / _CONE.n + ORIGIN[1]]))


_centre = project(*CENTRE)
WEST_M, NORTH_M = float(_centre[0]) - 3_000.0, float(_centre[1]) + 5_000.0


def cells_at(lat: ArrayLike, lon: ArrayLike) -> NDArray[np.int64]:
    """Row from the north and column from the west of the cell at each position, int64 (2, n); 0..255 on the grid."""
    easting, northing = project(lat, lon)
    return np.floor(np.stack([NORTH_M - northing, easting - WEST_M]) / CELL_M).astype(np.int64)


def cells_of_sequences(actions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row and column of the cell that four zoom steps select, int64 (2, n).

    Args:
        actions: Part selected by each zoom step, 0 to 15, (n, 4): row from the north times 4, plus column from the
            west.
    """
    weights = 4 ** np.arange(3, -1, -1)
    return np.stack([(actions // 4) @ weights, (actions % 4) @ weights])


def cell_name(row: int, column: int) -> str:
    """Id of a cell's tile, for example r085c233."""
    return f"r{row:03d}c{column:03d}"


def cell_centres(row: ArrayLike, column: ArrayLike) -> FloatArray:
    """Latitude and longitude of the centres of cells in degrees, (2, n)."""
    east = WEST_M + (np.asarray(column, np.float64) + 0.5) * CELL_M
    return unproject(east, NORTH_M - (np.asarray(row, np.float64) + 0.5) * CELL_M)


def holding_cells(lat: ArrayLike, lon: ArrayLike, crop_m: float) -> list[list[tuple[int, int]]]:
    """Further cells whose crops contain a position.

    Args:
        lat, lon: Positions in degrees, (n,).
        crop_m: Side of the crop around the centre of each cell in metres; crops of at most 39.0625 m do not overlap.

    Returns:
        For each position, (row, column) of the cells whose crop contains it, without its own cell.
    """
    if crop_m <= CELL_M:
        return [[] for _ in np.asarray(lat)]
    easting, northing = project(lat, lon)
    down, right = (NORTH_M - northing) / CELL_M, (easting - WEST_M) / CELL_M
    reach = crop_m / CELL_M / 2
    out: list[list[tuple[int, int]]] = []
    for y, x in zip(down.tolist(), right.tolist(), strict=True):
        rows = range(int(np.ceil(y - 0.5 - reach)), int(np.floor(y - 0.5 + reach)) + 1)
        columns = range(int(np.ceil(x - 0.5 - reach)), int(np.floor(x - 0.5 + reach)) + 1)
        own = (int(y // 1), int(x // 1))
        cells = [(r, c) for r in rows for c in columns if (r, c) != own]
        out.append([cell for cell in cells if min(cell) >= 0 and max(cell) < CELLS])
    return out
