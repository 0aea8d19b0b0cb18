"""Grids of map tiles: positions of the pixels of a zoom level, in Web Mercator or any other projection.

A level is a plane of pixels in a CRS, divided into tiles of equal size. Columns are counted from the left and rows from
the top. Map tiles, WMTS matrix sets and the tiles requested from a WMS are all represented by levels.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.geo import offset

WEB_MERCATOR = "EPSG:3857"
HALF_WORLD_M = math.pi * 6_378_137.0  # distance from the equator to the edge of the Web Mercator grid
MAX_LATITUDE = math.degrees(math.atan(math.sinh(math.pi)))  # 85.05, where the Web Mercator square ends
MAX_ZOOM = 24
Projection = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
STEP_M = 10.0  # step of the central differences that give a tile's affine map
MAX_COORDINATE = 1e10  # maximum coordinate of a grid in units of its CRS; the circumference of the Earth is 4e7 m


@dataclass(frozen=True)
class Level:
    """One zoom level.

    Args:
        zoom: Number of the level, as in --zoom and in the cache.
        resolution: CRS units in one pixel.
        left, top: CRS coordinates of the upper left corner of tile 0, 0.
        columns, rows: Number of tiles.
        tile: Side of a tile in pixels.
        name: Name of the level in addresses of the server.
    """

    zoom: int
    resolution: float
    left: float
    top: float
    columns: int
    rows: int
    tile: int = 256
    name: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether all numbers are in valid ranges; documents of servers may state any."""
        sizes = (self.columns, self.rows, self.tile)
        lengths = (self.resolution, abs(self.left) + 1, abs(self.top) + 1)
        return all(0 < value < MAX_COORDINATE for value in lengths) and all(1 <= size <= 2**31 for size in sizes)

    @property
    def width(self) -> int:
        """Width of the level in pixels."""
        return self.columns * self.tile

    @property
    def height(self) -> int:
        """Height of the level in pixels."""
        return self.rows * self.tile

    def box(self, column: int, row: int) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of a tile in CRS coordinates."""
        side = self.tile * self.resolution
        left, top = self.left + column * side, self.top - row * side
        return left, top - side, left + side, top

    def with_tile(self, pixels: int) -> "Level":
        """The same level with another number of pixels per tile.

        Args:
            pixels: Side of a tile in pixels.
        """
        return replace(self, tile=pixels, resolution=self.resolution * self.tile / pixels)


class TileGrid:
    """The levels of a tile service.

    Args:
        crs: CRS of the grid, in a form that PROJ accepts.
        levels: The zoom levels.
        name: Name of the grid for messages.
        project: Function from latitudes and longitudes in degrees to x and y of the CRS, (n,) each; None uses PROJ.

    Raises:
        GenGeoError: There is no level, a level is not valid, or PROJ does not know the CRS.
    """

    def __init__(self, crs: str, levels: Iterable[Level], name: str = "", project: Projection | None = None) -> None:
        self.crs, self.name, self._given = crs, name or crs, project
        self.levels: Mapping[int, Level] = {level.zoom: level for level in levels}
        if not self.levels or not all(level.is_valid for level in self.levels.values()):
            raise GenGeoError(f"the tile grid {self.name} has no zoom levels, or one with invalid numbers")
        self._project = project or (_mercator if is_web_mercator(crs) else _projection(crs))

    def level(self, zoom: int) -> Level:
        """A level by its number.

        Raises:
            GenGeoError: There is no such level.
        """
        if zoom not in self.levels:
            known = sorted(self.levels)
            raise GenGeoError(f"there is no zoom level {zoom}: {self.name} has {known[0]} to {known[-1]}; see --zoom")
        return self.levels[zoom]

    def pixels(self, level: Level, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        """Pixel (column, row) of positions in a level, (2, n); infinite outside the domain of the CRS."""
        x, y = self._project(lat, lon)
        return np.stack([(x - level.left) / level.resolution, (level.top - y) / level.resolution])

    def affine_maps(self, level: Level, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        """Affine map from (east, north) metres around each position to pixels (column, row) of a level, (n, 2, 3)."""

        def project(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            near = lon + (b - lon + 180.0) % 360.0 - 180.0  # continuous across the date line
            return self.pixels(level, a, near)

        return affine_maps(project, lat, lon)

    def ground_resolution(self, level: Level, lat: float, lon: float) -> float:
        """Ground sampling distance of a level at a position in degrees: metres per pixel."""
        linear = self.affine_maps(level, np.array([lat]), np.array([lon]))[0, :, :2]
        return float(1 / np.sqrt(abs(np.linalg.det(linear))))

    def zoom_for(self, lat: float, lon: float, metres_per_pixel: float) -> int:
        """Zoom of the coarsest level that is fine enough, or of the finest one.

        Args:
            lat, lon: Position in degrees.
            metres_per_pixel: Required ground sampling distance. A level that is up to 20 % coarser is accepted, since
                the next one has four times as many tiles.
        """
        by_size = sorted(self.levels.values(), key=lambda level: -level.resolution)
        for level in by_size:
            if self.ground_resolution(level, lat, lon) <= 1.2 * metres_per_pixel:
                return level.zoom
        return by_size[-1].zoom

    def with_tile(self, pixels: int) -> "TileGrid":
        """The same grid with another number of pixels per tile."""
        levels = [level.with_tile(pixels) for level in self.levels.values()]
        return TileGrid(self.crs, levels, self.name, self._given)

    def limited(self, lowest: int | None, highest: int | None) -> "TileGrid":
        """The grid with the levels of a range only.

        Args:
            lowest, highest: Lowest and highest zoom; None for no limit.

        Raises:
            GenGeoError: No level is left.
        """
        low, high = lowest if lowest is not None else 0, highest if highest is not None else MAX_ZOOM
        kept = [level for level in self.levels.values() if low <= level.zoom <= high]
        if not kept:
            raise GenGeoError(f"the source has no zoom level between {low} and {high}, the limits that it states")
        return TileGrid(self.crs, kept, self.name, self._given)


def affine_maps(
    project: Callable[[np.ndarray, np.ndarray], np.ndarray], lat: np.ndarray, lon: np.ndarray
) -> np.ndarray:
    """Affine maps from (east, north) metres around positions to the pixels of a plane, by central differences.

    Args:
        project: Function from latitudes and longitudes in degrees, (n,) each, to pixel (column, row), (2, n).
        lat, lon: Positions in degrees, (n,).

    Returns:
        Maps of shape (n, 2, 3).
    """
    centre = project(lat, lon)
    ahead = [project(*offset(lat, lon, east, north)) for east, north in ((STEP_M, 0.0), (0.0, STEP_M))]
    behind = [project(*offset(lat, lon, -east, -north)) for east, north in ((STEP_M, 0.0), (0.0, STEP_M))]
    with np.errstate(invalid="ignore"):
        columns = [(a - b) / (2 * STEP_M) for a, b in zip(ahead, behind, strict=True)]
    return np.stack([*columns, centre], axis=-1).transpose(1, 0, 2)


def web_mercator(tile: int = 256, zooms: Iterable[int] = range(MAX_ZOOM + 1)) -> TileGrid:
    """The Web Mercator grid, which most tile servers use (OGC 17-083r4, annex D.1).

    Args:
        tile: Side of a tile in pixels.
        zooms: Zoom levels.
    """
    levels = [
        Level(z, 2 * HALF_WORLD_M / (tile * 2**z), -HALF_WORLD_M, HALF_WORLD_M, 2**z, 2**z, tile, str(z)) for z in zooms
    ]
    return TileGrid(WEB_MERCATOR, levels, "Web Mercator")


def named_grid(name: str, tile: int = 256) -> TileGrid:
    """The grid of a tile matrix set of morecantile, for example NZTM2000Quad.

    Args:
        name: Name of the tile matrix set.
        tile: Side of a tile in pixels.

    Raises:
        GenGeoError: The name is unknown.
        MissingExtraError: morecantile is not installed.
    """
    try:
        import morecantile
    except ImportError as error:
        raise MissingExtraError("morecantile", "net", "use a tile matrix set other than Web Mercator") from error
    if name not in morecantile.tms.list():
        raise GenGeoError(f"unknown tile matrix set {name!r}; known are {', '.join(sorted(morecantile.tms.list()))}")
    grid = grid_of_matrix_set(morecantile.tms.get(name))
    return grid if tile == 256 else grid.with_tile(tile)


def grid_of_matrix_set(matrix_set: Any) -> TileGrid:
    """The grid of a `morecantile.TileMatrixSet`.

    Raises:
        GenGeoError: The tiles are not square.
    """
    import morecantile

    levels = []
    for zoom in range(matrix_set.minzoom, matrix_set.maxzoom + 1):
        matrix = matrix_set.matrix(zoom)
        if matrix.tileWidth != matrix.tileHeight:
            raise GenGeoError(f"the tile matrix set {matrix_set.id} has tiles that are not square; choose another one")
        corner = matrix_set.xy_bounds(morecantile.Tile(0, 0, zoom))  # x first, also where the CRS has y first
        size = int(matrix.matrixWidth), int(matrix.matrixHeight), int(matrix.tileWidth)
        levels.append(Level(zoom, float(matrix.cellSize), float(corner.left), float(corner.top), *size, str(matrix.id)))
    epsg = matrix_set.crs.to_epsg()
    return TileGrid(f"EPSG:{epsg}" if epsg else matrix_set.crs.to_wkt(), levels, str(matrix_set.id))


def virtual_grid(crs: str, tile: int = 512) -> TileGrid:
    """A grid in any CRS, for services that render arbitrary boxes; for Web Mercator, `web_mercator`.

    Zoom levels have about the same resolution as in Web Mercator: a tile of level 0 is as wide as the equator.

    Args:
        crs: CRS in a form that PROJ accepts.
        tile: Side of a tile in pixels.
    """
    if is_web_mercator(crs):
        return web_mercator(tile)
    side = 360.0 if is_geographic(crs) else 2 * HALF_WORLD_M
    levels = [
        Level(z, side / (tile * 2**z), -side, side, 2 ** (z + 1), 2 ** (z + 1), tile, str(z))
        for z in range(MAX_ZOOM + 1)
    ]
    return TileGrid(crs, levels, crs)


def is_web_mercator(crs: str) -> bool:
    """Whether a CRS is Web Mercator, under any of its names."""
    number = crs.upper().rpartition(":")[2]
    return number in ("3857", "900913", "3785", "102100", "102113")


def _mercator(lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Web Mercator x and y in metres of positions in degrees."""
    lat, lon = np.asarray(lat, dtype=np.float64), np.asarray(lon, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = 6_378_137.0 * np.arctanh(np.sin(np.radians(lat)))
    return 6_378_137.0 * np.radians(lon), y


def _projection(crs: str) -> Projection:
    transformer = _transformer(crs)

    def project(lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = transformer.transform(np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64))
        return np.asarray(x), np.asarray(y)

    return project


def _transformer(crs: str) -> Any:
    """Transformer of pyproj from longitude and latitude in degrees to a CRS."""
    try:
        import pyproj
    except ImportError as error:
        raise MissingExtraError("pyproj", "geo", f"use imagery in {crs}") from error
    try:
        return pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise GenGeoError(f"the CRS {crs!r} is not known: {error}") from error


def is_geographic(crs: str) -> bool:
    """Whether the coordinates of a CRS are degrees.

    Raises:
        GenGeoError: The CRS is unknown.
    """
    return bool(_crs(crs).is_geographic)


def starts_with_north(crs: str) -> bool:
    """Whether the first axis of a CRS, in the order of its authority, points to the north.

    Raises:
        GenGeoError: The CRS is unknown.
    """
    return str(_crs(crs).axis_info[0].direction).lower() == "north"


def _crs(crs: str) -> Any:
    """The CRS as an object of pyproj."""
    try:
        import pyproj
    except ImportError as error:
        raise MissingExtraError("pyproj", "geo", f"use imagery in {crs}") from error
    try:
        return pyproj.CRS(crs)
    except pyproj.exceptions.ProjError as error:
        raise GenGeoError(f"the CRS {crs!r} is not known: {error}") from error
