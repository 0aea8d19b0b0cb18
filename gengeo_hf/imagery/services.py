"""Interface of tile services: a tile grid, a method that fetches a tile, and the rights of the imagery.

Templates, WMTS, WMS, ArcGIS servers and PMTiles archives implement it; `service_tiles.py` crops tiles of a ground size
from all of them.
"""

from typing import TYPE_CHECKING, Protocol

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.grids import TileGrid
from gengeo_hf.imagery.tiles import Rights

if TYPE_CHECKING:
    from gengeo_hf.imagery.client import Answer, ImageryClient


class TileService(Protocol):
    """A source of map tiles.

    Attributes:
        name: Name in messages and in the index, without secrets.
        kind: "XYZ", "WMTS", "WMS", "ArcGIS" or "PMTiles".
        identity: Key of the source in the cache: address without secrets, layer, grid.
        host: Host name of the tiles.
        grid: Grid with the zoom levels.
        extent: Bounds of the imagery in degrees, None if they are not stated.
        rights: Attribution, licence and date that the source states.
        tile_kb: Estimated kilobytes of a source tile.
    """

    name: str
    kind: str
    identity: str
    host: str
    grid: TileGrid
    extent: Bounds | None
    rights: Rights
    tile_kb: float

    def fetch(self, client: "ImageryClient", zoom: int, column: int, row: int) -> "Answer":
        """The response for one tile; its `is_missing` is true if the service has no such tile.

        Args:
            client: HTTP client.
            zoom: Zoom level.
            column, row: Indices of the tile, counted from the upper left corner.

        Raises:
            ServerError: The server does not respond, or refuses.
        """
        ...


def check_extent(service_name: str, extent: Bounds | None, area: Area) -> None:
    """Check that an area overlaps the extent that a source states.

    Args:
        service_name: Name of the source for messages.
        extent: Bounds of the source in degrees; None if unknown, which passes.
        area: The area.

    Raises:
        GenGeoError: The two do not overlap. The message states if latitude and longitude may be swapped.
    """
    if extent is None:
        return
    bounds = area.bounds
    if extent.overlaps(bounds):
        return
    covered = "west {:g}, south {:g}, east {:g}, north {:g}".format(*extent)
    swapped = Bounds(bounds.south, bounds.west, bounds.north, bounds.east)
    hint = "choose an area inside it"
    if -90 <= swapped.south < swapped.north <= 90 and extent.overlaps(swapped):
        hint = (
            "are latitude and longitude swapped? --bounds takes west,south,east,north, and GeoJSON has longitude first"
        )
    raise GenGeoError(f"{service_name} covers {covered}, not {area}: {hint}")
