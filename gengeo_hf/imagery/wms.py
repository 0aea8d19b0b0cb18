"""Tiles of a WMS layer.

A WMS renders arbitrary boxes. The tiles of a fixed grid are requested (in Web Mercator if the WMS offers it), so that
the images are cached, counted and checked like map tiles.
"""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

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
    wms_version,
)
from gengeo_hf.imagery.client import Answer, ImageryClient
from gengeo_hf.imagery.grids import WEB_MERCATOR, TileGrid, is_geographic, starts_with_north, virtual_grid
from gengeo_hf.imagery.hosts import host_of, redact
from gengeo_hf.imagery.options import NetOptions, TilingOptions
from gengeo_hf.imagery.tiles import Rights, TileSource


class WmsService:
    """Tiles of a WMS layer; see `TileService`.

    Args:
        name: Name in messages, without secrets.
        grid: Grid whose tiles are requested.
        template: Address of a GetMap request without its box.
        extent: Bounds of the layer in degrees; None if they are not stated.
        rights: Rights that the capabilities state.
        is_swapped: Whether boxes in requests have north before east.
        headers: Further header fields.
    """

    kind = "WMS"

    def __init__(
        self,
        name: str,
        grid: TileGrid,
        template: str,
        extent: Bounds | None,
        rights: Rights,
        is_swapped: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.grid, self.extent, self.rights = name, grid, extent, rights
        self.identity = f"{redact(template)} {grid.name}"
        self.host = host_of(template)
        self.tile_kb = 30.0 * (next(iter(grid.levels.values())).tile / 256) ** 2
        self._template, self._is_swapped, self._headers = template, is_swapped, headers or {}

    def address(self, zoom: int, column: int, row: int) -> str:
        """Address of one tile, with secrets."""
        left, bottom, right, top = self.grid.level(zoom).box(column, row)
        box = (bottom, left, top, right) if self._is_swapped else (left, bottom, right, top)
        return f"{self._template}&BBOX={','.join(f'{value:.10g}' for value in box)}"

    def fetch(self, client: ImageryClient, zoom: int, column: int, row: int) -> Answer:
        """The response for one tile."""
        return client.get(self.address(zoom, column, row), headers=self._headers)


def open_wms(address: str, options: TilingOptions) -> TileSource:
    """Open tiles of a WMS layer."""
    service, client = wms_service(address, options.net)
    return tiles_of(service, options, client)


def wms_service(address: str, net: NetOptions) -> tuple[WmsService, ImageryClient]:
    """Read the capabilities of a WMS and choose layer, CRS and format.

    Raises:
        GenGeoError: The capabilities cannot be read, or the user must choose a layer.
    """
    client = ImageryClient(net.client, (host_of(address),))
    content = capabilities(client, address, "WMS")
    with errors_in_one_line(address):
        return _wms_service(client, address, content, net), client


def _wms_service(client: ImageryClient, address: str, content: bytes, net: NetOptions) -> WmsService:
    version = wms_version(content)
    document = parse_capabilities("WMS", address, content)
    layer = choose(document.contents, net.layer or query_value(address, "layers"), "layer", redact(address))
    crs = _wms_crs(list(layer.crsOptions or []), net.matrix_set, layer.id)
    get_map = document.getOperationByName("GetMap")
    image = next((kind for kind in FORMATS if kind in get_map.formatOptions), None)
    if image is None:
        listed = ", ".join(get_map.formatOptions)
        raise GenGeoError(f"{redact(address)} offers none of the formats {', '.join(FORMATS)}; it has {listed}")
    base = get_address(get_map.methods) or address
    client.allow(base)
    grid = virtual_grid(crs, net.tile_pixels or 512)
    box = layer.boundingBoxWGS84
    return WmsService(
        f"{redact(address)} layer {layer.name}",
        grid,
        _wms_template(base, address, version, layer.name, image, crs, grid.level(1).tile),
        Bounds(*map(float, box)) if box else None,
        rights_of(document, layer, address),
        version == "1.3.0" and starts_with_north(crs),
        net.headers,
    )


def _wms_template(base: str, address: str, version: str, layer: str, image: str, crs: str, pixels: int) -> str:
    """Address of GetMap requests without a box. Further parameters of both addresses, such as keys, are kept."""
    query = {
        "SERVICE": "WMS",
        "VERSION": version,
        "REQUEST": "GetMap",
        "LAYERS": layer,
        "STYLES": "",
        "FORMAT": image,
        ("CRS" if version == "1.3.0" else "SRS"): crs,
        "WIDTH": str(pixels),
        "HEIGHT": str(pixels),
    }
    extra = [
        (k, v)
        for k, v in parse_qsl(urlsplit(base).query) + parse_qsl(urlsplit(address).query)
        if k.upper() not in (*query, "BBOX", "LAYER", "CRS", "SRS", "TRANSPARENT")
    ]
    return urlunsplit(urlsplit(base)._replace(query=urlencode({**dict(extra), **query}, safe="/:,")))


def _wms_crs(offered: list[str], wanted: str | None, layer: str) -> str:
    """CRS of the requests to a WMS: the stated one, else Web Mercator, else one in metres, else degrees."""
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
    raise GenGeoError(f"the layer {layer} offers no known CRS; it has {', '.join(sorted(offered)[:12]) or 'none'}")
