"""Commands that make and keep an index: index, info, verify, remove, to-store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli.base import Backend, Device, Dtype, IndexFolder, Model, app, check_writable, tell_choice

if TYPE_CHECKING:
    from gengeo_hf.index import GeoIndex

Imagery = Annotated[
    str,
    typer.Argument(
        help="GeoTIFF/COG/VRT or a folder of them, CSV/Parquet table with tiles, map tiles z/x/y, MBTiles, a saved "
        "dataset, hf:owner/name."
    ),
]
Tile = Annotated[str, typer.Option(help="Rasters: side of a tile on the ground.")]
Overlap = Annotated[str, typer.Option(help="Rasters: share of a tile that its neighbour repeats.")]
TileSize = Annotated[
    str | None, typer.Option(help="Tables: ground size of a tile; gives bounds and a true-to-scale map.")
]
ImageColumn = Annotated[
    str | None, typer.Option(help="Tables: column of the tile's file, or of an id that it starts with.")
]
LatColumn = Annotated[str | None, typer.Option(help="Tables: column of the tile's centre, latitude in degrees.")]
LonColumn = Annotated[str | None, typer.Option(help="Tables: column of the tile's centre, longitude in degrees.")]
Zoom = Annotated[int | None, typer.Option(help="Map tiles: zoom level. Default: the deepest.")]
Tms = Annotated[bool, typer.Option("--tms", help="Map tiles in a folder: rows counted from the south.")]


@app.command()
def index(
    source: Imagery,
    out: Annotated[Path, typer.Option(help="Index folder to write.")],
    model: Model,
    tile: Tile = "100m",
    overlap: Overlap = "50%",
    value_range: Annotated[
        str | None,
        typer.Option(help="Rasters: values that become black and white, low,high. Give the same when adding an area."),
    ] = None,
    tile_size_m: TileSize = None,
    image_column: ImageColumn = None,
    lat_column: LatColumn = None,
    lon_column: LonColumn = None,
    zoom: Zoom = None,
    tms: Tms = False,
    thumbnails: Annotated[
        int, typer.Option(min=0, help="Side of the small pictures for maps, in pixels; 0 keeps none.")
    ] = 128,
    device: Device = None,
    backend: Backend = "auto",
    dtype: Dtype = "auto",
    truncate_dim: Annotated[
        int | None, typer.Option(min=1, help="Keep only so many values of each descriptor: a smaller index.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Tiles in one forward pass.")] = 32,
    readers: Annotated[int, typer.Option(min=1, help="Threads that read imagery.")] = 2,
    add: Annotated[bool, typer.Option("--add", help="Add to an index instead of replacing it.")] = False,
) -> None:
    """Encode aerial imagery into an index.

    **Example:** `gengeo index orthophoto.tif --out city.gengeo --model ./gengeo-cvusa --tile 100m --overlap 50%`

    An interrupted run goes on when the command is given again; several processes with the same command share the work.
    SOURCE may be another index of the same model, to be added.
    """
    from gengeo_hf.common.units import parse_metres, parse_range, parse_share
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.imagery import TilingOptions
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.build import build_index

    tiling = TilingOptions(
        tile_m=parse_metres(tile), overlap=parse_share(overlap), zoom=zoom, tms=tms,
        value_range=parse_range(value_range) if value_range else None, image_column=image_column,
        lat_column=lat_column, lon_column=lon_column, tile_size_m=parse_metres(tile_size_m) if tile_size_m else None,
    )  # fmt: skip
    # All that is quick to refuse comes before the slow model.
    imagery, present = _sources(source, tiling, out, add)
    if present is not None and truncate_dim is None:
        truncate_dim = present.manifest["model"].get("truncate_dim")
    images = imagery.table.num_rows if hasattr(imagery, "table") else None
    encoder = Encoder.from_pretrained(
        model, device=device, batch_size=batch_size, backend=backend, truncate_dim=truncate_dim, compute_dtype=dtype,
        expected_images=images,
    )  # fmt: skip
    tell_choice(encoder)
    options: dict[str, Any] = {"model_name": model, "thumbnail_pixels": thumbnails, "readers": readers}
    options["progress"] = True
    if present is not None:
        total = present.add(encoder, imagery, **options)
        typer.echo(f"{out} now holds {total:,} tiles")
        return
    report = build_index(encoder, imagery, out, **options)
    typer.echo(str(report))
    typer.echo(GeoIndex.load(out, verify=False).report())
    typer.echo(f"next: gengeo locate photo.jpg --index {out} --model {model} --map places.html")


def _sources(source: str, tiling: Any, out: Path, add: bool) -> "tuple[Any, GeoIndex | None]":
    """The imagery, or another index, and the index that it is added to."""
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.imagery import open_imagery
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.folder import check_place

    another = (Path(source) / "manifest.json").is_file()
    if another and not add:
        raise GenGeoError(f"{source} is an index already; with --add it is added to --out")
    imagery: Any = GeoIndex.load(source) if another else open_imagery(source, tiling)
    if add:
        return imagery, GeoIndex.load(out)
    check_place(out)
    check_writable(out / "manifest.json")
    return imagery, None


@app.command()
def verify(index: IndexFolder) -> None:
    """Check every byte and every vector of an index.

    **Example:** `gengeo verify --index city.gengeo`
    """
    from gengeo_hf.index import GeoIndex

    typer.echo(GeoIndex.load(index, verify=False).verify())


@app.command()
def info(
    index: IndexFolder,
    geojson: Annotated[Path | None, typer.Option(help="Write the tiles' boxes for a GIS.")] = None,
) -> None:
    """Tell what an index holds and how it was made.

    **Example:** `gengeo info --index city.gengeo --geojson coverage.geojson`
    """
    from gengeo_hf.common.files import write_text
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.summary import footprints

    check_writable(geojson)
    opened = GeoIndex.load(index, verify=False)
    typer.echo(opened.report())
    if geojson:
        write_text(geojson, footprints(opened.tiles))


@app.command()
def remove(
    index: IndexFolder,
    tile_id: Annotated[list[str] | None, typer.Option(help="Tile to remove; may be given several times.")] = None,
    area: Annotated[str | None, typer.Option(help="Remove all tiles of this area.")] = None,
    bounds: Annotated[str | None, typer.Option(help="Remove tiles with their centre in west,south,east,north.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Remove all tiles of this file, as `gengeo info` names it.")
    ] = None,
) -> None:
    """Remove tiles from an index.

    **Example:** `gengeo remove --index city.gengeo --bounds 24.90,60.16,24.95,60.18`
    """
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.common.units import parse_bounds
    from gengeo_hf.index import GeoIndex

    if not (tile_id or area is not None or bounds or source is not None):
        raise GenGeoError("say what to remove: --tile-id, --area, --bounds or --source")
    opened = GeoIndex.load(index)
    unreadable = opened.left_out.num_rows
    removed = opened.remove(tile_id or (), area, parse_bounds(bounds) if bounds else None, source)
    if not removed and opened.left_out.num_rows == unreadable:
        typer.echo(f"no tile matches: nothing was removed, {index} is as it was; gengeo info tells what it holds")
        return
    typer.echo(f"removed {removed:,} tiles, {len(opened):,} left")


@app.command("to-store")
def to_store(
    index: IndexFolder,
    store: Annotated[str, typer.Option(help="milvus:./local.db, milvus:http://host:19530 or qdrant:http://host:6333.")],
) -> None:
    """Copy an index into a vector database; an interrupted export goes on where it stopped.

    **Example:** `gengeo to-store --index city.gengeo --store milvus:http://localhost:19530`

    Then give the same address to `gengeo locate --index`.
    """
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.stores import connect, export_index

    report = export_index(GeoIndex.load(index), connect(store), progress=True)
    agreement = f"top ten agree to {report['top10_agreement']:.1%} with the exact answer"
    typer.echo(f"{store}: {report['count']:,} tiles for {report['tiles']:,} of the index; {agreement}")
