"""Imagery by address: which kind of source an address is, and the one way to open it.

Kinds are entries of `SOURCES`; each is a function of the address and the options. A user's own module adds one:

    from gengeo_hf.imagery.addresses import SOURCES

    @SOURCES.register("mygis")
    def open_mygis(address, options): ...        # gives a TileSource for `gengeo index mygis:ADDRESS`
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.registry import Registry
from gengeo_hf.imagery.tiles import Rights, TileSource

if TYPE_CHECKING:
    from gengeo_hf.imagery.client import ImageryClient
    from gengeo_hf.imagery.registry import TilingOptions
    from gengeo_hf.imagery.services import TileService

OpenSource = Callable[[str, "TilingOptions"], TileSource]
_HERE = "gengeo_hf.imagery.addresses:"
SOURCES: Registry[OpenSource] = Registry(
    "kind of imagery",
    {
        "xyz": _HERE + "open_template",
        "wmts": "gengeo_hf.imagery.ogc:open_wmts",
        "wms": "gengeo_hf.imagery.ogc:open_wms",
        "arcgis": "gengeo_hf.imagery.arcgis:open_arcgis",
        "pmtiles": "gengeo_hf.imagery.pmtiles_service:open_pmtiles",
        "cog": "gengeo_hf.imagery.remote_rasters:open_cog",
        "stac": "gengeo_hf.imagery.remote_rasters:open_stac",
        "oam": "gengeo_hf.imagery.remote_rasters:open_oam",
    },
)


def is_address(text: str) -> bool:
    """Whether a text names imagery by address, and not a path: `https://...`, or the name of a kind and a colon."""
    return bool(re.match(r"^[a-z+]+://", text, re.IGNORECASE)) or text.partition(":")[0] in SOURCES


def open_address(text: str, options: "TilingOptions") -> TileSource:
    """Open imagery by address.

    Args:
        text: Address, template, or `KIND:address`.
        options: How it is tiled, and what the user said of it.

    Raises:
        GenGeoError: The address is not one of imagery, or what the source needs to be told is missing.
    """
    kind, _, rest = text.partition(":")
    if kind not in SOURCES or rest.startswith("//"):
        kind, rest = kind_of(text), text
    return SOURCES[kind](rest, options)


def kind_of(address: str) -> str:
    """The kind of source that an address looks like.

    Raises:
        GenGeoError: It does not look like any.
    """
    from gengeo_hf.imagery.hosts import host_of, redact
    from gengeo_hf.imagery.templates import is_template

    if is_template(address):
        return "xyz"
    host_of(address)
    path, query = urlsplit(address).path.lower(), urlsplit(address).query.lower()
    for kind, pattern in _LOOKS.items():
        if re.search(pattern, f"{path}?{query}"):
            return kind
    raise GenGeoError(
        f"{redact(address)} does not look like imagery: write the address of tiles with {{z}}/{{x}}/{{y}}, or of a "
        f"GeoTIFF, or say what it is with KIND: before it; kinds are {', '.join(SOURCES)}"
    )


_LOOKS = {
    "pmtiles": r"\.pmtiles\?",
    "cog": r"\.(tif|tiff|vrt|jp2)\?",
    "arcgis": r"/(mapserver|imageserver)/?\?",
    "wmts": r"service=wmts|wmts",
    "wms": r"service=wms|wms|/ows",
    "stac": r"stac|/search",
}


def open_template(address: str, options: "TilingOptions") -> TileSource:
    """Map tiles by a template."""
    from gengeo_hf.imagery.templates import TemplateService

    net = options.net
    service = TemplateService(address, net, options.tms)
    check_rights(service.name, options)
    return tiles_of(service, options)


def check_rights(name: str, options: "TilingOptions", stated: Rights | None = None) -> None:
    """Make sure that it is known whose imagery it is: from the user, or from what the source states.

    Raises:
        GenGeoError: Attribution, licence or contact is missing.
    """
    net = options.net
    rights = net.rights.or_else(stated or Rights())
    given = {
        "--attribution": rights.attribution,
        "--licence": rights.licence,
        "--contact": net.client.contact,
    }
    missing = [name for name, value in given.items() if not value]
    if missing and net.needs_rights and not net.client.allow_private:
        raise GenGeoError(
            f"{name}: say {' and '.join(missing)} as well: whose imagery it is, what its licence allows, and how its "
            "operator can reach you; the index and all answers carry it on"
        )


def client_of(options: "TilingOptions", *hosts: str) -> "ImageryClient":
    """The client of one source.

    Raises:
        MissingExtraError: httpx is not installed.
    """
    try:
        from gengeo_hf.imagery.client import ImageryClient
    except ImportError as error:
        raise MissingExtraError("httpx", "net", "use imagery by address") from error
    return ImageryClient(options.net.client, hosts)


def tiles_of(service: "TileService", options: "TilingOptions", client: "ImageryClient | None" = None) -> TileSource:
    """Tiles by metres of a service.

    Args:
        service: What was opened.
        options: How it is tiled.
        client: The client that read the service's own documents, if it has any.

    Raises:
        GenGeoError: No area was given, or `ServiceTiles` refuses.
    """
    from pathlib import Path

    from gengeo_hf.imagery.service_tiles import ServiceTiles
    from gengeo_hf.imagery.tile_cache import TileCache
    from gengeo_hf.imagery.tile_reader import TileReader

    net = options.net
    if options.area is None:
        raise GenGeoError(
            f"{service.name} may cover the world: say where, with --area FILE.geojson, --bounds west,south,east,north "
            "or --near lat,lon,radius"
        )
    root = Path(net.cache) if net.cache else None
    cache = TileCache(root, service.identity, service.host, net.cache_limit_mb, net.retry_missing)
    client = client or client_of(options, service.host)
    reader = TileReader(service, client, cache, net.shift_m, options.max_empty, options.keep_one_colour)
    sizes = options.tile_sizes or (options.tile_m,)
    return ServiceTiles(reader, options.area, sizes, options.overlap, options.pixels, options.zoom, net)
