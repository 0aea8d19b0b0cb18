"""Options of imagery: tiling, and for imagery by address also rights, limits, cache and layer."""

from dataclasses import dataclass, field

from gengeo_hf.common.area import Area
from gengeo_hf.imagery.tiles import Rights

DEFAULT_LIMIT_MB = 20_000
MAX_TILES = 20_000


@dataclass(frozen=True)
class ClientOptions:
    """Limits of the HTTP client.

    Args:
        contact: E-mail or web address of the user, sent as User-Agent so that an operator can contact them.
        connections: Maximum number of simultaneous requests to one host.
        rate: Maximum number of requests per second to one host; 0 means no limit, for your own server.
        attempts: Maximum number of tries for one request.
        pause_s: Pause in seconds before the second try; each further pause is twice as long, with jitter.
        max_pause_s: Maximum pause in seconds. A Retry-After of the server is not shortened.
        timeout_s: Seconds without any received byte after which a try fails.
        total_s: Time limit in seconds for one request, including all tries and pauses.
        allow_private: Whether requests to private, loopback and link-local addresses are allowed.
        give_up_after: Number of consecutive failed requests after which a host receives no more requests.
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
        rights: Attribution, licence and date that the user states, which override those of the source.
        client: Limits of the client, and the user's contact.
        cache: Directory of fetched tiles; None takes the user's cache directory.
        cache_limit_mb: Maximum size of the cache in megabytes.
        retry_missing: Whether to request tiles again that failed or were missing in an earlier run.
        max_tiles: Maximum number of source tiles to fetch.
        layer: Layer of a WMS, WMTS or ArcGIS service, or asset of STAC items.
        matrix_set: Tile matrix set of a WMTS, or of a template whose grid is not Web Mercator.
        tile_pixels: Side of a source tile in pixels; None detects it.
        shift_m: Correction of displaced imagery: metres by which it is moved to the east and to the north.
        headers: Further HTTP header fields, for example a Referer that a server requires.
        needs_rights: Whether attribution, licence and contact are required.
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
    """Options of tiling and of tables. Each kind of source uses the options that are marked with it.

    Args:
        tile_m: Rasters and addresses: side of a tile in metres on the ground.
        overlap: Rasters and addresses: share of a tile that its neighbour repeats, in [0, 1).
        pixels: Rasters and addresses: maximum side of a tile in pixels.
        value_range: Rasters: values that become black and white; None takes percentiles of the files.
        zoom: Map tiles: zoom level. None takes the level with the most tiles or, by address, the coarsest that is fine
            enough.
        tms: Map tiles in a directory or by address: whether rows are counted from the south.
        north_rows: MBTiles: whether rows are counted from the north.
        tile_order: Map tiles in a directory: order of the numbers in paths, "zxy" or "zyx".
        leave_out_repeated: Map tiles: whether to leave out images that occur at several positions.
        nodata: Rasters: value of pixels without data, in addition to the values that files declare.
        max_empty: All but tables: maximum share of a tile without data.
        keep_one_colour: All: whether to keep tiles whose pixels all have the same colour.
        image_column, lat_column, lon_column: Tables: names of columns; None recognises them.
        tile_size_m: Tables: ground size of a tile in metres; None takes it from the table.
        dates: Rasters: pairs of a pattern of a file's name and a date; the first match overrides the date in the tags.
        tile_sizes: Rasters and addresses: several ground sizes in metres around each centre; empty takes `tile_m`.
        area: Rasters and addresses: area that tiles must touch; None takes the extent of the rasters.
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
