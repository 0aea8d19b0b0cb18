"""WMTS and WMS from their capabilities: layer, matrix set, CRS and the order of its axes.

A WMS draws any box; we ask it for the tiles of a grid of our own (Web Mercator where it can), so that its pictures are
cached, counted and checked like map tiles.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.addresses import check_rights, tiles_of
from gengeo_hf.imagery.client import Answer, ImageryClient, ServerError
from gengeo_hf.imagery.grids import (
    MAX_ZOOM,
    WEB_MERCATOR,
    Level,
    TileGrid,
    is_geographic,
    is_web_mercator,
    starts_with_north,
    virtual_grid,
)
from gengeo_hf.imagery.hosts import host_of, redact
from gengeo_hf.imagery.options import NetOptions
from gengeo_hf.imagery.tiles import Rights, TileSource

if TYPE_CHECKING:
    from gengeo_hf.imagery.registry import TilingOptions

PIXEL_M = 0.00028  # of the "standardized rendering pixel" that scale denominators refer to (OGC 07-057r7)
DEGREE_M = 111_319.49079327358
ROOTS = {"WMTS": ("Capabilities",), "WMS": ("WMS_Capabilities", "WMT_MS_Capabilities")}
FORMATS = ("image/jpeg", "image/jpg", "image/png", "image/webp", "image/vnd.jpeg-png", "image/jpgpng")

_OWN_PARAMETERS = frozenset(
    "service request layer layers version bbox width height format styles style crs srs".split()
)


class OgcService:
    """Tiles of a WMTS or WMS layer; see `TileService`.

    Args:
        kind: WMTS or WMS.
        name: What messages call it; without secrets.
        grid: Its grid, or the one that we ask it by.
        template: For WMTS: address with {TileMatrix}, {TileRow} and {TileCol}; for WMS: address without box.
        extent: Box of the layer in degrees.
        rights: What the capabilities state.
        is_swapped: Whether the box of a WMS request has north before east.
        headers: Further header fields.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        grid: TileGrid,
        template: str,
        extent: Bounds | None,
        rights: Rights,
        is_swapped: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.kind, self.name, self.grid, self.extent, self.rights = kind, name, grid, extent, rights
        self.identity = f"{redact(template)} {grid.name}"
        self.host = host_of(template)
        self.tile_kb = 30.0 * (next(iter(grid.levels.values())).tile / 256) ** 2
        self._template, self._is_swapped, self._headers = template, is_swapped, headers or {}

    def address(self, zoom: int, column: int, row: int) -> str:
        """Address of one tile, with secrets."""
        level = self.grid.level(zoom)
        if self.kind == "WMS":
            left, bottom, right, top = level.box(column, row)
            box = (bottom, left, top, right) if self._is_swapped else (left, bottom, right, top)
            return f"{self._template}&BBOX={','.join(f'{value:.10g}' for value in box)}"
        address = self._template
        for key, value in (("{TileMatrix}", level.name), ("{TileRow}", row), ("{TileCol}", column)):
            address = address.replace(key, str(value))
        return address

    def fetch(self, client: ImageryClient, zoom: int, column: int, row: int) -> Answer:
        """The answer for one tile. That a tile is out of range is told by WMTS with status 400."""
        try:
            return client.get(self.address(zoom, column, row), headers=self._headers)
        except ServerError as error:
            if self.kind == "WMTS" and error.status == 400:
                return Answer(404, b"", {}, self.name)
            raise


def open_wmts(address: str, options: "TilingOptions") -> TileSource:
    """Tiles of a WMTS layer."""
    service, client = wmts_service(address, options.net)
    check_rights(service.name, options, service.rights)
    return tiles_of(service, options, client)


def open_wms(address: str, options: "TilingOptions") -> TileSource:
    """Tiles of a WMS layer."""
    service, client = wms_service(address, options.net)
    check_rights(service.name, options, service.rights)
    return tiles_of(service, options, client)


def capabilities(client: ImageryClient, address: str, kind: str) -> bytes:
    """The capabilities document of a service, checked.

    Args:
        client: Fetches it.
        address: Of the service or of the document.
        kind: WMTS or WMS.

    Raises:
        GenGeoError: It is not XML, has entities, or belongs to another service.
    """
    try:
        from defusedxml import ElementTree
        from defusedxml.common import DefusedXmlException
    except ImportError as error:
        raise MissingExtraError("defusedxml", "net", "read capabilities") from error
    asked = address
    if not urlsplit(address).path.lower().endswith(".xml"):
        kept = {k: v for k, v in parse_qsl(urlsplit(address).query) if k.lower() not in _OWN_PARAMETERS}
        query = urlencode(kept | {"SERVICE": kind, "REQUEST": "GetCapabilities"})
        asked = urlunsplit(urlsplit(address)._replace(query=query))
    answer = client.get(asked)
    if answer.is_missing:
        raise ServerError(f"there is no {kind} at {answer.address} ({answer.status})", answer.status)
    try:
        root = ElementTree.fromstring(answer.content)
    except DefusedXmlException:
        raise GenGeoError(f"the capabilities at {answer.address} have XML entities, which are refused") from None
    except Exception as error:  # whatever a parser says of what is not XML
        raise GenGeoError(f"{answer.address} is not a capabilities document ({error}): check the address") from None
    tag = root.tag.rpartition("}")[2]
    is_other = kind == "WMTS" and "wmts" not in root.tag.lower()
    if tag not in ROOTS[kind] or is_other:
        raise GenGeoError(f"{answer.address} is a document of another service ({tag}), not of a {kind}: check it")
    return answer.content


def wmts_service(address: str, net: NetOptions) -> tuple[OgcService, ImageryClient]:
    """Read the capabilities of a WMTS and choose layer and matrix set.

    Raises:
        GenGeoError: They cannot be read, or a choice must be made by the user.
    """
    client = ImageryClient(net.client, (host_of(address),))
    content = capabilities(client, address, "WMTS")
    parsed = _parsed("wmts", "WebMapTileService", address, content)
    layer = _choose(parsed.contents, net.layer or _asked(address, "layer"), "layer", redact(address))
    known = parsed.tilematrixsets
    grids = {name: _grid_of(known[name]) for name in layer.tilematrixsetlinks if name in known}
    usable = {name: grid for name, grid in grids.items() if grid is not None}
    if not usable:
        raise GenGeoError(f"{redact(address)}: the layer {layer.id} has no matrix set that can be used")
    wanted = net.matrix_set or next((n for n, g in usable.items() if is_web_mercator(g.crs)), None)
    grid = _choose(usable, wanted, "matrix set", redact(address))
    template = _wmts_template(layer, grid.name, parsed, address)
    client.allow(template)
    box = layer.boundingBoxWGS84
    extent = Bounds(*map(float, box)) if box else None
    shown = f"{redact(address)} layer {layer.id}"
    grid = _in_order(grid, extent)
    service = OgcService("WMTS", shown, grid, template, extent, _rights(parsed, layer, address), headers=net.headers)
    return service, client


def wms_service(address: str, net: NetOptions) -> tuple[OgcService, ImageryClient]:
    """Read the capabilities of a WMS and choose layer, CRS and format.

    Raises:
        GenGeoError: They cannot be read, or a choice must be made by the user.
    """
    client = ImageryClient(net.client, (host_of(address),))
    content = capabilities(client, address, "WMS")
    version = "1.3.0" if b"WMS_Capabilities" in content[:4000] else "1.1.1"
    parsed = _parsed("wms", "WebMapService", address, content, version=version)
    layer = _choose(parsed.contents, net.layer or _asked(address, "layers"), "layer", redact(address))
    crs = _wms_crs(list(layer.crsOptions or []), net.matrix_set, layer.id)
    offered = parsed.getOperationByName("GetMap").formatOptions
    image = next((kind for kind in FORMATS if kind in offered), None)
    if image is None:
        raise GenGeoError(f"{redact(address)} draws none of {', '.join(FORMATS)}; it has {', '.join(offered)}")
    base = _get_address(parsed.getOperationByName("GetMap").methods) or address
    client.allow(base)
    grid = virtual_grid(crs, net.tile_pixels or 512)
    side = str(grid.level(1).tile)
    query = {
        "SERVICE": "WMS",
        "VERSION": version,
        "REQUEST": "GetMap",
        "LAYERS": layer.name,
        "STYLES": "",
        "FORMAT": image,
        ("CRS" if version == "1.3.0" else "SRS"): crs,
        "WIDTH": side,
        "HEIGHT": side,
    }
    extra = [
        (k, v)
        for k, v in parse_qsl(urlsplit(base).query) + parse_qsl(urlsplit(address).query)
        if k.upper() not in (*query, "BBOX", "LAYER", "CRS", "SRS", "TRANSPARENT")
    ]
    template = urlunsplit(urlsplit(base)._replace(query=urlencode({**dict(extra), **query}, safe="/:,")))
    box = layer.boundingBoxWGS84
    service = OgcService(
        "WMS",
        f"{redact(address)} layer {layer.name}",
        grid,
        template,
        Bounds(*map(float, box)) if box else None,
        _rights(parsed, layer, address),
        version == "1.3.0" and starts_with_north(crs),
        net.headers,
    )
    return service, client


def _parsed(module: str, name: str, address: str, content: bytes, **options: Any) -> Any:
    try:
        import importlib

        reader = getattr(importlib.import_module(f"owslib.{module}"), name)
    except ImportError as error:
        raise MissingExtraError("owslib", "net", "read capabilities") from error
    try:
        return reader(address, xml=content, **options)
    except Exception as error:  # whatever a document of a stranger leads its reader to
        raise GenGeoError(f"the capabilities at {redact(address)} cannot be read: {redact(str(error))}") from error


def _choose(found: Mapping[str, Any], wanted: str | None, what: str, name: str) -> Any:
    """The entry that the user named, or the only one.

    Raises:
        GenGeoError: There is no such entry, or several and none was named.
    """
    option = "--layer" if what == "layer" else "--matrix-set"
    listed = ", ".join(sorted(found)[:12]) + (" ..." if len(found) > 12 else "")
    if wanted is not None:
        if wanted not in found:
            raise GenGeoError(f"{name} has no {what} {wanted!r}; it has {listed}: see {option}")
        return found[wanted]
    if len(found) != 1:
        raise GenGeoError(f"{name} has {len(found)} {what}s: choose one with {option}; {listed}")
    return next(iter(found.values()))


def _asked(address: str, key: str) -> str | None:
    """A value of the address's own query, whatever the case of its key."""
    return next((value for name, value in parse_qsl(urlsplit(address).query) if name.lower() == key), None)


def _get_address(methods: Any) -> str:
    return next((method["url"] for method in methods or [] if method.get("type", "").lower() == "get"), "")


def _rights(parsed: Any, layer: Any, address: str) -> Rights:
    """Attribution and licence as the capabilities state them."""
    identification = parsed.identification
    stated = getattr(layer, "attribution", None) or {}  # WMS only
    provider = getattr(parsed, "provider", None)
    constraint = str(getattr(identification, "accessconstraints", "") or "")
    licence = "" if constraint.strip().lower() in ("none", "-", "") else constraint
    return Rights(str(stated.get("title") or getattr(provider, "name", "") or ""), licence, "", redact(address))


def _wmts_template(layer: Any, matrix_set: str, parsed: Any, address: str) -> str:
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
    base = _get_address(parsed.getOperationByName("GetTile").methods) or address
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
    """The grid of a matrix set of capabilities, None where its tiles are not squares or its CRS is not known."""
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
    except (GenGeoError, ValueError, TypeError):
        return None
    usable = [level for level in levels if 0 <= level.zoom <= MAX_ZOOM + 6]
    return TileGrid(crs, usable, str(matrix_set.identifier)) if usable else None


def _in_order(grid: TileGrid, extent: Bounds | None) -> TileGrid:
    """The grid with its corner's axes exchanged, where only so the layer's own extent lies on it.

    Servers differ in the order; the extent, which is in degrees east and north, tells.
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
    level = next(iter(grid.levels.values()))
    x, y = grid.pixels(level, np.array([lat]), np.array([lon]))[:, 0]
    return bool(0 <= x <= level.width and 0 <= y <= level.height)


def _wms_crs(offered: list[str], wanted: str | None, layer: str) -> str:
    """The CRS in which a WMS is asked: Web Mercator, else one in metres, else degrees."""
    if wanted is not None:
        if wanted not in offered:
            raise GenGeoError(f"the layer {layer} has no CRS {wanted!r}; it has {', '.join(sorted(offered)[:12])}")
        return wanted
    if WEB_MERCATOR in offered:
        return WEB_MERCATOR
    for crs in sorted(offered):
        try:
            if crs.upper().startswith("EPSG:") and not is_geographic(crs):
                return crs
        except GenGeoError:
            continue
    for crs in ("CRS:84", "EPSG:4326"):
        if crs in offered:
            return crs
    raise GenGeoError(f"the layer {layer} offers no CRS that is known; it has {', '.join(sorted(offered)[:12])}")


def _crs_name(text: str) -> str:
    """EPSG:n of the many names of a CRS."""
    number = text.rstrip("/").replace("::", ":").rpartition(":")[2].rpartition("/")[2]
    if "CRS84" in text or text == "CRS:84":
        return "OGC:CRS84"
    return f"EPSG:{number}" if number.isdigit() else text


def layer_names(kind: str, address: str, net: NetOptions) -> list[str]:
    """Names of the layers of a WMS or WMTS; only the one that the address itself names, where it does.

    Raises:
        GenGeoError: The capabilities cannot be read.
    """
    if asked := _asked(address, "layer" if kind == "WMTS" else "layers"):
        return [asked]
    client = ImageryClient(net.client, (host_of(address),))
    content = capabilities(client, address, kind)
    if kind == "WMTS":
        return list(_parsed("wmts", "WebMapTileService", address, content).contents)
    version = "1.3.0" if b"WMS_Capabilities" in content[:4000] else "1.1.1"
    return list(_parsed("wms", "WebMapService", address, content, version=version).contents)
