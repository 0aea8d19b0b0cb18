"""PMTiles archives by address: map tiles in one file, which the imagery client reads in blocks."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.addresses import client_of, tiles_of
from gengeo_hf.imagery.client import Answer, ImageryClient, ServerError
from gengeo_hf.imagery.grids import web_mercator
from gengeo_hf.imagery.hosts import host_of, redact
from gengeo_hf.imagery.options import NetOptions, TilingOptions
from gengeo_hf.imagery.remote_file import RemoteFile
from gengeo_hf.imagery.tile_cache import TileCache
from gengeo_hf.imagery.tiles import Rights, TileSource


class PmTilesService:
    """Tiles of a PMTiles archive; see `TileService`.

    Args:
        address: HTTP or HTTPS address of the archive.
        client: Client that fetches blocks of the archive.
        net: Options with cache and tile size.

    Raises:
        GenGeoError: The file is not a PMTiles archive, or holds vector tiles.
        MissingExtraError: pmtiles is not installed.
    """

    kind = "PMTiles"

    def __init__(self, address: str, client: ImageryClient, net: NetOptions) -> None:
        try:
            from pmtiles.reader import Reader
            from pmtiles.tile import TileType
        except ImportError as error:
            raise MissingExtraError("pmtiles", "net", "read PMTiles") from error
        self.name, self.host = redact(address), host_of(address)
        self.identity = f"{self.name} tiles"
        root = Path(net.cache) if net.cache else None
        file = RemoteFile(client, address, TileCache(root, self.name, self.host, net.cache_limit_mb))
        self._reader = Reader(file.read_at)
        with self._errors_in_one_line():
            header = self._reader.header()
            attribution = str(self._reader.metadata().get("attribution") or "")
        if header["tile_type"] == TileType.MVT:
            raise GenGeoError(f"{self.name} holds vector tiles; aerial imagery is needed")
        lowest, highest = int(header["min_zoom"]), int(header["max_zoom"])
        self.grid = web_mercator(net.tile_pixels or 256).limited(lowest, highest)
        box = [header[key] / 1e7 for key in ("min_lon_e7", "min_lat_e7", "max_lon_e7", "max_lat_e7")]
        self.extent: Bounds | None = Bounds(*box)
        self.rights = Rights(attribution, address=self.name)
        self.tile_kb = 20.0

    def fetch(self, client: ImageryClient, zoom: int, column: int, row: int) -> Answer:
        """Read one tile, with the client that opened the archive."""
        with self._errors_in_one_line():
            content = self._reader.get(zoom, column, row)
        return Answer(404 if content is None else 200, content or b"", {}, self.name)

    @contextlib.contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        """Convert every error of the reader to a `GenGeoError` that names the archive."""
        try:
            yield
        except GenGeoError:
            raise
        except Exception as error:  # the reader raises exceptions of many types for damaged archives
            reason = first_line(error) or type(error).__name__
            raise ServerError(f"{self.name} cannot be read as a PMTiles archive (version 3): {reason}") from error


def open_pmtiles(address: str, options: TilingOptions) -> TileSource:
    """Open a PMTiles archive by address."""
    client = client_of(options, host_of(address))
    service = PmTilesService(address, client, options.net)
    return tiles_of(service, options, client)
