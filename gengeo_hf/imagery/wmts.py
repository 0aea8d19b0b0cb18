"""Tiles of a WMTS layer: its matrix set, the axis order of its CRS, and the addresses of its tiles."""

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.addresses import tiles_of
from gengeo_hf.imagery.capabilities import (
    FORMATS,
    capabilities,
    choose,
    errors_in_one_line,
    get_address,
    parse_capabilities,
    query_value,
    rights_of,
)
from gengeo_hf.imagery.client import Answer, ImageryClient, ServerError
from gengeo_hf.imagery.grids import MAX_ZOOM, Level, TileGrid, is_geographic, is_web_mercator, starts_with_north
from gengeo_hf.imagery.hosts import host_of, redact
from gengeo_hf.imagery.options import NetOptions, TilingOptions
from gengeo_hf.imagery.tiles import Rights, TileSource

PIXEL_M = 0.00028  # size of the "standardized rendering pixel" of scale denominators (OGC 07-057r7)
DEGREE_M = 111_319.49079327358  # metres in one degree of the equator


class WmtsService:
    """Tiles of a WMTS layer; see `TileService`.

    Args:
        name: Name in messages, without secrets.
        grid: Grid of the matrix set.
        template: Address with {TileMatrix}, {TileRow} and {TileCol}.
        extent: Bounds of the layer in degrees; None if they are not stated.
        rights: Rights that the capabilities state.
        headers: Further header fields.
    """

    kind = "WMTS"

    def __init__(
        self,
        name: str,
        grid: TileGrid,
        template: str,
        extent: Bounds | None,
        rights: Rights,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.grid, self.extent, self.rights = name, grid, extent, rights
        self.identity = f"{redact(template)} {grid.name}"
        self.host = host_of(template)
        self.tile_kb = 30.0 * (next(iter(grid.levels.values())).tile / 256) ** 2
        self._template, self._headers = template, headers or {}

    def address(self, zoom: int, column: int, row: int) -> str:
        """Address of one tile, with secrets."""
        address = self._template
        for key, value in (
            ("{TileMatrix}", self.grid.level(zoom).name),
            ("{TileRow}", row),
            ("{TileCol}", column),
        ):
            address = address.replace(key, str(value))
        return address

    def fetch(self, client: ImageryClient, zoom: int, column: int, row: int) -> Answer:
        """The response for one tile. Status 400, which a WMTS sends for tiles out of range, is treated as missing."""
        try:
            return client.get(self.address(zoom, column, row), headers=self._headers)
        except ServerError as error:
            if error.status == 400:
                return Answer(404, b"", {}, self.name)
            raise


def open_wmts(address: str, options: TilingOptions) -> TileSource:
    """Open tiles of a WMTS layer."""
    service, client = wmts_service(address, options.net)
    return tiles_of(service, options, client)


def wmts_service(address: str, net: NetOptions) -> tuple[WmtsService, ImageryClient]:
    """Read the capabilities of a WMTS and choose layer and matrix set.

    Raises:
        GenGeoError: The capabilities cannot be read, or the user must choose a layer or matrix set.
    """
    client = ImageryClient(net.client, (host_of(address),))
    content = capabilities(client, address, "WMTS")
    with errors_in_one_line(address):
        return _wmts_service(client, address, content, net), client


def _wmts_service(client: ImageryClient, address: str, content: bytes, net: NetOptions) -> WmtsService:
    document = parse_capabilities("WMTS", address, content)
    layer = choose(document.contents, net.layer or query_value(address, "layer"), "layer", redact(address))
    known = document.tilematrixsets
    grids = {name: _grid_of(known[name]) for name in layer.tilematrixsetlinks if name in known}
    usable = {name: grid for name, grid in grids.items() if grid is not None}
    if not usable:
        raise GenGeoError(f"{redact(address)}: the layer {layer.id} has no matrix set that can be used")
    wanted = net.matrix_set or next((n for n, g in usable.items() if is_web_mercator(g.crs)), None)
    grid = choose(usable, wanted, "matrix set", redact(address))
    template = _wmts_template(layer, grid.name, document, address)
    client.allow(template)
    box = layer.boundingBoxWGS84
    extent = Bounds(*map(float, box)) if box else None
    shown = f"{redact(address)} layer {layer.id}"
    grid = _in_order(grid, extent)
    return WmtsService(shown, grid, template, extent, rights_of(document, layer, address), headers=net.headers)


def _wmts_template(layer: Any, matrix_set: str, document: Any, address: str) -> str:
    """Address of GetTile requests with {TileMatrix}, {TileRow} and {TileCol}: RESTful if offered, else key-value."""
    resources = [entry for entry in layer.resourceURLs or [] if entry.get("resourceType") == "tile"]
    kinds = [kind for kind in FORMATS if kind in (layer.formats or [])] or list(layer.formats or ["image/jpeg"])
    style = next((name for name, value in (layer.styles or {}).items() if value.get("isDefault")), "default")
    fixed = {"TileMatrixSet": matrix_set, "Style": style, "style": style}
    for kind in kinds:
        for entry in resources:
            if entry.get("format") == kind:
                text = entry["template"]
                for key, value in fixed.items():
                    text = text.replace(f"{{{key}}}", value)
                for dimension, values in (getattr(layer, "dimensions", None) or {}).items():
                    text = text.replace(f"{{{dimension}}}", str(values.get("default", "")))
                return text
    base = get_address(document.getOperationByName("GetTile").methods) or address
    query = {
        **dict(parse_qsl(urlsplit(base).query)),
        "SERVICE": "WMTS",
        "REQUEST": "GetTile",
        "VERSION": "1.0.0",
        "LAYER": layer.id,
        "STYLE": style,
        "FORMAT": kinds[0],
        "TILEMATRIXSET": matrix_set,
        "TILEMATRIX": "{TileMatrix}",
        "TILEROW": "{TileRow}",
        "TILECOL": "{TileCol}",
    }
    return urlunsplit(urlsplit(base)._replace(query=urlencode(query, safe="{}/:,")))


def _grid_of(matrix_set: Any) -> TileGrid | None:
    """The grid of a matrix set; None if its tiles are not square, its CRS is unknown or a number is invalid."""
    crs = _crs_name(str(matrix_set.crs))
    levels = []
    try:
        unit = DEGREE_M if is_geographic(crs) else 1.0
        north_first = starts_with_north(crs) and str(matrix_set.crs).lower().startswith("urn")
        for number, matrix in enumerate(sorted(matrix_set.tilematrix.values(), key=lambda m: -m.scaledenominator)):
            if matrix.tilewidth != matrix.tileheight:
                return None
            x, y = matrix.topleftcorner
            resolution = matrix.scaledenominator * PIXEL_M / unit
            zoom = number
            if is_web_mercator(crs):
                zoom = round(math.log2(559_082_264.0287178 / matrix.scaledenominator * 256 / matrix.tilewidth))
            left, top = (y, x) if north_first else (x, y)
            size = int(matrix.matrixwidth), int(matrix.matrixheight), int(matrix.tilewidth)
            levels.append(Level(zoom, resolution, float(left), float(top), *size, str(matrix.identifier)))
        usable = [level for level in levels if 0 <= level.zoom <= MAX_ZOOM + 6]
        return TileGrid(crs, usable, str(matrix_set.identifier))
    except (GenGeoError, ValueError, TypeError, ArithmeticError):
        return None


def _in_order(grid: TileGrid, extent: Bounds | None) -> TileGrid:
    """The grid with the right axis order: axes are exchanged if only then the grid contains the layer's extent.

    Servers differ in the axis order of `TopLeftCorner`; the extent is always in degrees east and north.
    """
    if extent is None:
        return grid
    lat, lon = (extent.south + extent.north) / 2, extent.west + extent.width / 2
    exchanged = TileGrid(
        grid.crs,
        [Level(v.zoom, v.resolution, v.top, v.left, v.columns, v.rows, v.tile, v.name) for v in grid.levels.values()],
        grid.name,
    )
    return exchanged if not _holds(grid, lat, lon) and _holds(exchanged, lat, lon) else grid


def _holds(grid: TileGrid, lat: float, lon: float) -> bool:
    """Whether a grid contains a position in degrees."""
    level = next(iter(grid.levels.values()))
    x, y = grid.pixels(level, np.array([lat]), np.array([lon]))[:, 0]
    return bool(0 <= x <= level.width and 0 <= y <= level.height)


def _crs_name(text: str) -> str:
    """Name of a CRS as EPSG:n, from a URN, URL or other form."""
    number = text.rstrip("/").replace("::", ":").rpartition(":")[2].rpartition("/")[2]
    if "CRS84" in text or text == "CRS:84":
        return "OGC:CRS84"
    return f"EPSG:{number}" if number.isdigit() else text
