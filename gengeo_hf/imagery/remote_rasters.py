"""Rasters by address: one COG, the items of a STAC search, the images of OpenAerialMap.

The files are read in pieces through the imagery client, and cropped by the reader of local rasters.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from PIL import Image

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.imagery.addresses import check_rights, client_of
from gengeo_hf.imagery.client import ImageryClient, ServerError
from gengeo_hf.imagery.hosts import host_of, redact
from gengeo_hf.imagery.placing import is_date
from gengeo_hf.imagery.plan import ImageryPlan, check_size, estimate_cells
from gengeo_hf.imagery.ranges import BLOCK, RemoteFile, RemoteReader
from gengeo_hf.imagery.raster_files import REMOTE_DRIVERS, open_with
from gengeo_hf.imagery.raster_sizes import open_rasters
from gengeo_hf.imagery.tile_cache import TileCache
from gengeo_hf.imagery.tiles import ImageryStoppedError, Rights, TileSource

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from gengeo_hf.imagery.registry import TilingOptions

MAX_FILES = 200
OAM = "https://api.openaerialmap.org"
ASSET_KEYS = ("visual", "image", "ortho", "rgb", "cog", "data")  # preferred ones of a STAC item


@dataclass(frozen=True)
class RemoteRaster:
    """A raster that a document named: its address, and the rights that the document states."""

    address: str
    rights: Rights = field(default_factory=Rights)


class RemoteRasters:
    """Tiles cropped from rasters by address.

    Args:
        name: What messages and the index call the source; without secrets.
        rasters: The files. Where they overlap, the newest one that holds data wins, else the one named last.
        client: Fetches them.
        options: How they are tiled.

    Raises:
        GenGeoError: A file cannot be read, or does not cover the area.
    """

    def __init__(self, name: str, rasters: list[RemoteRaster], client: ImageryClient, options: "TilingOptions") -> None:
        if options.area is not None:
            smallest = min(options.tile_sizes or (options.tile_m,))
            estimate = estimate_cells(options.area, smallest, options.overlap)
            check_size(options.area, estimate, max(options.net.max_tiles, 20_000) * 10, 0)
        self.name, self._client, self._options = name, client, options
        stated = rasters[0].rights if len(rasters) == 1 else _joined_rights([raster.rights for raster in rasters])
        self.rights = options.net.rights.or_else(stated).or_else(Rights(address=name))
        root = Path(options.net.cache) if options.net.cache else None
        self._files: dict[str, RemoteFile] = {}
        self._identity: dict[str, TileCache] = {}
        names = {}
        for raster in rasters:
            shown = redact(raster.address)
            cache = TileCache(root, shown, host_of(raster.address), options.net.cache_limit_mb)
            file = RemoteFile(client, raster.address, cache)
            cache.describe({"address": shown, "attribution": raster.rights.attribution})
            names[_path_of(raster.address)] = file
        self._files = names
        dates = [(_path_of(r.address), r.rights.acquired) for r in rasters if is_date(r.rights.acquired)]
        self._tiles = open_rasters(
            list(names),
            options.tile_sizes or (options.tile_m,),
            options.overlap,
            pixels=options.pixels,
            value_range=options.value_range,
            area=options.area,
            open_dataset=self._open,
            nodata=options.nodata,
            max_empty=options.max_empty,
            dates=[*options.dates, *dates],
        )
        self.notes, self.tile_sizes, self.acquired = self._tiles.notes, self._tiles.tile_sizes, self._tiles.acquired
        self.table, self.rendering = self._tiles.table, f"{name} {self._tiles.rendering}"

    def read(self, row: int) -> Image.Image | None:
        """Pixels of one tile; None where less than half of it holds data.

        Raises:
            GenGeoError: A file cannot be read there.
            ImageryStoppedError: The server is down.
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
        """Tiles, requests, megabytes and minutes, from the sizes of the files."""
        share = self._share_needed()
        size = sum(file.size for file in self._files.values()) * share
        requests = max(len(self._files), round(size / BLOCK / 4))  # neighbouring pieces come in one request
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
        """Read one tile in the middle, so that a file that cannot be read ends here."""
        try:
            self.read(self.table.num_rows // 2)
        except GenGeoError as error:
            raise ImageryStoppedError(error) from error
        return ""

    def summary(self) -> str:
        """Requests and megabytes of this run."""
        return f"{self._client.requests:,} requests, {self._client.bytes_received / 1e6:,.1f} MB"

    def _share_needed(self) -> float:
        """About the share of the files' bytes that the tiles need."""
        if self._options.area is None:
            return 1.0
        cells = self.table.num_rows / len(self.tile_sizes)
        covered = cells * (min(self.tile_sizes) * (1 - self._options.overlap)) ** 2
        total = sum(self._ground_m2(path) for path in self._files)
        return min(1.0, 1.3 * covered / max(total, 1.0))

    def _ground_m2(self, path: str) -> float:
        from rasterio.warp import transform_bounds

        from gengeo_hf.common.geo import Bounds, size_of

        with self._open(path) as dataset:
            width, height = size_of(Bounds(*transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)))
        return width * height

    def _open(self, path: str) -> "DatasetReader":
        def opener(name: str, mode: str = "rb", **_: Any) -> RemoteReader:
            if name != path or mode not in ("r", "rb"):
                raise FileNotFoundError(name)  # GDAL looks for files beside it, which are not there
            return self._files[path].open()

        try:
            return open_with(REMOTE_DRIVERS, path, opener=opener)
        except Exception as error:  # GDAL's words for any failure of what it reads through
            if (problem := self._files[path].problem) is not None:
                raise problem from None
            raise GenGeoError(f"{path} is not a raster that can be read: {error}") from error


def open_cog(address: str, options: "TilingOptions") -> TileSource:
    """One GeoTIFF by address."""
    name = redact(address)
    check_rights(name, options)
    return RemoteRasters(name, [RemoteRaster(address)], client_of(options, host_of(address)), options)


def open_stac(address: str, options: "TilingOptions") -> TileSource:
    """Rasters of a STAC search: `stac:URL?collections=a,b&datetime=2023-01-01/2023-12-31`."""
    area = options.area
    if area is None:
        raise GenGeoError("a STAC search needs --area, --bounds or --near")
    parts = urlsplit(address)
    asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
    root = urlunsplit(parts._replace(query="")).removesuffix("/search")
    if "collections" not in asked:
        raise GenGeoError(f"{redact(address)} names no collection: write stac:{redact(root)}?collections=NAME")
    client = client_of(options, host_of(root))
    rasters = [_raster_of(item, options.net.layer, client) for item in _search(client, root, asked, area.bounds)]
    if not rasters:
        raise GenGeoError(f"{redact(root)} has nothing of {asked['collections']} in {area}")
    for raster in rasters:
        client.allow(raster.address)  # the search named it; the plan lists the hosts
    check_rights(redact(root), options, _joined_rights([raster.rights for raster in rasters]))
    return RemoteRasters(redact(address), rasters, client, options)


def _search(client: ImageryClient, root: str, asked: dict[str, str], bounds: Any) -> Iterable[Any]:
    try:
        import pystac_client
        from pystac_client.stac_api_io import StacApiIO
    except ImportError as error:
        raise MissingExtraError("pystac_client", "net", "search a STAC catalogue") from error

    class PoliteIO(StacApiIO):
        """Reads through the imagery client."""

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
            collections=asked["collections"].split(","),
            bbox=[west, south, east, north],
            datetime=asked.get("datetime"),
            max_items=MAX_FILES + 1,
            method="GET",
        )
        found = list(search.items())
        licences = {name: _rights_of(catalogue.get_collection(name)) for name in asked["collections"].split(",")}
    except GenGeoError:
        raise
    except Exception as error:  # whatever a document of a stranger leads its reader to
        raise GenGeoError(f"{redact(root)} is not a STAC API that can be searched: {redact(str(error))}") from error
    if len(found) > MAX_FILES:
        raise GenGeoError(f"more than {MAX_FILES} items lie there: choose a smaller area or a datetime")
    return [(item, licences.get(item.collection_id or "", Rights())) for item in found]


def _rights_of(collection: Any) -> Rights:
    providers = [provider.name for provider in collection.providers or [] if "licensor" in (provider.roles or [])]
    names = providers or [provider.name for provider in collection.providers or []]
    return Rights("; ".join(names), collection.license or "")


def _raster_of(found: Any, key: str | None, client: ImageryClient) -> RemoteRaster:
    """The asset of an item that holds its picture.

    Raises:
        GenGeoError: It has none by http, or not the one that was asked for.
    """
    item, rights = found
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


def open_oam(address: str, options: "TilingOptions") -> TileSource:
    """Images of OpenAerialMap in the area: `oam:`, or `oam:URL` for another server of the same kind."""
    area = options.area
    if area is None:
        raise GenGeoError("OpenAerialMap needs --area, --bounds or --near")
    root = address or OAM
    client = client_of(options, host_of(root))
    rasters: list[RemoteRaster] = []
    for page in range(1, 6):
        query = urlencode({"bbox": ",".join(f"{v:.7g}" for v in area.bounds), "limit": 100, "page": page})
        try:
            content = json.loads(client.get(f"{root.rstrip('/')}/meta?{query}").content)
            results = content["results"]
            rasters += [_oam_raster(result) for result in results]
        except (ValueError, KeyError, TypeError) as error:
            raise GenGeoError(f"{redact(root)} does not answer as OpenAerialMap does: {error}") from error
        if len(results) < 100:
            break
    if not rasters:
        raise GenGeoError(f"OpenAerialMap has no image in {area}")
    for raster in rasters[:MAX_FILES]:
        client.allow(raster.address)
    check_rights("OpenAerialMap", options, _joined_rights([raster.rights for raster in rasters]))
    return RemoteRasters(f"oam:{address}", rasters[:MAX_FILES], client, options)


def _oam_raster(result: dict[str, Any]) -> RemoteRaster:
    properties = result.get("properties") or {}
    licence = str(properties.get("license") or result.get("license") or "")
    return RemoteRaster(
        str(result["uuid"]),
        Rights(str(result.get("provider") or ""), licence, str(result.get("acquisition_end") or "")[:10]),
    )


def _joined_rights(rights: list[Rights]) -> Rights:
    """Rights of several files in one: every name and licence once, and the range of the dates."""

    def once(values: Iterable[str]) -> str:
        return "; ".join(dict.fromkeys(value for value in values if value))

    days = sorted(right.acquired for right in rights if right.acquired)
    range_of = days[0] if len(set(days)) == 1 else f"{days[0]}/{days[-1]}" if days else ""
    return Rights(once(r.attribution for r in rights), once(r.licence for r in rights), range_of)


def _path_of(address: str) -> str:
    """What rasterio is told: an address without query, so that no secret is in a message of GDAL."""
    return urlunsplit(urlsplit(address)._replace(query="", fragment="")).rpartition("@")[2]
