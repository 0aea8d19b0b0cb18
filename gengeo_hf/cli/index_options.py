"""Options of `gengeo index`: tiles of the imagery, contents of the index, and computation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli.network_options import NetworkOptions
from gengeo_hf.cli.options import (
    COMPUTE,
    CONTENTS,
    LENGTH,
    LENGTHS,
    RANGE,
    SHARE,
    TILES,
    AreaOptions,
    Overlap,
    TruncateDim,
    checked,
)

if TYPE_CHECKING:
    from gengeo_hf.imagery import TilingOptions

TABLES, MAP_TILES, ADAPTATION = "Tables of tiles", "Map tiles", "Adaptation to the area"


def read_shard(text: str) -> tuple[int, int]:
    """Parse a part of a divided build, `I/N`.

    Returns:
        Zero-based index of the part, and number of parts.

    Raises:
        GenGeoError: The text has another form.
    """
    from gengeo_hf.common.errors import GenGeoError

    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise GenGeoError(f"expected I/N with I from 0 to N - 1, for example 0/4, found {text!r}")
    return int(index), int(count)


def read_date(text: str) -> tuple[str, str]:
    """Parse `DATE` or `PATTERN=DATE`.

    Returns:
        Pattern of file names, and date.

    Raises:
        GenGeoError: The date is not valid.
    """
    from gengeo_hf.imagery.georeference import digits_of

    pattern, _, date = text.rpartition("=")
    digits_of(date)
    return pattern or "*", date


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """How imagery is cropped into tiles, and how tables are read."""

    tile: Annotated[
        Any,
        typer.Option(
            help="Side of a tile on the ground, or several sizes around each centre: 60m,120m.",
            rich_help_panel=TILES,
            **LENGTHS,
        ),
    ] = "100m"
    overlap: Overlap = "50%"
    max_empty: Annotated[
        Any,
        typer.Option(
            help="Greatest share of a tile without data or with transparent pixels.", rich_help_panel=TILES, **SHARE
        ),
    ] = "50%"
    keep_one_colour: Annotated[
        bool,
        typer.Option(
            "--keep-one-colour",
            help="Keep tiles of one colour. Default: they are left out and counted.",
            rich_help_panel=TILES,
        ),
    ] = False
    value_range: Annotated[
        Any,
        typer.Option(
            help="Rasters: values that become black and white. Default: 0 to 255 for 8 bits, else percentiles of the "
            "files; set it when you add an area to an index.",
            rich_help_panel=TILES,
            **RANGE,
        ),
    ] = None
    nodata: Annotated[
        float | None,
        typer.Option(
            help="Rasters: value of pixels without data, in all bands. Default: as the files state.",
            rich_help_panel=TILES,
        ),
    ] = None
    date: Annotated[
        list[Any] | None,
        typer.Option(
            help="Rasters: date of the imagery, for example 2018 or 2018-06-01; NAME=DATE for the files with that name "
            "or pattern; repeatable. The newest of overlapping rasters is used.",
            rich_help_panel=TILES,
            **checked(read_date, "[NAME=]DATE"),
        ),
    ] = None
    zoom: Annotated[
        int | None,
        typer.Option(
            help="Zoom level. Default: the one with the most tiles; by address, the coarsest that is fine enough.",
            rich_help_panel=MAP_TILES,
        ),
    ] = None
    tms: Annotated[
        bool,
        typer.Option(
            "--tms", help="Rows of a directory or an address are numbered from the south.", rich_help_panel=MAP_TILES
        ),
    ] = False
    north_rows: Annotated[
        bool, typer.Option("--north-rows", help="MBTiles: rows are numbered from the north.", rich_help_panel=MAP_TILES)
    ] = False
    tile_order: Annotated[
        str, typer.Option(metavar="zxy|zyx", help="Order of zoom, column and row in a path.", rich_help_panel=MAP_TILES)
    ] = "zxy"
    leave_out_repeated: Annotated[
        bool,
        typer.Option(
            "--leave-out-repeated",
            help="Leave out images that occur at several positions.",
            rich_help_panel=MAP_TILES,
        ),
    ] = False
    tile_size_m: Annotated[
        Any,
        typer.Option(
            help="Side of a tile on the ground. Default: from a column of sizes or bounds, else unknown.",
            rich_help_panel=TABLES,
            **LENGTH,
        ),
    ] = None
    image_column: Annotated[
        str | None,
        typer.Option(
            help="Column with the tile's file, or with the id at the start of its name. Default: detected.",
            rich_help_panel=TABLES,
        ),
    ] = None
    lat_column: Annotated[
        str | None,
        typer.Option(
            help="Column with the latitude of the tile's centre in degrees. Default: detected.",
            rich_help_panel=TABLES,
        ),
    ] = None
    lon_column: Annotated[
        str | None,
        typer.Option(
            help="Column with the longitude of the tile's centre in degrees. Default: detected.",
            rich_help_panel=TABLES,
        ),
    ] = None

    def tiling(self, where: AreaOptions, network: NetworkOptions) -> "TilingOptions":
        """Convert to the options of `open_imagery`.

        Args:
            where: Area to cover.
            network: Options of imagery by address.

        Raises:
            UsageError: The area or the shift cannot be read.
        """
        from gengeo_hf.imagery import TilingOptions

        return TilingOptions(
            tile_m=min(self.tile),
            tile_sizes=self.tile,
            area=where.chosen(),
            net=network.net(),
            overlap=self.overlap,
            zoom=self.zoom,
            tms=self.tms,
            value_range=self.value_range,
            image_column=self.image_column,
            lat_column=self.lat_column,
            lon_column=self.lon_column,
            tile_size_m=self.tile_size_m,
            north_rows=self.north_rows,
            tile_order=self.tile_order,
            nodata=self.nodata,
            max_empty=self.max_empty,
            keep_one_colour=self.keep_one_colour,
            leave_out_repeated=self.leave_out_repeated,
            dates=tuple(self.date or ()),
        )


@dataclass(frozen=True, kw_only=True)
class ContentOptions:
    """What the index stores for each tile, and the adaptation of the descriptors."""

    thumbnails: Annotated[
        int,
        typer.Option(min=0, help="Side of the thumbnails for maps in pixels; 0 stores none.", rich_help_panel=CONTENTS),
    ] = 128
    truncate_dim: TruncateDim = None
    pose_features: Annotated[
        bool,
        typer.Option(
            "--pose-features",
            help="Also store the features of each tile for the model's pose heads (for each head, about 0.8 kB at "
            "5 x 5 patches, 8 kB at 16 x 16), so that `gengeo locate --pose` needs no imagery. Encodes twice.",
            rich_help_panel=CONTENTS,
        ),
    ] = False
    fusion: Annotated[
        str,
        typer.Option(
            metavar="mean|max",
            help="Score of a centre with several ground sizes: mean or maximum of the scores of its tiles.",
            rich_help_panel=CONTENTS,
        ),
    ] = "mean"
    centering: Annotated[
        str | None,
        typer.Option(
            metavar="gallery|PHOTOS",
            help="Subtract mean descriptors, for areas unlike those of training: gallery: mean of the tiles, for both "
            "views; PHOTOS: directory with photos of at least 30 different places of the area. Default: none.",
            rich_help_panel=ADAPTATION,
        ),
    ] = None
    flip: Annotated[
        bool,
        typer.Option(
            "--flip",
            help="Also store the descriptor of the mirrored tile, which doubles the size.",
            rich_help_panel=ADAPTATION,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """How the tiles are read and encoded."""

    batch_size: Annotated[
        int, typer.Option(min=1, help="Number of tiles in one forward pass.", rich_help_panel=COMPUTE)
    ] = 32
    readers: Annotated[
        int, typer.Option(min=1, help="Number of threads that read imagery.", rich_help_panel=COMPUTE)
    ] = 2
    shard: Annotated[
        Any,
        typer.Option(
            help="Encode only part I of N, with I from 0; `gengeo merge` joins the parts. Default: all tiles.",
            rich_help_panel=COMPUTE,
            **checked(read_shard, "I/N"),
        ),
    ] = None
