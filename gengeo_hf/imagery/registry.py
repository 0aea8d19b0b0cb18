"""Choose the reader of an imagery source."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.addresses import is_address, open_address
from gengeo_hf.imagery.dataset import HUB, holds_pictures, hub_tiles, parquet_tiles
from gengeo_hf.imagery.options import NetOptions
from gengeo_hf.imagery.raster import RasterTiles
from gengeo_hf.imagery.raster_sizes import SeveralRasterSizes, open_rasters
from gengeo_hf.imagery.table import TABLE_SUFFIXES, TableTiles
from gengeo_hf.imagery.tiles import Rights, TileSource
from gengeo_hf.imagery.xyz import MbTiles, XyzTiles, holds_tiles

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".gpkg")


@dataclass(frozen=True)
class TilingOptions:
    """How imagery is cut and how tables are read; what a kind of source does not need is left alone.

    Args:
        tile_m: rasters: side of a tile in metres on the ground.
        overlap: rasters: share of a tile that its neighbour repeats.
        pixels: rasters: side of a tile in pixels, at most.
        value_range: rasters: values that become black and white; None looks at the files.
        zoom: map tiles: the level; None takes the one with the most tiles.
        tms: map tiles in a folder: rows counted from the south.
        north_rows: MBTiles: rows counted from the north.
        tile_order: map tiles in a folder: "zxy", or "zyx".
        leave_out_repeated: map tiles: leave out pictures that stand in several places.
        nodata: rasters: value of pixels without data, beside what the files declare and show.
        max_empty: all but tables: share of a tile that may hold no data.
        keep_one_colour: keep tiles whose pixels all have the same colour.
        image_column, lat_column, lon_column: tables: columns to use; None recognises them.
        tile_size_m: tables: ground size of a tile in metres; None takes it from the table.
        dates: rasters: (pattern of a file's name, date); the first that fits goes before the date in a file's tags.
        tile_sizes: by address and rasters: several ground sizes in metres around each cell; empty takes `tile_m`.
        area: by address and rasters: only tiles that touch it; None takes all that a raster covers.
        net: by address: limits, rights and further words of the user.
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


def open_imagery(source: str | Path, options: TilingOptions | None = None) -> TileSource:
    """Open imagery of any kind that we read.

    In this order: `hf:owner/name` (a dataset on the Hub); a file by its ending (CSV or Parquet table, MBTiles, raster);
    a folder that a dataset was saved to; a folder with a table; a folder of map tiles `z/x/y`; a folder of rasters. A
    Parquet table with the pictures inside, as `datasets` writes it, is a dataset.

    Raises:
        GenGeoError: nothing is there, or nothing of it is imagery that we know.
    """
    options = options or TilingOptions()
    tiles: Any = open_address(str(source), options) if is_address(str(source)) else _open_local(source, options)
    if options.keep_one_colour:
        tiles.keeps_one_colour = True
        tiles.rendering = f"{getattr(tiles, 'rendering', '')} one colour too"
    if is_address(str(source)):
        return tiles
    everywhere = Rights(acquired=next((date for pattern, date in options.dates if pattern == "*"), ""))
    tiles.rights = options.net.rights.or_else(everywhere).or_else(getattr(tiles, "rights", Rights()))
    if len(options.tile_sizes) > 1 and not hasattr(tiles, "tile_sizes"):
        raise GenGeoError(
            f"{source} has tiles of its own size: several ground sizes (--tile) can be cut from rasters and from "
            "imagery by address"
        )
    found: TileSource = tiles
    return found


def _open_local(source: str | Path, options: TilingOptions) -> TileSource:
    """Imagery on disk, or a data set on the Hub."""
    if str(source).startswith(HUB):
        return hub_tiles(str(source).removeprefix(HUB))
    path = Path(source)
    if not path.exists():
        raise GenGeoError(f"there is nothing at {source}")
    suffix = path.suffix.lower()
    if path.is_file():
        if suffix == ".parquet" and holds_pictures(path):
            return parquet_tiles([path])
        if suffix in TABLE_SUFFIXES:
            return _table(path, options)
        if suffix == ".mbtiles":
            return _inside(MbTiles(path, options.zoom, options.north_rows, **_content(options)), options)
        return _rasters([path], options)
    if (path / "dataset_info.json").is_file() or (path / "gallery" / "dataset_info.json").is_file():
        return _saved_dataset(path)
    shards = sorted(path.glob("*.parquet"))
    if shards and all(holds_pictures(shard) for shard in shards):
        return parquet_tiles(shards)
    if any(child.suffix.lower() in TABLE_SUFFIXES for child in path.iterdir()):
        return _table(path, options)
    if holds_tiles(path):
        tiles = XyzTiles(path, options.zoom, options.tms, options.tile_order, **_content(options))
        return _inside(tiles, options)
    rasters = sorted(child for child in path.rglob("*") if child.suffix.lower() in RASTER_SUFFIXES)
    if not rasters:
        raise GenGeoError(
            f"{source} holds no imagery that we know: a table (CSV, Parquet) with image files, map tiles z/x/y, "
            f"or rasters ({', '.join(RASTER_SUFFIXES)})"
        )
    return _rasters(rasters, options)


def _rasters(paths: list[Path], options: TilingOptions) -> RasterTiles | SeveralRasterSizes:
    return open_rasters(
        paths,
        options.tile_sizes or (options.tile_m,),
        options.overlap,
        pixels=options.pixels,
        value_range=options.value_range,
        area=options.area,
        nodata=options.nodata,
        max_empty=options.max_empty,
        dates=options.dates,
    )


def _content(options: TilingOptions) -> dict[str, Any]:
    """Arguments of the readers of map tiles that tell what is left out by its content."""
    return {
        "leave_out_repeated": options.leave_out_repeated,
        "max_empty": options.max_empty,
        "one_colour": options.keep_one_colour,
    }


def _inside(tiles: MbTiles | XyzTiles, options: TilingOptions) -> MbTiles | XyzTiles:
    """The tiles, after a look whether any of them lies in the area that was asked for.

    Raises:
        GenGeoError: All lie elsewhere: their columns and rows are in another order than it was taken.
    """
    if options.area is None:
        return tiles
    lat, lon = tiles.table["lat"].to_numpy(), tiles.table["lon"].to_numpy()
    if not options.area.touches(lat, lon, 100.0).any():
        raise GenGeoError(
            f"{tiles.name} lies around {lat.mean():.3f}, {lon.mean():.3f}, outside of {options.area}: are its names "
            "z/y/x (--tile-order zyx), or its rows counted from the other side (--tms, --north-rows)?"
        )
    return tiles


def _table(path: Path, options: TilingOptions) -> TableTiles:
    return TableTiles(path, options.image_column, options.lat_column, options.lon_column, options.tile_size_m)


def _saved_dataset(path: Path) -> TileSource:
    """A folder of `Dataset.save_to_disk`, or one that holds such a folder named `gallery`."""
    import datasets

    from gengeo_hf.imagery.dataset import DatasetTiles

    folder = path if (path / "dataset_info.json").is_file() else path / "gallery"
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged file raises whatever its reader happens to meet
        raise GenGeoError(f"{folder} is no saved dataset that can be read: {first_line(error)}") from error
    return DatasetTiles(found, name=path.name)
