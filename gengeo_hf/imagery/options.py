"""Options of imagery: how it is cropped into tiles, and for imagery by address its rights, limits, cache and layer."""

from dataclasses import dataclass, field

from gengeo_hf.common.area import Area
from gengeo_hf.imagery.tiles import Rights

DEFAULT_LIMIT_MB = 20_000
MAX_TILES = 20_000


@dataclass(frozen=True)
class ClientOptions:
    """Limits of the HTTP client.

    Args:
        contact: E-mail or web address of the user, sent in the User-Agent so that an operator can write to them.
        connections: Simultaneous requests to one host.
        rate: Requests to one host in a second; 0 means no limit, for your own server.
        attempts: Tries for one request.
        pause_s: Pause before the second try in seconds; each further pause is twice as long, with jitter.
        max_pause_s: Longest of these pauses in seconds. A Retry-After of the server is not shortened.
        timeout_s: Seconds without any byte after which a try is given up.
        total_s: Seconds for one request, with all of its tries and pauses.
        allow_private: Whether private, loopback and link-local addresses may be asked.
        give_up_after: Consecutive failed requests after which a host is not asked any more.
    """

    contact: str = ""
    connections: int = 2
    rate: float = 5.0
    attempts: int = 5
    pause_s: float = 1.0
    max_pause_s: float = 120.0
    timeout_s: float = 30.0
    total_s: float = 300.0
    allow_private: bool = False
    give_up_after: int = 20


@dataclass(frozen=True)
class NetOptions:
    """Options of imagery by address.

    Args:
        rights: Attribution, licence and date that the user states; they override those that the source states.
        client: Limits of the client, and the user's contact.
        cache: Directory of fetched tiles; None takes the user's cache directory.
        cache_limit_mb: Size of the cache in megabytes.
        retry_missing: Request again what failed or was missing in an earlier run.
        max_tiles: Greatest number of source tiles to fetch.
        layer: Layer of a WMS, WMTS or ArcGIS service, or asset of STAC items.
        matrix_set: Tile matrix set of a WMTS, or of a template whose grid is not Web Mercator.
        tile_pixels: Side of a source tile in pixels; None detects it.
        shift_m: Metres to the east and to the north by which the imagery is moved, to correct a displaced source.
        headers: Further header fields, for example a Referer that a server requires.
        needs_rights: Refuse a source without attribution, licence and contact.
    """

    rights: Rights = field(default_factory=Rights)
    client: ClientOptions = field(default_factory=ClientOptions)
    cache: str | None = None
    cache_limit_mb: int = DEFAULT_LIMIT_MB
    retry_missing: bool = False
    max_tiles: int = MAX_TILES
    layer: str | None = None
    matrix_set: str | None = None
    tile_pixels: int | None = None
    shift_m: tuple[float, float] = (0.0, 0.0)
    headers: dict[str, str] = field(default_factory=dict)
    needs_rights: bool = True


@dataclass(frozen=True)
class TilingOptions:
    """How imagery is cropped into tiles and how tables are read. Each kind of source uses the options that concern it.

    Args:
        tile_m: Rasters and addresses: side of a tile in metres on the ground.
        overlap: Rasters and addresses: share of a tile that its neighbour repeats, in [0, 1).
        pixels: Rasters and addresses: greatest side of a tile in pixels.
        value_range: Rasters: values that become black and white; None takes percentiles of the files.
        zoom: Map tiles: zoom level. None takes the level with the most tiles; by address, the coarsest that is fine
            enough.
        tms: Map tiles in a directory or by address: rows are counted from the south.
        north_rows: MBTiles: rows are counted from the north.
        tile_order: Map tiles in a directory: "zxy", or "zyx".
        leave_out_repeated: Map tiles: leave out pictures that occur at several positions.
        nodata: Rasters: value of pixels without data, in addition to what the files declare.
        max_empty: All but tables: greatest share of a tile without data.
        keep_one_colour: Keep tiles whose pixels all have the same colour.
        image_column, lat_column, lon_column: Tables: columns to use; None recognises them by name.
        tile_size_m: Tables: ground size of a tile in metres; None takes it from the table.
        dates: Rasters: (pattern of a file's name, date); the first that matches overrides the date in a file's tags.
        tile_sizes: Rasters and addresses: several ground sizes in metres around each centre; empty takes `tile_m`.
        area: Rasters and addresses: only tiles that touch it; None takes all that a raster covers.
        net: Addresses: limits, rights, cache and layer.
    """

    tile_m: float = 100.0
    overlap: float = 0.5
    pixels: int = 392
    value_range: tuple[float, float] | None = None
    zoom: int | None = None
    tms: bool = False
    north_rows: bool = False
    tile_order: str = "zxy"
    leave_out_repeated: bool = False
    nodata: float | None = None
    max_empty: float = 0.5
    keep_one_colour: bool = False
    image_column: str | None = None
    lat_column: str | None = None
    lon_column: str | None = None
    tile_size_m: float | None = None
    dates: tuple[tuple[str, str], ...] = ()
    tile_sizes: tuple[float, ...] = ()
    area: Area | None = None
    net: NetOptions = field(default_factory=NetOptions)

    @property
    def sizes(self) -> tuple[float, ...]:
        """Sides of a tile in metres on the ground, at least one."""
        return self.tile_sizes or (self.tile_m,)
