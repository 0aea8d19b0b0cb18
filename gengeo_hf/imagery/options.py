"""What a user says about imagery by address: limits of the client, rights, cache, layer."""

from dataclasses import dataclass, field

from gengeo_hf.imagery.tiles import Rights

DEFAULT_LIMIT_MB = 20_000
MAX_TILES = 20_000


@dataclass(frozen=True)
class ClientOptions:
    """How polite and how patient the client is.

    Args:
        contact: Address of the user, for the User-Agent: an operator can write instead of blocking.
        connections: Requests to one host at a time.
        rate: Requests to one host in a second; 0 means no limit, for servers of one's own.
        attempts: Tries for one request.
        pause_s: Pause before the second try in seconds; each further pause is twice as long, with jitter.
        max_pause_s: Longest pause in seconds, also for Retry-After.
        timeout_s: Seconds without any byte after which a try is given up.
        total_s: Seconds for one request, with all of its tries and pauses.
        allow_private: Whether private, loopback and link-local addresses may be asked.
        give_up_after: Failed requests in a row after which a host is not asked any more.
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
    """What a user says about imagery by address.

    Args:
        rights: Attribution, licence and date that the user states; they go before those that the source states.
        client: Limits of the client, and the user's contact.
        cache: Directory of fetched tiles; None takes the user's own.
        cache_limit_mb: Size of the cache in megabytes.
        retry_missing: Ask again for what failed or was missing.
        max_tiles: Source tiles that may be fetched without being asked for on purpose.
        layer: Layer of a WMS, WMTS or ArcGIS service.
        matrix_set: Tile matrix set of a WMTS, or of a template whose grid is not Web Mercator.
        tile_pixels: Side of a source tile in pixels; None recognises it.
        shift_m: Metres to the east and to the north by which the imagery is moved, for sources that lie wrong.
        headers: Further header fields, for example a Referer that a server wants.
        needs_rights: Refuse a source whose attribution, licence or user's contact nobody stated.
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
