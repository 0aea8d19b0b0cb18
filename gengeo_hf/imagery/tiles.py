"""Aerial tiles: the table of their positions, and the interface that reads their pixels.

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

NO_DATA_SHARE = "no_data_share"  # key in the `info` of a tile's image: share of its pixels without data, above 0

TILE_SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("lat", pa.float64(), nullable=False),  # of the tile's centre, degrees, WGS84
        pa.field("lon", pa.float64(), nullable=False),
        pa.field("west", pa.float64()),  # bounds in degrees; null where unknown, west > east across the date line
        pa.field("south", pa.float64()),
        pa.field("east", pa.float64()),
        pa.field("north", pa.float64()),
        pa.field("area", pa.string()),
        pa.field("source", pa.string()),  # the file that the pixels came from
    ]
)


@dataclass(frozen=True)
class Rights:
    """Attribution, licence, date and address of imagery; empty texts are unknown.

    Args:
        attribution: Text that must be shown with the imagery, for example "Maanmittauslaitos".
        licence: Name or address of the licence, for example "CC BY 4.0".
        acquired: Date, year or range of dates of the flight, as the source or the user states it.
        address: Address of the source, without secrets.
    """

    attribution: str = ""
    licence: str = ""
    acquired: str = ""
    address: str = ""

    def or_else(self, other: "Rights") -> "Rights":
        """These rights, completed by those of `other`."""
        return Rights(*(mine or theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class ImageryStoppedError(SourceStoppedError):
    """No further tile can be read: the server does not answer, or the disk is full. What was read is kept."""


class TileSource(Protocol):
    """Imagery as tiles.

    `table` is known before any pixel is read, so that a build can be divided, resumed and counted. A source whose
    pixels depend on options that its table does not show describes them in a text `rendering`: an interrupted build
    is not resumed if it differs. A source with a true attribute `keeps_one_colour` has its tiles of one colour indexed.
    """

    name: str
    table: pa.Table  # TILE_SCHEMA, one row for each tile

    def read(self, row: int) -> Image.Image | None:
        """Pixels of one tile, north up, RGB; None where the imagery holds no data. Called from several threads.

        Raises:
            GenGeoError: The pixels cannot be read.
        """
        ...


@runtime_checkable
class PlannedSource(Protocol):
    """A `TileSource` that is fetched from servers, with an estimate beforehand."""

    rights: Rights

    def plan(self) -> "ImageryPlan":
        """Tiles, requests, megabytes and minutes; nothing is requested."""
        ...

    def prepare(self) -> str:
        """Read some tiles before the work begins; a note for the user, or empty.

        Raises:
            ImageryStoppedError: The source is not usable.
        """
        ...

    def summary(self) -> str:
        """What was fetched and what was not used, in one line."""
        ...


class SubsetTiles:
    """Some tiles of a source.

    Args:
        source: All tiles.
        ids: Ids of those that are wanted.
    """

    def __init__(self, source: "TileSource", ids: pa.ChunkedArray) -> None:
        self._source = source
        wanted = pc.is_in(source.table["tile_id"], value_set=ids.combine_chunks())
        self._rows = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
        self.name, self.table = source.name, source.table.take(pa.array(self._rows))
        self.rights: Rights = getattr(source, "rights", Rights())  # a user's own source may state none
        self.rendering: str = getattr(source, "rendering", "")
        self.acquired: dict[str, str] = getattr(source, "acquired", {})
        self.keeps_one_colour: bool = getattr(source, "keeps_one_colour", False)

    def read(self, row: int) -> Image.Image | None:
        """Pixels of one tile."""
        return self._source.read(int(self._rows[row]))


def read_tile(source: TileSource, row: int) -> Image.Image | None:
    """Pixels of one tile of any source, before it is encoded; None where the imagery holds no data.

    Raises:
        NotAPictureError: All its pixels that hold data have one colour.
        GenGeoError: The pixels cannot be read.
    """
    image = source.read(row)
    if image is None or getattr(source, "keeps_one_colour", False):
        return image
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    # Where some pixels hold no data these are black, see `tile_image`.
    if is_one_colour(pixels, np.asarray(pixels.any(axis=-1)) if NO_DATA_SHARE in image.info else None):
        raise NotAPictureError(ONE_COLOUR)
    return image


def tile_image(pixels: np.ndarray, empty: float, most_empty: float) -> Image.Image | None:
    """The image of a tile; None where too much of it holds no data.

    Args:
        pixels: RGB, (rows, columns, 3) uint8, black where there is no data.
        empty: Share of its pixels without data; noted in the image's `info` where it is above 0.
        most_empty: Share that is allowed.
    """
    if empty > most_empty:
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
    """Put columns into `TILE_SCHEMA`.

    Args:
        ids: A unique id for each tile.
        lat, lon: Centres in degrees, (tiles,).
        bounds: Bounds of each tile; None or a NaN side means unknown.
        area, source: One value for all tiles, or one for each.

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
    """Return the table when every id is unique and every centre is on Earth.

    Raises:
        GenGeoError: An id is repeated, or a centre is missing or outside -90..90, -180..180 degrees.
    """
    ids = table["tile_id"]
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = pc.value_counts(ids)
        twice = counts.field("values")[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()].as_py()
        raise GenGeoError(f"the tile id {twice!r} occurs twice; every tile needs its own id")
    lat, lon = table["lat"].to_numpy(), table["lon"].to_numpy()
    wrong = ~((np.abs(lat) <= 90) & (np.abs(lon) <= 180))  # NaN compares false, so it is caught as well
    if wrong.any():
        row = int(np.argmax(wrong))
        raise GenGeoError(
            f"tile {ids[row].as_py()!r} has lat {lat[row]:g}, lon {lon[row]:g}: degrees in -90..90 and -180..180 are "
            "expected; are the columns swapped, empty or in metres?"
        )
    return table


def row_bounds(table: pa.Table, row: int) -> Bounds | None:
    """The bounds of one tile, None where they are unknown."""
    west, south, east, north = (table[side][row].as_py() for side in ("west", "south", "east", "north"))
    if west is None or south is None or east is None or north is None:
        return None
    return Bounds(west, south, east, north)
