"""What a tile service is: a grid, a way from a tile to its bytes, and the rights of its imagery.

Templates, WMTS, WMS, ArcGIS servers and PMTiles archives are services; `service_tiles.py` crops tiles by metres out of
any of them.
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
        name: What messages and the index call it; without secrets.
        kind: XYZ, WMTS, WMS, ArcGIS or PMTiles.
        identity: What makes it another source for the cache; without secrets.
        host: Host that is asked.
        grid: Its zoom levels.
        extent: Box of its imagery in degrees, None where it does not say.
        rights: Attribution, licence and date that the source itself states.
        tile_kb: About the kilobytes of a source tile.
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
        """The answer for one tile, which may be that there is none.

        Raises:
            ServerError: The server does not answer, or refuses.
        """
        ...


def check_extent(service_name: str, extent: Bounds | None, area: Area) -> None:
    """Make sure that an area meets the extent that a source states.

    Raises:
        GenGeoError: It does not; the message says so when the area with latitude and longitude swapped would.
    """
    if extent is None:
        return
    bounds = area.bounds
    if extent.overlaps(bounds):
        return
    covered = "west {:g}, south {:g}, east {:g}, north {:g}".format(*extent)
    swapped = Bounds(bounds.south, bounds.west, bounds.north, bounds.east)
    hint = "choose an area inside of it"
    if -90 <= swapped.south < swapped.north <= 90 and extent.overlaps(swapped):
        hint = (
            "with latitude and longitude swapped it would: --bounds takes west,south,east,north, and GeoJSON has "
            "longitude first"
        )
    raise GenGeoError(f"{service_name} covers {covered}, not {area}: {hint}")
