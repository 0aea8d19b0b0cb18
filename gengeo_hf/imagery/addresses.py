"""Imagery by address: recognition of the kind of source, and functions that open it.

Kinds are entries of `SOURCES`; each is a function of the address and the options. Your own module can add one:

    from gengeo_hf.imagery.addresses import SOURCES

    @SOURCES.register("mygis")
    def open_mygis(address, options): ...        # returns a TileSource, for `gengeo index mygis:ADDRESS`
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.registry import Registry
from gengeo_hf.imagery.options import TilingOptions
from gengeo_hf.imagery.tiles import Rights, TileSource

if TYPE_CHECKING:
    from gengeo_hf.imagery.client import ImageryClient
    from gengeo_hf.imagery.services import TileService

OpenSource = Callable[[str, TilingOptions], TileSource]
_HERE = "gengeo_hf.imagery.addresses:"
SOURCES: Registry[OpenSource] = Registry(
    "kind of imagery",
    {
        "xyz": _HERE + "open_template",
        "wmts": "gengeo_hf.imagery.wmts:open_wmts",
        "wms": "gengeo_hf.imagery.wms:open_wms",
        "arcgis": "gengeo_hf.imagery.arcgis:open_arcgis",
        "pmtiles": "gengeo_hf.imagery.pmtiles_service:open_pmtiles",
        "cog": "gengeo_hf.imagery.remote_rasters:open_cog",
        "stac": "gengeo_hf.imagery.remote_rasters:open_stac",
        "oam": "gengeo_hf.imagery.remote_rasters:open_oam",
    },
)


def is_address(text: str) -> bool:
    """Whether a text is an address of imagery rather than a path: `https://...`, or the name of a kind and a colon."""
    return bool(re.match(r"^[a-z+]+://", text, re.IGNORECASE)) or text.partition(":")[0] in SOURCES


def open_address(text: str, options: TilingOptions) -> TileSource:
    """Open imagery by address.

    Args:
        text: Address, template, or `KIND:address`.
        options: Options of tiling, and rights that the user states.

    Raises:
        GenGeoError: The address does not look like imagery, or an option that the source needs is missing.
    """
    kind, address = split_kind(text)
    return SOURCES[kind](address, options)


def split_kind(text: str) -> tuple[str, str]:
    """The kind of source and the address, from `KIND:address` or an address whose kind is recognised.

    Raises:
        GenGeoError: The kind is not recognised.
    """
    kind, _, address = text.partition(":")
    return (kind, address) if kind in SOURCES and not address.startswith("//") else (_kind_of(text), text)


def _kind_of(address: str) -> str:
    """The kind of source, recognised from the address.

    Raises:
        GenGeoError: The kind is not recognised.
    """
    from gengeo_hf.imagery.hosts import host_of, redact
    from gengeo_hf.imagery.templates import is_template

    if is_template(address):
        return "xyz"
    host_of(address)
    path, query = urlsplit(address).path.lower(), urlsplit(address).query.lower()
    for kind, pattern in _PATTERNS.items():
        if re.search(pattern, f"{path}?{query}"):
            return kind
    raise GenGeoError(
        f"{redact(address)} does not look like imagery: write the address of tiles with {{z}}/{{x}}/{{y}}, or of a "
        f"GeoTIFF, or put KIND: before it; kinds are {', '.join(SOURCES)}"
    )


_PATTERNS = {  # of `path?query` in lower case
    "pmtiles": r"\.pmtiles\?",
    "cog": r"\.(tif|tiff|vrt|jp2)\?",
    "arcgis": r"/(mapserver|imageserver)/?\?",
    "wmts": r"service=wmts|wmts",
    "wms": r"service=wms|wms|/ows",
    "stac": r"stac|/search",
}


def open_template(address: str, options: TilingOptions) -> TileSource:
    """Open map tiles whose addresses follow a template."""
    from gengeo_hf.imagery.templates import TemplateService

    net = options.net
    service = TemplateService(address, net, options.tms)
    return tiles_of(service, options)


def check_rights(name: str, options: TilingOptions, stated: Rights | None = None) -> None:
    """Check that attribution and licence are stated by the user or the source, and a contact by the user.

    Args:
        name: Name of the source in messages.
        options: Options with the rights and the contact that the user states.
        stated: Rights that the source states; None for none.

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
            f"{name}: add {' and '.join(missing)}: the owner of the imagery, its licence, and how the server's "
            "operator can reach you; attribution and licence are stored in the index and shown with every result"
        )


def client_of(options: TilingOptions, *hosts: str) -> "ImageryClient":
    """The HTTP client of one source.

    Args:
        options: Options with the limits of the client.
        hosts: Names of the hosts to which it may send requests.

    Raises:
        MissingExtraError: httpx is not installed.
    """
    try:
        from gengeo_hf.imagery.client import ImageryClient
    except ImportError as error:
        raise MissingExtraError("httpx", "net", "use imagery by address") from error
    return ImageryClient(options.net.client, hosts)


def tiles_of(service: "TileService", options: TilingOptions, client: "ImageryClient | None" = None) -> TileSource:
    """Tiles of a ground size, cropped from the tiles of a service.

    Args:
        service: The opened service.
        options: Options of tiling.
        client: Client that read the service's documents; None creates one.

    Raises:
        GenGeoError: Attribution, licence, contact or area is missing, or `ServiceTiles` refuses.
    """
    from pathlib import Path

    from gengeo_hf.imagery.service_tiles import ServiceTiles
    from gengeo_hf.imagery.tile_cache import TileCache
    from gengeo_hf.imagery.tile_reader import TileReader

    net = options.net
    check_rights(service.name, options, service.rights)
    if options.area is None:
        raise GenGeoError(
            f"{service.name} may cover the whole Earth: choose an area with --area FILE.geojson, "
            "--bounds west,south,east,north or --near lat,lon,radius"
        )
    root = Path(net.cache) if net.cache else None
    cache = TileCache(root, service.identity, service.host, net.cache_limit_mb, net.retry_missing)
    client = client or client_of(options, service.host)
    reader = TileReader(service, client, cache, net.shift_m, options.max_empty, options.keep_one_colour)
    sizes = options.tile_sizes or (options.tile_m,)
    return ServiceTiles(reader, options.area, sizes, options.overlap, options.pixels, options.zoom, net)
