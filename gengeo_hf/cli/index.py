"""`gengeo index`: encode aerial imagery into an index."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.cluster_options import ClusterOptions, WorkerSetup
from gengeo_hf.cli.index_options import ContentOptions, TileOptions, WorkOptions
from gengeo_hf.cli.network_options import NetworkOptions
from gengeo_hf.cli.options import AreaOptions, EncoderOptions, Overwrite, report_backend
from gengeo_hf.cli.registry import INDEX, gengeo

if TYPE_CHECKING:
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index import GeoIndex


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
    where: AreaOptions,
    tiles: TileOptions,
    contents: ContentOptions,
    options: EncoderOptions,
    work: WorkOptions,
    cluster: ClusterOptions,
    network: NetworkOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan for imagery by address; request no tile, write nothing.")
    ] = False,
    add: Annotated[bool, typer.Option("--add", help="Add the tiles to the existing index --out.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Build an index from aerial imagery.

    An interrupted run continues when the command is run again; several processes with the same command share the work.

    **Examples**

        gengeo index orthophoto.tif --out city.gengeo --model ./gengeo-cvusa --tile 100m --overlap 50%

        gengeo index "https://tiles.example.org/{z}/{x}/{y}.jpeg" --area town.geojson --tile 60m --out town.gengeo \
            --model ./gengeo-cvusa --attribution "Example Survey" --licence "CC BY 4.0" --contact me@example.org
    """
    from gengeo_hf.imagery.tiles import PlannedSource
    from gengeo_hf.index.fusion import check_fusion
    from gengeo_hf.pose.head import heads_of

    _check_combination(add, overwrite, contents, work)
    cluster.check(add=add, shard=work.shard, pose_features=contents.pose_features, retry_missing=network.retry_missing)
    tiling = tiles.tiling(where, network)
    check_fusion(contents.fusion)
    if contents.pose_features and not heads_of(options.model):
        raise console.UsageError(f"--pose-features: {options.model} has no pose head, see gengeo pose fit")
    imagery, present = _sources(source, tiling, out, add, dry_run)
    for note in getattr(imagery, "notes", ()):  # sources of plugins may have no notes
        console.warning(note)
    if dry_run:
        console.result(imagery.plan() if isinstance(imagery, PlannedSource) else f"tiles: {len(imagery.table):,}")
        return
    if isinstance(imagery, PlannedSource):
        console.note(imagery.plan())
        if note := imagery.prepare():
            console.warning(note)
        if network.retry_missing and present is None and not overwrite:
            imagery, present = _left_out_tiles(imagery, out)
    loading, build = _settings(options, contents, work, imagery, present)
    encoder = None
    if not cluster.uses_ray or contents.centering or contents.flip:
        encoder = _load_encoder(options.model, loading, contents, imagery, present)
    if cluster.uses_ray:
        adaptation = getattr(encoder, "adaptation", None)
        setup = WorkerSetup(source, tiling, options.model, loading, adaptation, build)
        console.result(cluster.build(setup, out, imagery.name, overwrite))
        console.result(_report(out))
        return
    _encode(encoder, imagery, present, out, options.model, overwrite, contents, work, build)


def _check_combination(add: bool, overwrite: bool, contents: ContentOptions, work: WorkOptions) -> None:
    """Check the combination of options.

    Raises:
        UsageError: Options exclude one another.
    """
    if add and overwrite:
        raise console.UsageError("--add and --overwrite exclude one another")
    if add and work.shard:
        raise console.UsageError("--add and --shard exclude one another: merge the parts, and add the result")
    if add and (contents.centering or contents.flip):
        raise console.UsageError("--add uses the adaptation of the index: remove --centering and --flip")


def _settings(
    options: EncoderOptions, contents: ContentOptions, work: WorkOptions, imagery: Any, present: "GeoIndex | None"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `Encoder.from_pretrained` and of `build_index`."""
    from gengeo_hf.index.adapt import encoder_options

    stored = encoder_options(present.manifest) if present is not None else {}
    truncation = {"truncate_dim": contents.truncate_dim} if contents.truncate_dim else {}
    images = imagery.table.num_rows if hasattr(imagery, "table") else None  # an index has no table of tiles
    loading = {"batch_size": work.batch_size, "expected_images": images} | stored | truncation | options.computation
    build = {
        "model_name": options.model,
        "thumbnail_pixels": contents.thumbnails,
        "readers": work.readers,
        "fusion": contents.fusion,
    }
    return loading, build


def _load_encoder(
    model: str, loading: dict[str, Any], contents: ContentOptions, imagery: Any, present: "GeoIndex | None"
) -> "Encoder":
    """Load the encoder, adapted to the imagery, or as it was adapted for the existing index."""
    from gengeo_hf.encoding.encoder import Encoder

    encoder = Encoder.from_pretrained(model, **loading)
    report_backend(encoder)
    return _adapt(encoder, imagery, present, contents.centering, contents.flip)


def _encode(
    encoder: Any,
    imagery: Any,
    present: "GeoIndex | None",
    out: Path,
    model: str,
    overwrite: bool,
    contents: ContentOptions,
    work: WorkOptions,
    build: dict[str, Any],
) -> None:
    """Encode the tiles in this process into a new or the existing index, and print its contents."""
    from gengeo_hf.imagery.tiles import PlannedSource
    from gengeo_hf.index.build import build_index

    build = build | {"progress": console.shows_progress()}
    if present is not None:
        total = present.add(encoder, imagery, **build)
        console.result(f"{out} now holds {total:,} tiles")
    else:
        report = build_index(encoder, imagery, out, overwrite=overwrite, shard=work.shard, **build)
        console.result(report)
        if report.was_complete and not contents.pose_features:
            return
        if isinstance(imagery, PlannedSource):
            console.note(imagery.summary())
        console.result(_report(out))
    if contents.pose_features:
        _store_pose_features(encoder, model, out, imagery)
    if present is None:
        console.note(f"next: gengeo locate photo.jpg --index {out} --model {model} --map places.html")


def _report(out: Path) -> Any:
    """Format the contents of an index."""
    from gengeo_hf.index import GeoIndex

    return GeoIndex.load(out, verify=False).report()


def _store_pose_features(encoder: Any, model: str, out: Path, imagery: Any) -> None:
    """Encode the tiles again, and store the features for poses."""
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.localization.pose_features import store_features

    store_features(encoder, model, GeoIndex.load(out, verify=False), imagery, progress=console.note)


def _adapt(
    encoder: "Encoder", imagery: Any, present: "GeoIndex | None", centering: str | None, flip: bool
) -> "Encoder":
    """Adapt the encoder as for the existing index, or to the imagery by the options."""
    from gengeo_hf.index.adapt import adapted_for, fit_to_imagery
    from gengeo_hf.localization.adapt import encode_photos

    if present is not None:
        return adapted_for(encoder, present.manifest)
    photos = encode_photos(encoder, Path(centering), flip=flip) if centering not in (None, "gallery") else None
    adapted = fit_to_imagery(encoder, imagery, centering=centering is not None, photos=photos, flip=flip)
    import numpy as np

    if photos is not None and not np.isfinite(photos[1]).all():
        console.warning("some photos of --centering have no position: make sure that they show different places")
    return adapted


def _left_out_tiles(imagery: Any, out: Path) -> "tuple[Any, GeoIndex | None]":
    """Tiles that an earlier build left out of a finished index, and that index; all tiles if there is no such index."""
    from gengeo_hf.imagery.tiles import SubsetTiles
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.manifest import has_manifest

    if not has_manifest(out):
        return imagery, None
    present = GeoIndex.load(out)
    failed = SubsetTiles(imagery, present.left_out["tile_id"])
    if not failed.table.num_rows:
        return imagery, None
    console.note(f"requesting {failed.table.num_rows:,} tiles again that were left out")
    return failed, present


def _sources(source: str, tiling: Any, out: Path, add: bool, dry_run: bool) -> "tuple[Any, GeoIndex | None]":
    """Open the imagery or the index to add, and the existing index that it is added to."""
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.imagery import open_imagery
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.edit import check_output
    from gengeo_hf.index.manifest import has_manifest

    is_index = has_manifest(source)
    if is_index and not add:
        raise GenGeoError(f"{source} is an index already; with --add it is added to --out")
    imagery: Any = GeoIndex.load(source) if is_index else open_imagery(source, tiling)
    if dry_run:
        return imagery, None
    if add:
        return imagery, GeoIndex.load(out)
    check_output(out, overwrite=True)
    console.check_writable(out / "manifest.json")
    return imagery, None
