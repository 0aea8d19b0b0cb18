"""Rasters by address: one COG, the items of a STAC search, or the images of OpenAerialMap.

The imagery client reads the files in blocks, and the reader of local rasters crops them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from PIL import Image

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.addresses import check_rights, client_of
from gengeo_hf.imagery.client import ImageryClient, ServerError
from gengeo_hf.imagery.georeference import is_date
from gengeo_hf.imagery.hosts import host_of, redact
from gengeo_hf.imagery.options import TilingOptions
from gengeo_hf.imagery.plan import ImageryPlan, estimate_cells
from gengeo_hf.imagery.raster_files import REMOTE_DRIVERS, open_with
from gengeo_hf.imagery.raster_sizes import open_rasters
from gengeo_hf.imagery.remote_file import BLOCK, RemoteFile, RemoteReader
from gengeo_hf.imagery.tile_cache import TileCache
from gengeo_hf.imagery.tiles import ImageryStoppedError, Rights, TileSource

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

MAX_FILES = 200
OAM = "https://api.openaerialmap.org"
OAM_PAGE = 100  # images in one response of OpenAerialMap
MAX_CELLS = 200_000  # maximum number of tiles of one size in an area
ASSET_KEYS = ("visual", "image", "ortho", "rgb", "cog", "data")  # preferred assets of a STAC item


@dataclass(frozen=True)
class RemoteRaster:
    """A raster by address.

    Args:
        address: HTTP or HTTPS address.
        rights: Rights that the catalogue states for it.
    """

    address: str
    rights: Rights = field(default_factory=Rights)


class RemoteRasters:
    """Tiles cropped from rasters by address.

    Args:
        name: Name of the source in messages and in the index, without secrets.
        rasters: Files. Where they overlap, the newest one with data is used or, with equal dates, the one named last.
        client: Client that fetches their blocks.
        options: Options of tiling.

    Raises:
        GenGeoError: A file cannot be read, no file covers the area, or the area is too large.
    """

    def __init__(self, name: str, rasters: list[RemoteRaster], client: ImageryClient, options: TilingOptions) -> None:
        _check_size(options)
        self.name, self._client, self._options = name, client, options
        stated = rasters[0].rights if len(rasters) == 1 else _joined_rights([raster.rights for raster in rasters])
        self.rights = options.net.rights.or_else(stated).or_else(Rights(address=name))
        paths = _paths_of([raster.address for raster in rasters])
        self._files: dict[str, RemoteFile] = {
            path: _remote_file(raster, client, options) for path, raster in zip(paths, rasters, strict=True)
        }
        acquired = [(path, r.rights.acquired) for path, r in zip(paths, rasters, strict=True)]
        dates = [(path, date) for path, date in acquired if is_date(date)]
        self._tiles = open_rasters(paths, options, dates=dates, open_dataset=self._open)
        self.notes, self.tile_sizes, self.acquired = self._tiles.notes, self._tiles.tile_sizes, self._tiles.acquired
        self.table, self.rendering = self._tiles.table, f"{name} {self._tiles.rendering}"

    def read(self, row: int) -> Image.Image | None:
        """Read one tile, None if too much of it has no data.

        Raises:
            GenGeoError: A file cannot be read at the tile.
            ImageryStoppedError: The server does not respond any more.
        """
        try:
            return self._tiles.read(row)
        except GenGeoError:
            for file in self._files.values():
                if (problem := file.problem) is not None:
                    file.problem = None
                    raise problem from None
            raise

    def plan(self) -> ImageryPlan:
        """Estimate tiles, requests, megabytes and minutes from the sizes of the files."""
        share = self._share_needed()
        size = sum(file.size for file in self._files.values()) * share
        requests = max(len(self._files), round(size / BLOCK / 4))  # neighbouring blocks are fetched in one request
        rate = self._client.options.rate or 50.0
        return ImageryPlan(
            source=self.name,
            area=str(self._options.area or "all that the files cover"),
            tiles=self.table.num_rows,
            source_tiles=requests,
            requests=requests,
            megabytes=size / 1e6,
            minutes=requests / rate / 60,
            hosts=tuple(self._client.hosts),
            attribution=self.rights.attribution,
            licence=self.rights.licence,
            acquired=self.rights.acquired,
            asked_before=self._client.requests,
            notes=(f"{len(self._files)} rasters; requests and megabytes are estimates from their sizes",),
        )

    def prepare(self) -> str:
        """Read one tile from the middle of the table, so that unreadable files are found before the work begins.

        Returns:
            "": there is no note for the user.

        Raises:
            ImageryStoppedError: The tile cannot be read.
        """
        try:
            self.read(self.table.num_rows // 2)
        except GenGeoError as error:
            raise ImageryStoppedError(error) from error
        return ""

    def summary(self) -> str:
        """Requests and megabytes of this run, as text."""
        return f"{self._client.requests:,} requests, {self._client.bytes_received / 1e6:,.1f} MB"

    def _share_needed(self) -> float:
        """Estimated share of the files' bytes that the tiles need."""
        if self._options.area is None:
            return 1.0
        cells = self.table.num_rows / len(self.tile_sizes)
        covered = cells * (min(self.tile_sizes) * (1 - self._options.overlap)) ** 2
        total = sum(self._ground_m2(path) for path in self._files)
        return min(1.0, 1.3 * covered / max(total, 1.0))

    def _ground_m2(self, path: str) -> float:
        """Area of a file on the ground in square metres."""
        from rasterio.warp import transform_bounds

        from gengeo_hf.common.geo import Bounds, size_of

        with self._open(path) as dataset:
            width, height = size_of(Bounds(*transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)))
        return width * height

    def _open(self, path: str) -> "DatasetReader":
        def opener(name: str, mode: str = "rb", **_: Any) -> RemoteReader:
            if name != path or mode not in ("r", "rb"):
                raise FileNotFoundError(name)  # GDAL also looks for sidecar files, which do not exist
            return self._files[path].open()

        try:
            return open_with(REMOTE_DRIVERS, path, opener=opener)
        except Exception as error:  # GDAL hides the exception of the opener behind its own
            if (problem := self._files[path].problem) is not None:
                raise problem from None
            raise GenGeoError(f"{path} cannot be read as a georeferenced raster: {first_line(error)}") from error


def _check_size(options: TilingOptions) -> None:
    """Check that an area does not have too many tiles of the smallest size.

    Raises:
        GenGeoError: The estimate exceeds `MAX_CELLS` and ten times `max_tiles`.
    """
    if options.area is None:
        return
    estimate = estimate_cells(options.area, min(options.sizes), options.overlap)
    limit = max(MAX_CELLS, 10 * options.net.max_tiles)
    if estimate > limit:
        raise GenGeoError(
            f"{options.area} holds about {estimate:,.0f} tiles of {min(options.sizes):g} m, and {limit:,} are allowed: "
            "choose a smaller area or larger tiles (--tile), or raise --max-tiles"
        )


def _remote_file(raster: RemoteRaster, client: ImageryClient, options: TilingOptions) -> RemoteFile:
    """A raster, opened for reading in blocks, which are cached."""
    root = Path(options.net.cache) if options.net.cache else None
    shown = redact(raster.address)
    cache = TileCache(root, shown, host_of(raster.address), options.net.cache_limit_mb)
    file = RemoteFile(client, raster.address, cache)
    cache.describe({"address": shown, "attribution": raster.rights.attribution})
    return file


def open_cog(address: str, options: TilingOptions) -> TileSource:
    """Open one GeoTIFF by address."""
    name = redact(address)
    check_rights(name, options)
    return RemoteRasters(name, [RemoteRaster(address)], client_of(options, host_of(address)), options)


def open_stac(address: str, options: TilingOptions) -> TileSource:
    """Open the rasters of a STAC search: `stac:URL?collections=a,b&datetime=2023-01-01/2023-12-31`."""
    area = options.area
    if area is None:
        raise GenGeoError("a STAC search needs --area, --bounds or --near")
    parts = urlsplit(address)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    root = urlunsplit(parts._replace(query="")).removesuffix("/search")
    if "collections" not in query:
        raise GenGeoError(f"{redact(address)} has no collection: write stac:{redact(root)}?collections=NAME")
    client = client_of(options, host_of(root))
    found = _search(client, root, query, area.bounds)
    rasters = [_raster_of(item, rights, options.net.layer) for item, rights in found]
    if not rasters:
        raise GenGeoError(f"{redact(root)} has no item of {query['collections']} in {area}")
    for raster in rasters:
        client.allow(raster.address)  # named by a document of an allowed host; the plan lists the hosts
    check_rights(redact(root), options, _joined_rights([raster.rights for raster in rasters]))
    return RemoteRasters(redact(address), rasters, client, options)


def _search(
    client: ImageryClient, root: str, query: dict[str, str], bounds: tuple[float, float, float, float]
) -> list[tuple[Any, Rights]]:
    """Search a STAC API for items.

    Args:
        client: HTTP client.
        root: Address of the API.
        query: Search parameters: `collections` and optionally `datetime`.
        bounds: West, south, east, north in degrees.

    Returns:
        Items, each with the rights of its collection.

    Raises:
        GenGeoError: The address is not a STAC API, or more than `MAX_FILES` items match.
        MissingExtraError: pystac_client is not installed.
    """
    try:
        import pystac_client
        from pystac_client.stac_api_io import StacApiIO
    except ImportError as error:
        raise MissingExtraError("pystac_client", "net", "search a STAC catalogue") from error

    class PoliteIO(StacApiIO):
        """Sends the requests of pystac_client with the imagery client."""

        def request(self, href: str, method: str | None = None, headers: Any = None, parameters: Any = None) -> str:
            method = method or "GET"
            if method == "GET" and parameters:
                href = f"{href}{'&' if '?' in href else '?'}{urlencode(parameters)}"
            answer = client.get(href, method=method, headers=headers, json=parameters if method == "POST" else None)
            if answer.is_missing:
                raise ServerError(f"there is no STAC document at {answer.address}", answer.status)
            return answer.content.decode("utf-8")

    west, south, east, north = bounds
    try:
        catalogue = pystac_client.Client.open(root, stac_io=PoliteIO())
        search = catalogue.search(
            collections=query["collections"].split(","),
            bbox=[west, south, east, north],
            datetime=query.get("datetime"),
            max_items=MAX_FILES + 1,
            method="GET",
        )
        found = list(search.items())
        rights = {name: _rights_of(catalogue.get_collection(name)) for name in query["collections"].split(",")}
    except GenGeoError:
        raise
    except Exception as error:  # documents that are not valid raise exceptions of many types
        reason = redact(first_line(error))
        raise GenGeoError(f"{redact(root)} cannot be searched as a STAC API: {reason}") from error
    _check_count(len(found))
    return [(item, rights.get(item.collection_id or "", Rights())) for item in found]


def _check_count(files: int) -> None:
    """Check the number of files of a search.

    Raises:
        GenGeoError: It exceeds `MAX_FILES`.
    """
    if files > MAX_FILES:
        raise GenGeoError(f"the search finds more than {MAX_FILES} rasters: choose a smaller area or a time range")


def _rights_of(collection: Any) -> Rights:
    """Rights of a STAC collection: its licensors or, without any, all providers; and its licence."""
    providers = [provider.name for provider in collection.providers or [] if "licensor" in (provider.roles or [])]
    names = providers or [provider.name for provider in collection.providers or []]
    return Rights("; ".join(names), collection.license or "")


def _raster_of(item: Any, rights: Rights, key: str | None) -> RemoteRaster:
    """The image asset of a STAC item.

    Args:
        item: A `pystac.Item`.
        rights: Rights of its collection.
        key: Name of the asset; None takes the first of `ASSET_KEYS`, or any GeoTIFF.

    Raises:
        GenGeoError: The item has no such asset, or its address is not http or https.
    """
    rasters = {name: asset for name, asset in item.assets.items() if "tiff" in (asset.media_type or asset.href.lower())}
    chosen = key or next((name for name in ASSET_KEYS if name in rasters), next(iter(rasters), ""))
    if chosen not in item.assets:
        raise GenGeoError(f"the item {item.id} has no asset {chosen!r}; it has {sorted(item.assets)}: see --layer")
    address = item.assets[chosen].get_absolute_href() or item.assets[chosen].href
    if not address.startswith(("http://", "https://")):
        raise GenGeoError(
            f"the asset {chosen!r} of {item.id} is at {address[:60]}, which is not http: choose another --layer"
        )
    day = item.datetime.date().isoformat() if item.datetime else ""
    return RemoteRaster(address, Rights(rights.attribution, rights.licence, day, redact(address)))


def open_oam(address: str, options: TilingOptions) -> TileSource:
    """Open images of OpenAerialMap in the area: `oam:`, or `oam:URL` for another server with the same API."""
    area = options.area
    if area is None:
        raise GenGeoError("OpenAerialMap needs --area, --bounds or --near")
    root = address or OAM
    client = client_of(options, host_of(root))
    rasters: list[RemoteRaster] = []
    page = 0
    while len(rasters) == OAM_PAGE * page:  # all pages so far were full
        page += 1
        query = urlencode({"bbox": ",".join(f"{v:.7g}" for v in area.bounds), "limit": OAM_PAGE, "page": page})
        try:
            content = json.loads(client.get(f"{root.rstrip('/')}/meta?{query}").content)
            rasters += [_oam_raster(result) for result in content["results"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GenGeoError(f"{redact(root)} does not have the API of OpenAerialMap: {error!r}") from error
        _check_count(len(rasters))
    if not rasters:
        raise GenGeoError(f"OpenAerialMap has no image in {area}")
    for raster in rasters:
        client.allow(raster.address)
    check_rights("OpenAerialMap", options, _joined_rights([raster.rights for raster in rasters]))
    return RemoteRasters(f"oam:{address}", rasters, client, options)


def _oam_raster(result: dict[str, Any]) -> RemoteRaster:
    """The raster of one result of OpenAerialMap's `/meta`."""
    properties = result.get("properties") or {}
    licence = str(properties.get("license") or result.get("license") or "")
    return RemoteRaster(
        str(result["uuid"]),
        Rights(str(result.get("provider") or ""), licence, str(result.get("acquisition_end") or "")[:10]),
    )


def _joined_rights(rights: list[Rights]) -> Rights:
    """Combined rights of several files: unique names and licences, and the range of dates."""

    def once(values: Iterable[str]) -> str:
        return "; ".join(dict.fromkeys(value for value in values if value))

    days = sorted(right.acquired for right in rights if right.acquired)
    date_range = days[0] if len(set(days)) == 1 else f"{days[0]}/{days[-1]}" if days else ""
    return Rights(once(r.attribution for r in rights), once(r.licence for r in rights), date_range)


def _paths_of(addresses: list[str]) -> list[str]:
    """Unique paths by which GDAL opens the files: addresses without query and password, to show no secrets.

    Addresses that differ only in their query get a number.
    """
    paths: list[str] = []
    for address in addresses:
        path = urlunsplit(urlsplit(address)._replace(query="", fragment="")).rpartition("@")[2]
        paths.append(path if path not in paths else f"{path}#{len(paths)}")
    return paths
