"""Choice of the reader of imagery by the kind of the file, directory or address."""

from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.addresses import is_address, open_address
from gengeo_hf.imagery.dataset import HUB, holds_pictures, hub_tiles, parquet_tiles
from gengeo_hf.imagery.options import TilingOptions
from gengeo_hf.imagery.raster_sizes import open_rasters
from gengeo_hf.imagery.table import TABLE_SUFFIXES, TableTiles
from gengeo_hf.imagery.tiles import Rights, TileSource
from gengeo_hf.imagery.xyz import MbTiles, XyzTiles, holds_tiles

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".gpkg")


def open_imagery(source: str | Path, options: TilingOptions | None = None) -> TileSource:
    """Open imagery of any supported kind.

    The kinds are tried in this order: an address; `hf:owner/name` (a dataset on the Hub); a file by its suffix (CSV or
    Parquet table, MBTiles, raster); a directory that a dataset was saved to; a directory with a table; a directory of
    map tiles `z/x/y`; a directory of rasters. A Parquet table that contains the images, as `datasets` writes it, is a
    dataset.

    Args:
        source: Path, address, template, `KIND:address` or `hf:owner/name`.
        options: Options of tiling; None takes the defaults.

    Raises:
        GenGeoError: There is nothing at the path, or it is not imagery of a known kind.
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
            f"{source} has tiles of its own size: several ground sizes (--tile) need rasters or imagery by address"
        )
    found: TileSource = tiles
    return found


def _open_local(source: str | Path, options: TilingOptions) -> TileSource:
    """Open imagery on disk, or a data set on the Hub."""
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
            return _check_area(MbTiles(path, options.zoom, options.north_rows, **_content(options)), options)
        return open_rasters([path], options)
    if (path / "dataset_info.json").is_file() or (path / "gallery" / "dataset_info.json").is_file():
        return _saved_dataset(path)
    shards = sorted(path.glob("*.parquet"))
    if shards and all(holds_pictures(shard) for shard in shards):
        return parquet_tiles(shards)
    if any(child.suffix.lower() in TABLE_SUFFIXES for child in path.iterdir()):
        return _table(path, options)
    if holds_tiles(path):
        tiles = XyzTiles(path, options.zoom, options.tms, options.tile_order, **_content(options))
        return _check_area(tiles, options)
    rasters = sorted(child for child in path.rglob("*") if child.suffix.lower() in RASTER_SUFFIXES)
    if not rasters:
        raise GenGeoError(
            f"{source} holds no imagery of a known kind: a table (CSV, Parquet) with image files, map tiles z/x/y, "
            f"or rasters ({', '.join(RASTER_SUFFIXES)})"
        )
    return open_rasters(rasters, options)


def _content(options: TilingOptions) -> dict[str, Any]:
    """Arguments of the readers of map tiles that leave out tiles by their content."""
    return {
        "leave_out_repeated": options.leave_out_repeated,
        "max_empty": options.max_empty,
        "keep_one_colour": options.keep_one_colour,
    }


def _check_area(tiles: MbTiles | XyzTiles, options: TilingOptions) -> MbTiles | XyzTiles:
    """Check that some tiles touch the area; if none does, columns and rows were probably read in a wrong order.

    Returns:
        `tiles`, unchanged.

    Raises:
        GenGeoError: No tile touches the area.
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
    """Open a directory of `Dataset.save_to_disk`, or one that holds such a directory named `gallery`."""
    import datasets

    from gengeo_hf.imagery.dataset import DatasetTiles

    folder = path if (path / "dataset_info.json").is_file() else path / "gallery"
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # damaged files raise exceptions of many types
        raise GenGeoError(f"{folder} cannot be read as a saved dataset: {first_line(error)}") from error
    return DatasetTiles(found, name=path.name)
