"""ArcGIS servers: cached tiles of a MapServer, and images that a MapServer or ImageServer draws on request."""

import json
import math
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.addresses import tiles_of
from gengeo_hf.imagery.client import Answer, ImageryClient, ServerError
from gengeo_hf.imagery.grids import HALF_WORLD_M, Level, TileGrid, is_web_mercator, virtual_grid
from gengeo_hf.imagery.hosts import host_of, redact
from gengeo_hf.imagery.options import NetOptions, TilingOptions
from gengeo_hf.imagery.tiles import Rights, TileSource


class ArcGisService:
    """Tiles of an ArcGIS MapServer or ImageServer; see `TileService`.

    Args:
        address: `.../MapServer` or `.../ImageServer`, with a token in its query if the server requires one.
        about: Decoded service document (`?f=json`).
        net: Options with layer, headers and tile size.

    Raises:
        GenGeoError: The tile grid or the document is not valid.
    """

    kind = "ArcGIS"

    def __init__(self, address: str, about: dict[str, Any], net: NetOptions) -> None:
        parts = urlsplit(address)
        self._base = urlunsplit(parts._replace(query="", fragment="")).rstrip("/")
        self._query = dict(parse_qsl(parts.query))
        self._query.pop("f", None)
        self._headers = net.headers
        self.name = redact(self._base)
        self.host = host_of(address)
        self.is_cached = bool(about.get("singleFusedMapCache") and about.get("tileInfo"))
        self.grid = _cached_grid(about) if self.is_cached else virtual_grid("EPSG:3857", net.tile_pixels or 512)
        self._layers = net.layer
        self.identity = f"{self.name} {net.layer or ''} {self.grid.name}"
        self.extent = _extent(about.get("fullExtent") or about.get("extent"))
        self.rights = Rights(_author(about).strip(), str(about.get("licenseInfo") or ""), "", self.name)
        self.tile_kb = 20.0 * (next(iter(self.grid.levels.values())).tile / 256) ** 2

    def address(self, zoom: int, column: int, row: int) -> str:
        """Address of one tile, with secrets. In addresses of cached tiles the row precedes the column."""
        level = self.grid.level(zoom)
        if self.is_cached:
            suffix = f"?{urlencode(self._query)}" if self._query else ""
            return f"{self._base}/tile/{level.name}/{row}/{column}{suffix}"
        box = ",".join(f"{value:.10g}" for value in level.box(column, row))
        is_image_server = self._base.lower().endswith("imageserver")
        query = self._query | {
            "bbox": box,
            "bboxSR": "3857",
            "imageSR": "3857",
            "size": f"{level.tile},{level.tile}",
            "f": "image",
            "format": "jpgpng" if is_image_server else "png32",
            "transparent": "true",
        }
        if is_image_server:
            query |= {"interpolation": "RSP_BilinearInterpolation"}
        elif self._layers:
            query |= {"layers": f"show:{self._layers}"}
        return f"{self._base}/{'exportImage' if is_image_server else 'export'}?{urlencode(query, safe=',:')}"

    def fetch(self, client: ImageryClient, zoom: int, column: int, row: int) -> Answer:
        """The response for one tile."""
        return client.get(self.address(zoom, column, row), headers=self._headers)


def open_arcgis(address: str, options: TilingOptions) -> TileSource:
    """Open tiles of an ArcGIS server."""
    service, client = arcgis_service(address, options.net)
    return tiles_of(service, options, client)


def arcgis_service(address: str, net: NetOptions) -> tuple[ArcGisService, ImageryClient]:
    """Open an ArcGIS service by its document.

    Raises:
        GenGeoError: There is no such service, its document is not valid, or it requires a token.
    """
    client = ImageryClient(net.client, (host_of(address),))
    parts = urlsplit(address)
    query = urlencode(dict(parse_qsl(parts.query)) | {"f": "json"})
    answer = client.get(urlunsplit(parts._replace(query=query)), headers=net.headers)
    if answer.is_missing:
        raise ServerError(f"there is no ArcGIS service at {answer.address} ({answer.status})", answer.status)
    try:
        about = json.loads(answer.content)
        if not isinstance(about, dict):
            raise ValueError("not an object")
    except ValueError:
        raise GenGeoError(f"{answer.address} is not an ArcGIS service: its response is not JSON") from None
    if "error" in about:  # with status 200
        problem = about["error"] if isinstance(about["error"], dict) else {"message": about["error"]}
        hint = "add a token: ...?token=..., which is never shown" if problem.get("code") in (498, 499, 403) else ""
        text = f"{problem.get('code', '')} {problem.get('message', '')}"
        raise ServerError(f"{answer.address} refuses: {text}; {hint or 'check the address'}")
    if "tileInfo" not in about and "spatialReference" not in about and "fullExtent" not in about:
        raise GenGeoError(
            f"{answer.address} is not an ArcGIS service: its address must end in MapServer or ImageServer"
        )
    return ArcGisService(address, about, net), client


def _author(about: dict[str, Any]) -> str:
    """Owner or author that the service names, "" for none."""
    document = about.get("documentInfo")
    author = document.get("Author") if isinstance(document, dict) else ""
    return str(about.get("copyrightText") or author or "")


def _cached_grid(about: dict[str, Any]) -> TileGrid:
    """The grid of the cached tiles.

    Raises:
        GenGeoError: The document does not describe a grid of square tiles.
    """
    try:
        info = about["tileInfo"]
        crs = _crs(info.get("spatialReference") or about["spatialReference"])
        left, top, side = float(info["origin"]["x"]), float(info["origin"]["y"]), int(info["rows"])
        if side != int(info["cols"]):
            raise ValueError("its tiles are not square")
        extent = about.get("fullExtent") or about["extent"]
        levels = []
        for lod in info["lods"]:
            step = side * float(lod["resolution"])
            right = max(float(extent["xmax"]), HALF_WORLD_M if is_web_mercator(crs) else -math.inf)
            bottom = min(float(extent["ymin"]), -HALF_WORLD_M if is_web_mercator(crs) else math.inf)
            columns, rows = math.ceil((right - left) / step - 1e-9), math.ceil((top - bottom) / step - 1e-9)
            zoom = int(lod["level"])
            if zoom < 0:
                raise ValueError(f"level {zoom}")
            levels.append(Level(zoom, float(lod["resolution"]), left, top, columns, rows, side, str(zoom)))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise GenGeoError(f"the tile grid of this ArcGIS service is not valid: {error}") from None
    grid = TileGrid(crs, levels, f"{crs} tiles")
    lowest, highest = (value if type(value := about.get(key)) is int else None for key in ("minLOD", "maxLOD"))
    return grid if highest is None else grid.limited(lowest, highest)


def _crs(reference: dict[str, Any]) -> str:
    """The CRS of a `spatialReference` in a form that PROJ accepts."""
    number = reference.get("latestWkid") or reference.get("wkid")
    if number in (102100, 102113, 3857):
        return "EPSG:3857"
    if number:
        return f"EPSG:{number}" if int(number) < 32768 else f"ESRI:{number}"
    return str(reference.get("wkt") or "")


def _extent(extent: Any) -> Bounds | None:
    """The extent in degrees, None if it is not stated or cannot be computed."""
    try:
        import pyproj

        crs = _crs(extent["spatialReference"])
        to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        west, south, east, north = (float(extent[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        box = to_degrees.transform_bounds(west, south, east, north)
        return Bounds(*box) if all(map(math.isfinite, box)) else None
    except Exception:  # the server may state anything; without an extent the area is not checked
        return None
