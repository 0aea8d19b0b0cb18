"""`gengeo index`: encode aerial imagery into an index."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.cluster_options import ClusterOptions, WorkerSetup
from gengeo_hf.cli.network_options import NetworkOptions
from gengeo_hf.cli.options import (
    COMPUTE,
    LENGTH,
    LENGTHS,
    RANGE,
    SHARE,
    AreaOptions,
    EncoderOptions,
    Overwrite,
    checked,
    report_backend,
)
from gengeo_hf.cli.registry import INDEX, gengeo

if TYPE_CHECKING:
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index import GeoIndex


def read_shard(text: str) -> tuple[int, int]:
    """A part of a divided build from `I/N`."""
    from gengeo_hf.common.errors import GenGeoError

    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise GenGeoError(f"expected I/N with I from 0 to N - 1, for example 0/4, found {text!r}")
    return int(number), int(count)


def read_date(text: str) -> tuple[str, str]:
    """The pattern of files and their date, from `DATE` or `PATTERN=DATE`."""
    from gengeo_hf.imagery.placing import digits_of

    pattern, _, date = text.rpartition("=")
    digits_of(date)
    return pattern or "*", date


RASTERS, TABLES, MAP_TILES, ADAPT = "Rasters", "Tables", "Map tiles", "Adaptation to the area"


@gengeo.command(panel=INDEX)
def index(
    source: Annotated[
        str,
        typer.Argument(
            help="GeoTIFF/COG/VRT or a directory of them, CSV/Parquet table with tiles, map tiles z/x/y, MBTiles, a "
            "saved dataset, hf:owner/name, imagery by address (https://.../{z}/{x}/{y}.jpg, WMTS, WMS, ArcGIS, COG, "
            "PMTiles, stac:URL), or another index of the same model (with --add).",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="INDEX", help="Index directory to write.")],
    options: EncoderOptions,
    where: AreaOptions,
    network: NetworkOptions,
    cluster: ClusterOptions,
    tile: Annotated[
        Any,
        typer.Option(
            help="Side of a tile on the ground, or several around each centre: 60m,120m.",
            rich_help_panel=RASTERS,
            **LENGTHS,
        ),
    ] = "100m",
    overlap: Annotated[
        Any, typer.Option(help="Share of a tile that its neighbour repeats.", rich_help_panel=RASTERS, **SHARE)
    ] = "50%",
    fusion: Annotated[
        str,
        typer.Option(
            help="Score of a centre with several sizes: mean or max of its tiles' scores.", rich_help_panel=RASTERS
        ),
    ] = "mean",
    value_range: Annotated[
        Any,
        typer.Option(
            help="Values that become black and white. Give the same when adding an area.",
            rich_help_panel=RASTERS,
            **RANGE,
        ),
    ] = None,
    tile_size_m: Annotated[
        Any,
        typer.Option(
            help="Ground size of a tile; gives bounds and a true-to-scale map.", rich_help_panel=TABLES, **LENGTH
        ),
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(help="Column with the tile's file, or an id that it starts with.", rich_help_panel=TABLES),
    ] = None,
    lat_column: Annotated[
        str | None,
        typer.Option(help="Column with the latitude of the tile's centre, in degrees.", rich_help_panel=TABLES),
    ] = None,
    lon_column: Annotated[
        str | None,
        typer.Option(help="Column with the longitude of the tile's centre, in degrees.", rich_help_panel=TABLES),
    ] = None,
    zoom: Annotated[
        int | None, typer.Option(help="Zoom level. Default: the deepest.", rich_help_panel=MAP_TILES)
    ] = None,
    tms: Annotated[
        bool, typer.Option("--tms", help="Rows of a directory are counted from the south.", rich_help_panel=MAP_TILES)
    ] = False,
    north_rows: Annotated[
        bool, typer.Option("--north-rows", help="MBTiles: rows counted from the north.", rich_help_panel=MAP_TILES)
    ] = False,
    tile_order: Annotated[
        str, typer.Option(help="Order of the numbers in a name: zxy or zyx.", rich_help_panel=MAP_TILES)
    ] = "zxy",
    leave_out_repeated: Annotated[
        bool,
        typer.Option(
            "--leave-out-repeated", help="Leave out pictures that stand in several places.", rich_help_panel=MAP_TILES
        ),
    ] = False,
    nodata: Annotated[
        float | None, typer.Option(help="Value of pixels without data, in all bands.", rich_help_panel=RASTERS)
    ] = None,
    max_empty: Annotated[
        Any, typer.Option(help="Share of a tile that may hold no data or be transparent.", **SHARE)
    ] = "50%",
    keep_one_colour: Annotated[
        bool,
        typer.Option(
            "--keep-one-colour", help="Keep tiles whose pixels all have the same colour; else they are left out."
        ),
    ] = False,
    date: Annotated[
        list[Any] | None,
        typer.Option(
            help="When the imagery was taken, for example 2018 or 2018-06-01; NAME=DATE for the files with that name "
            "or pattern, may be given several times. Where rasters overlap, the newest is used.",
            rich_help_panel=RASTERS,
            **checked(read_date, "[NAME=]DATE"),
        ),
    ] = None,
    thumbnails: Annotated[
        int, typer.Option(min=0, help="Side of the thumbnails for maps, in pixels; 0 keeps none.")
    ] = 128,
    truncate_dim: Annotated[
        int | None, typer.Option(min=1, help="Keep only the first values of each descriptor: a smaller index.")
    ] = None,
    centering: Annotated[
        str | None,
        typer.Option(
            metavar="gallery|PHOTOS",
            help="Subtract mean descriptors, for areas unlike those of training: gallery is the mean of the tiles for "
            "both views; PHOTOS is a directory with photos of at least 30 different places of the area.",
            rich_help_panel=ADAPT,
        ),
    ] = None,
    flip: Annotated[
        bool,
        typer.Option(
            "--flip", help="Keep the descriptor of the mirror image too: twice the size.", rich_help_panel=ADAPT
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Tiles in one forward pass.", rich_help_panel=COMPUTE)] = 32,
    readers: Annotated[int, typer.Option(min=1, help="Threads that read imagery.", rich_help_panel=COMPUTE)] = 2,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan of imagery by address; request no tile, write nothing.")
    ] = False,
    pose_features: Annotated[
        bool,
        typer.Option(
            "--pose-features",
            help="Also store what the model's pose heads need of each tile (about 0.8 kB at 5 x 5 patches, 8 kB at "
            "16 x 16, for each head), so that `gengeo locate --pose` needs no imagery. Tiles are encoded twice.",
        ),
    ] = False,
    add: Annotated[bool, typer.Option("--add", help="Add to the index that is there.")] = False,
    overwrite: Overwrite = False,
    shard: Annotated[
        Any,
        typer.Option(
            help="Encode only part I of N, counted from 0; `gengeo merge` joins the parts.",
            rich_help_panel=COMPUTE,
            **checked(read_shard, "I/N"),
        ),
    ] = None,
) -> None:
    """Build an index from aerial imagery.

    An interrupted run continues when the command is given again; several processes with the same command share the
    work.

    **Examples**

        gengeo index orthophoto.tif --out city.gengeo --model ./gengeo-cvusa --tile 100m --overlap 50%

        gengeo index "https://tiles.example.org/{z}/{x}/{y}.jpeg" --area town.geojson --tile 60m --out town.gengeo \
            --model ./gengeo-cvusa --attribution "Example Survey" --licence "CC BY 4.0" --contact me@example.org
    """
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.imagery import TilingOptions
    from gengeo_hf.imagery.tiles import PlannedSource
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.build import build_index
    from gengeo_hf.index.fusion import check_fusion
    from gengeo_hf.pose.head import heads_of

    if add and overwrite:
        raise console.UsageError("--add and --overwrite exclude one another")
    if add and shard:
        raise console.UsageError("--add and --shard exclude one another: merge the parts and add the whole")
    cluster.check(add=add, shard=shard, pose_features=pose_features, retry_missing=network.retry_missing)
    if add and (centering or flip):
        raise console.UsageError("--add keeps the adaptation of the index: leave --centering and --flip out")
    tiling = TilingOptions(
        tile_m=min(tile),
        tile_sizes=tile,
        area=where.chosen(),
        net=network.net(),
        overlap=overlap,
        zoom=zoom,
        tms=tms,
        value_range=value_range,
        image_column=image_column,
        lat_column=lat_column,
        lon_column=lon_column,
        tile_size_m=tile_size_m,
        north_rows=north_rows,
        tile_order=tile_order,
        nodata=nodata,
        max_empty=max_empty,
        keep_one_colour=keep_one_colour,
        leave_out_repeated=leave_out_repeated,
        dates=tuple(date or ()),
    )
    # All that is quick to refuse comes before the slow model.
    check_fusion(fusion)
    if pose_features and not heads_of(options.model):
        raise console.UsageError(f"--pose-features: {options.model} has no pose head, see gengeo pose fit")
    imagery, present = _sources(source, tiling, out, add, dry_run)
    for note in getattr(imagery, "notes", ()):  # sources of a user's own may have none
        console.warning(note)
    if dry_run:
        console.result(imagery.plan() if isinstance(imagery, PlannedSource) else f"tiles: {len(imagery.table):,}")
        return
    if isinstance(imagery, PlannedSource):
        console.note(imagery.plan())
        if note := imagery.prepare():
            console.warning(note)
        if network.retry_missing and present is None and not overwrite:
            imagery, present = _failed_before(imagery, out)
    from gengeo_hf.index.adapt import encoder_options

    stored = encoder_options(present.manifest) if present is not None else {}
    computation = stored | ({"truncate_dim": truncate_dim} if truncate_dim else {}) | options.computation
    images = imagery.table.num_rows if hasattr(imagery, "table") else None
    loading: dict[str, Any] = {"batch_size": batch_size, "expected_images": images, **computation}
    build: dict[str, Any] = {"model_name": options.model, "thumbnail_pixels": thumbnails, "readers": readers}
    build["fusion"] = fusion
    encoder: Any = None
    if not cluster.uses_ray or centering or flip:
        encoder = Encoder.from_pretrained(options.model, **loading)
        report_backend(encoder)
        encoder = _adapted(encoder, imagery, present, centering, flip)
    if cluster.uses_ray:
        setup = WorkerSetup(source, tiling, options.model, loading, getattr(encoder, "adaptation", None), build)
        console.result(cluster.build(setup, out, imagery.name, overwrite))
        console.result(GeoIndex.load(out, verify=False).report())
        return
    build["progress"] = console.shows_progress()
    if present is not None:
        total = present.add(encoder, imagery, **build)
        console.result(f"{out} now holds {total:,} tiles")
        if pose_features:
            _store_pose_features(encoder, options.model, out, imagery)
        return
    report = build_index(encoder, imagery, out, overwrite=overwrite, shard=shard, **build)
    console.result(report)
    if report.was_complete and not pose_features:
        return
    if isinstance(imagery, PlannedSource):
        console.note(imagery.summary())
    console.result(GeoIndex.load(out, verify=False).report())
    if pose_features:
        _store_pose_features(encoder, options.model, out, imagery)
    console.note(f"next: gengeo locate photo.jpg --index {out} --model {options.model} --map places.html")


def _store_pose_features(encoder: Any, model: str, out: Path, imagery: Any) -> None:
    """Encode the tiles once more, for poses."""
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.localization.pose_features import store_features

    store_features(encoder, model, GeoIndex.load(out, verify=False), imagery, progress=console.note)


def _adapted(
    encoder: "Encoder", imagery: Any, present: "GeoIndex | None", centering: str | None, flip: bool
) -> "Encoder":
    """The encoder of the index that is added to, or one that is adapted to the imagery as the options ask."""
    from gengeo_hf.index.adapt import adapted_for, fit_to_imagery
    from gengeo_hf.localization.adapt import encode_photos

    if present is not None:
        return adapted_for(encoder, present.manifest)
    photos = encode_photos(encoder, Path(centering), flip=flip) if centering not in (None, "gallery") else None
    adapted = fit_to_imagery(encoder, imagery, centering=centering is not None, photos=photos, flip=flip)
    import numpy as np

    if photos is not None and not np.isfinite(photos[1]).all():
        console.warning("some photos of --centering do not state a position: make sure that they show different places")
    return adapted


def _failed_before(imagery: Any, out: Path) -> "tuple[Any, GeoIndex | None]":
    """What an earlier build left out of a finished index, and that index; all of the imagery where there is none."""
    from gengeo_hf.imagery.tiles import SubsetTiles
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.manifest import has_manifest

    if not has_manifest(out):
        return imagery, None
    present = GeoIndex.load(out)
    failed = SubsetTiles(imagery, present.left_out["tile_id"])
    if not failed.table.num_rows:
        return imagery, None
    console.note(f"asking again for {failed.table.num_rows:,} tiles that were left out")
    return failed, present


def _sources(source: str, tiling: Any, out: Path, add: bool, dry_run: bool) -> "tuple[Any, GeoIndex | None]":
    """The imagery, or another index, and the index that it is added to."""
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.imagery import open_imagery
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.edit import check_output
    from gengeo_hf.index.manifest import has_manifest

    another = has_manifest(source)
    if another and not add:
        raise GenGeoError(f"{source} is an index already; with --add it is added to --out")
    imagery: Any = GeoIndex.load(source) if another else open_imagery(source, tiling)
    if dry_run:
        return imagery, None
    if add:
        return imagery, GeoIndex.load(out)
    check_output(out, overwrite=True)
    console.check_writable(out / "manifest.json")
    return imagery, None
