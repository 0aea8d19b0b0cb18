"""Aerial tiles: the table of their positions, and the interface for reading their pixels.

Tables, rasters, map tiles and data sets are read as a `TileSource`; `gengeo_hf.index.build` encodes its tiles.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from gengeo_hf.common.errors import GenGeoError, SourceStoppedError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.tile_content import ONE_COLOUR, NotAPictureError, is_one_colour

if TYPE_CHECKING:
    from gengeo_hf.imagery.plan import ImageryPlan

NO_DATA_SHARE = "no_data_share"  # key in the `info` of a tile's image: share of pixels without data, if above 0

TILE_SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("lat", pa.float64(), nullable=False),  # centre of the tile in degrees, WGS84
        pa.field("lon", pa.float64(), nullable=False),
        pa.field("west", pa.float64()),  # bounds in degrees, null if unknown; west > east across the date line
        pa.field("south", pa.float64()),
        pa.field("east", pa.float64()),
        pa.field("north", pa.float64()),
        pa.field("area", pa.string()),
        pa.field("source", pa.string()),  # file of the pixels, or name of the source
    ]
)


@dataclass(frozen=True)
class Rights:
    """Attribution, licence, date and address of imagery; "" for unknown values.

    Args:
        attribution: Text that must be shown with the imagery, for example "Maanmittauslaitos".
        licence: Name or address of the licence, for example "CC BY 4.0".
        acquired: Date, year or range of dates of the flight, as stated by the source or the user.
        address: Address of the source, without secrets.
    """

    attribution: str = ""
    licence: str = ""
    acquired: str = ""
    address: str = ""

    def or_else(self, other: "Rights") -> "Rights":
        """These rights, with unknown values taken from `other`."""
        return Rights(*(own or fallback for own, fallback in zip(astuple(self), astuple(other), strict=True)))


class ImageryStoppedError(SourceStoppedError):
    """No further tile can be read, since the server does not respond or the disk is full. Read tiles are kept."""


class TileSource(Protocol):
    """Imagery as tiles.

    `table` is known before pixels are read, so that a build can be divided, resumed and counted. A source whose pixels
    depend on options that its table does not show states them in an attribute `rendering` (text), and an interrupted
    build is resumed only if it is equal. If an attribute `keeps_one_colour` is true, tiles of one colour are indexed.

    Attributes:
        name: Name of the source in messages and in the index.
        table: Tiles in the columns of `TILE_SCHEMA`, one row each.
    """

    name: str
    table: pa.Table  # TILE_SCHEMA, one row for each tile

    def read(self, row: int) -> Image.Image | None:
        """Read one tile. Called from several threads.

        Args:
            row: Row of `table`.

        Returns:
            RGB image, north up; None if the imagery has no data.

        Raises:
            GenGeoError: The pixels cannot be read.
        """
        ...


@runtime_checkable
class PlannedSource(Protocol):
    """A `TileSource` that is fetched from servers and can estimate the requests beforehand."""

    rights: Rights

    def plan(self) -> "ImageryPlan":
        """Estimate tiles, requests, megabytes and minutes, without any request."""
        ...

    def prepare(self) -> str:
        """Read some tiles before the work begins.

        Returns:
            A note for the user, "" for none.

        Raises:
            ImageryStoppedError: The source cannot be used.
        """
        ...

    def summary(self) -> str:
        """Numbers of fetched and of unused tiles, as one line."""
        ...


class SubsetTiles:
    """Some tiles of a source.

    Args:
        source: Source of all tiles.
        ids: Ids of the tiles of the subset.
    """

    def __init__(self, source: "TileSource", ids: pa.ChunkedArray) -> None:
        self._source = source
        wanted = pc.is_in(source.table["tile_id"], value_set=ids.combine_chunks())
        self._rows = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
        self.name, self.table = source.name, source.table.take(pa.array(self._rows))
        self.rights: Rights = getattr(source, "rights", Rights())  # not a member of the protocol
        self.rendering: str = getattr(source, "rendering", "")
        self.acquired: dict[str, str] = getattr(source, "acquired", {})
        self.keeps_one_colour: bool = getattr(source, "keeps_one_colour", False)

    def read(self, row: int) -> Image.Image | None:
        """Read one tile; see `TileSource`."""
        return self._source.read(int(self._rows[row]))


def read_tile(source: TileSource, row: int) -> Image.Image | None:
    """Read one tile of any source for encoding.

    Args:
        source: Any source.
        row: Row of its table.

    Returns:
        The image, None if the imagery has no data.

    Raises:
        NotAPictureError: All pixels with data have one colour, and the source does not keep such tiles.
        GenGeoError: The pixels cannot be read.
    """
    image = source.read(row)
    if image is None or getattr(source, "keeps_one_colour", False):
        return image
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    # Pixels without data are black, see `tile_image`.
    if is_one_colour(pixels, np.asarray(pixels.any(axis=-1)) if NO_DATA_SHARE in image.info else None):
        raise NotAPictureError(ONE_COLOUR)
    return image


def tile_image(pixels: np.ndarray, empty: float, max_empty: float) -> Image.Image | None:
    """The image of a tile, None if too much of it has no data.

    Args:
        pixels: RGB, uint8 (rows, columns, 3), black for pixels without data.
        empty: Share of pixels without data, which is stored in the image's `info` if it is above 0.
        max_empty: Maximum share of pixels without data.
    """
    if empty > max_empty:
        return None
    image = Image.fromarray(pixels)
    if empty:
        image.info[NO_DATA_SHARE] = empty
    return image


def tile_table(
    ids: Sequence[str],
    lat: Sequence[float] | np.ndarray,
    lon: Sequence[float] | np.ndarray,
    bounds: Sequence[Bounds | None],
    area: str | Sequence[str] = "",
    source: str | Sequence[str] = "",
) -> pa.Table:
    """Make a table with the columns of `TILE_SCHEMA`.

    Args:
        ids: Unique id of each tile.
        lat, lon: Centres in degrees, (tiles,).
        bounds: Bounds of each tile in degrees; None or with a NaN side if unknown.
        area, source: One value for all tiles, or one value for each.

    Raises:
        GenGeoError: See `check_tiles`.
    """
    known = [box if box is not None and np.isfinite(box).all() else None for box in bounds]
    sides = [[None if box is None else box[side] for box in known] for side in range(4)]
    texts = [[value] * len(ids) if isinstance(value, str) else list(value) for value in (area, source)]
    columns = [list(ids), np.asarray(lat, dtype=float), np.asarray(lon, dtype=float), *sides, *texts]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, TILE_SCHEMA, strict=True)]
    return check_tiles(pa.table(arrays, schema=TILE_SCHEMA))


def check_tiles(table: pa.Table) -> pa.Table:
    """Check ids and centres of a table of tiles.

    Returns:
        The table, unchanged.

    Raises:
        GenGeoError: An id is repeated, or a centre is missing or outside -90..90, -180..180 degrees.
    """
    ids = table["tile_id"]
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = pc.value_counts(ids)
        twice = counts.field("values")[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()].as_py()
        raise GenGeoError(f"the tile id {twice!r} occurs twice; every tile needs its own id")
    lat, lon = table["lat"].to_numpy(), table["lon"].to_numpy()
    wrong = ~((np.abs(lat) <= 90) & (np.abs(lon) <= 180))  # comparisons with NaN are false, so NaN is wrong too
    if wrong.any():
        row = int(np.argmax(wrong))
        raise GenGeoError(
            f"tile {ids[row].as_py()!r} has lat {lat[row]:g}, lon {lon[row]:g}: degrees in -90..90 and -180..180 are "
            "expected; are the columns swapped, empty or in metres?"
        )
    return table


def row_bounds(table: pa.Table, row: int) -> Bounds | None:
    """The bounds of one tile in degrees, None if unknown."""
    west, south, east, north = (table[side][row].as_py() for side in ("west", "south", "east", "north"))
    if west is None or south is None or east is None or north is None:
        return None
    return Bounds(west, south, east, north)
