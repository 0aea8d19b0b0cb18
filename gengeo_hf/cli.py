"""The command line: parses, calls one function of a room, prints.

Before: a terminal. After: the rooms do the work. Heavy imports stand inside the commands, so that help comes at once.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gengeo_hf.places.imagery import TilingOptions

INTERRUPTED = 130  # what typer, like a shell, gives after Ctrl-C

app = typer.Typer(
    name="gengeo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Find where a photo was taken by matching it with aerial imagery.\n\n"
    "    gengeo index orthophoto.tif --out city.gengeo --model ./gengeo-cvusa --tile 100m --overlap 50%\n\n"
    "    gengeo locate photo.jpg --index city.gengeo --model ./gengeo-cvusa --map places.html",
)

Model = Annotated[str, typer.Option("--model", help="Checkpoint folder or Hub id.")]
Device = Annotated[str | None, typer.Option(help="For example cuda, cuda:1 or cpu. Default: a GPU if there is one.")]
IndexFolder = Annotated[Path, typer.Option("--index", help="Index folder made by `gengeo index`.")]
Imagery = Annotated[
    Path,
    typer.Argument(help="GeoTIFF/COG/VRT or a folder of them, CSV/Parquet table with tiles, map tiles z/x/y, MBTiles."),
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


def main() -> None:
    """Run the command line; an error that the user can mend is one line and exit code 2."""
    from gengeo_hf.errors import GenGeoError

    try:
        code = app(standalone_mode=False)
    except GenGeoError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "show"):  # typer's own errors about wrong words and options can show themselves
            raise
        error.show()
        sys.exit(getattr(error, "exit_code", 2))
    if code == INTERRUPTED:
        print("\nstopped; finished work is kept: run the same command again to go on", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def index(
    source: Imagery,
    out: Annotated[Path, typer.Option(help="Index folder to write.")],
    model: Model,
    tile: Tile = "100m",
    overlap: Overlap = "50%",
    tile_size_m: TileSize = None,
    image_column: ImageColumn = None,
    lat_column: LatColumn = None,
    lon_column: LonColumn = None,
    zoom: Zoom = None,
    tms: Tms = False,
    thumbnails: Annotated[
        int, typer.Option(help="Side of the small pictures for maps, in pixels; 0 keeps none.")
    ] = 128,
    device: Device = None,
    batch_size: Annotated[int, typer.Option(help="Tiles in one forward pass.")] = 32,
    readers: Annotated[int, typer.Option(help="Threads that read imagery.")] = 2,
    add: Annotated[bool, typer.Option("--add", help="Add to an index instead of replacing it.")] = False,
) -> None:
    """Encode aerial imagery into an index.

    **Example:** `gengeo index orthophoto.tif --out city.gengeo --model ./gengeo-cvusa --tile 100m --overlap 50%`

    An interrupted run goes on when the command is given again; several processes with the same command share the work.
    """
    from gengeo_hf.encoder import Encoder
    from gengeo_hf.places import GeoIndex, open_imagery
    from gengeo_hf.places.build import build_index

    columns = (image_column, lat_column, lon_column)
    imagery = open_imagery(source, _tiling(tile, overlap, tile_size_m, columns, zoom, tms))  # before the slow model
    encoder = Encoder.from_pretrained(model, device=device, batch_size=batch_size)
    options: dict[str, Any] = {
        "model_name": model,
        "thumbnail_pixels": thumbnails,
        "readers": readers,
        "progress": True,
    }
    if add:
        total = GeoIndex.load(out).add(encoder, imagery, **options)
        typer.echo(f"{out} now holds {total:,} tiles")
        return
    report = build_index(encoder, imagery, out, **options)
    typer.echo(str(report))
    search = GeoIndex.load(out, verify=False).manifest["search"]
    loss = ""
    if "recall_at_1" in search:
        loss = f"; against exact search on {search['samples']} noisy samples: "
        loss += f"recall@1 {search['recall_at_1']:.3f}, recall@10 {search['recall_at_10']:.3f}"
    typer.echo(f"search: {search['kind']} ({search['reason']}){loss}")
    typer.echo(f"next: gengeo locate photo.jpg --index {out} --model {model} --map places.html")


@app.command()
def locate(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    index: Annotated[str, typer.Option("--index", help="Index folder, or the address of a store.")],
    model: Model,
    top: Annotated[int, typer.Option(min=1, help="How many places for each photo.")] = 5,
    near: Annotated[str | None, typer.Option(help="Search only here: lat,lon,radius, e.g. 60.17,24.94,2km.")] = None,
    near_exif: Annotated[
        str | None,
        typer.Option(help="Search only within this distance of a photo's own GPS position, where it has one."),
    ] = None,
    merge: Annotated[bool, typer.Option(help="Merge overlapping tiles into one place.")] = True,
    calibration: Annotated[Path | None, typer.Option(help="File of `gengeo calibrate`: gives confidences.")] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Below this confidence: don't know.")] = 0.0,
    map_file: Annotated[Path | None, typer.Option("--map", help="Write a map that works offline (HTML).")] = None,
    geojson: Annotated[Path | None, typer.Option(help="Write the places as GeoJSON.")] = None,
    device: Device = None,
) -> None:
    """Find where photos were taken.

    **Example:** `gengeo locate photo.jpg --index city.gengeo --model ./gengeo-cvusa --top 5 --map places.html`
    """
    from gengeo_hf.errors import GenGeoError
    from gengeo_hf.files import write_text
    from gengeo_hf.places import GeoLocalizer
    from gengeo_hf.places.locate import find_photos, to_geojson
    from gengeo_hf.places.maps import answers_map
    from gengeo_hf.places.units import parse_metres, parse_near

    prior = parse_near(near) if near else None
    exif_radius = parse_metres(near_exif) if near_exif else None
    files = find_photos(photos)
    localizer = GeoLocalizer.from_pretrained(model, index, calibration, device=device)
    answers = list(localizer.locate_many(files, top, prior, merge, exif_radius, threshold))
    if answers and all(answer.error for answer in answers):
        raise GenGeoError(answers[0].error if len(answers) == 1 else f"none of {len(answers)} photos could be read")
    for answer in answers:
        typer.echo("\n".join(_lines(answer)))
    if localizer.caveat:
        typer.echo(f"\ncaution: {localizer.caveat}", err=True)
    if geojson:
        write_text(geojson, to_geojson(answers, localizer.caveat))
    if map_file:
        write_text(map_file, answers_map(answers, localizer.index, localizer.caveat))
        typer.echo(f"map: {map_file}")


@app.command()
def calibrate(
    pairs: Annotated[Path, typer.Argument(help="CSV or Parquet: held-out photos with their true lat and lon.")],
    index: IndexFolder,
    model: Model,
    out: Annotated[Path, typer.Option(help="Calibration file to write (JSON).")],
    within: Annotated[str, typer.Option(help="An answer is right when it is nearer than this to the truth.")] = "50m",
    image_column: Annotated[str | None, typer.Option(help="Column of the photo's file.")] = None,
    device: Device = None,
) -> None:
    """Learn how sure answers are, from photos whose place is known.

    **Example:** `gengeo calibrate held_out.csv --index city.gengeo --model ./gengeo-cvusa --out calibration.json`
    """
    from gengeo_hf.places import GeoLocalizer
    from gengeo_hf.places.confidence import Calibration
    from gengeo_hf.places.imagery.table import TableTiles
    from gengeo_hf.places.units import parse_metres

    table = TableTiles(pairs, image_column, photos=True)
    localizer = GeoLocalizer.from_pretrained(model, index, device=device)
    answers = localizer.locate_many(table.paths, top=5)
    truth = list(zip(table.table["lat"].to_pylist(), table.table["lon"].to_pylist(), strict=True))
    found = Calibration.fit(
        [a.places for a in answers], truth, localizer.encoder.fingerprint, len(localizer.index), parse_metres(within)
    )
    found.save(out)
    typer.echo(f"{found.photos} photos, expected calibration error {found.expected_calibration_error:.3f} (two-fold)")
    typer.echo("stated   right   photos")
    for stated, right, count in found.reliability:
        typer.echo(f"{stated:6.2f}  {right:6.2f}  {count:7d}")


@app.command()
def convert(
    kind: Annotated[str, typer.Argument(help="dinov2, dino-salad, megaloc or sample4geo.")],
    source: Annotated[Path, typer.Argument(help="The published .pth, .ckpt or .safetensors file.")],
    out: Annotated[Path, typer.Argument(help="Folder to write, in Hub format.")],
) -> None:
    """Convert published weights of others; dinov2 gives a backbone to start training from.

    **Example:** `gengeo convert dino-salad dino_salad.ckpt ./dino-salad`
    """
    from gengeo_hf.convert import convert as run

    print(f"wrote {run(kind, source, out)}")


@app.command()
def export(
    index: IndexFolder,
    store: Annotated[str, typer.Option(help="milvus:./local.db, milvus:http://host:19530 or qdrant:http://host:6333.")],
) -> None:
    """Copy an index into a vector database; an interrupted export goes on where it stopped.

    **Example:** `gengeo export --index city.gengeo --store milvus:http://localhost:19530`

    Then give the same address to `gengeo locate --index`.
    """
    from gengeo_hf.places import GeoIndex
    from gengeo_hf.places.stores import connect, export_index

    report = export_index(GeoIndex.load(index), connect(store), progress=True)
    agreement = f"top ten agree to {report['top10_agreement']:.1%} with the exact answer"
    typer.echo(f"{store}: {report['count']:,} tiles for {report['tiles']:,} of the index; {agreement}")


@app.command()
def verify(index: IndexFolder) -> None:
    """Check every byte and every vector of an index.

    **Example:** `gengeo verify --index city.gengeo`
    """
    from gengeo_hf.places import GeoIndex

    typer.echo(GeoIndex.load(index, verify=False).verify())


@app.command()
def remove(
    index: IndexFolder,
    tile_id: Annotated[list[str] | None, typer.Option(help="Tile to remove; may be given several times.")] = None,
    area: Annotated[str | None, typer.Option(help="Remove all tiles of this area.")] = None,
    bounds: Annotated[str | None, typer.Option(help="Remove tiles with their centre in west,south,east,north.")] = None,
) -> None:
    """Remove tiles from an index.

    **Example:** `gengeo remove --index city.gengeo --bounds 24.90,60.16,24.95,60.18`
    """
    from gengeo_hf.errors import GenGeoError
    from gengeo_hf.places import GeoIndex
    from gengeo_hf.places.units import parse_bounds

    if not (tile_id or area is not None or bounds):
        raise GenGeoError("say what to remove: --tile-id, --area or --bounds")
    opened = GeoIndex.load(index)
    removed = opened.remove(tile_id or (), area, parse_bounds(bounds) if bounds else None)
    typer.echo(f"removed {removed:,} tiles, {len(opened):,} left")


@app.command()
def table(
    number: Annotated[int, typer.Argument(help="Number of the table in the paper, 2 to 9.")],
    results: Annotated[list[Path] | None, typer.Argument(help="JSON files of training/evaluate.py.")] = None,
    style: Annotated[str, typer.Option("--format", help="md, latex or csv.")] = "md",
) -> None:
    """Print a table of the paper with our results below; what is not comparable is marked or left out.

    **Example:** `gengeo table 2 results/cvusa.json --format latex`
    """
    from typing import cast

    from gengeo_hf.evaluation.tables import Format, build_table, render

    typer.echo(render(build_table(number, results or ()), cast(Format, style)), nl=False)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="JSON file of training/evaluate.py.")],
    second: Annotated[Path, typer.Argument(help="Another one, over the same queries.")],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Tell a gain from noise: differences over the same queries, with 95 % intervals.

    Example: gengeo compare results/before.json results/after.json
    """
    from gengeo_hf.evaluation.compare import compare as paired
    from gengeo_hf.evaluation.compare import comparison_text

    typer.echo(comparison_text(paired(first, second, seed=seed), first.stem, second.stem))


def _tiling(
    tile: str,
    overlap: str,
    tile_size_m: str | None,
    columns: tuple[str | None, str | None, str | None],
    zoom: int | None,
    tms: bool,
) -> "TilingOptions":
    """Options of the command line as the imagery room wants them."""
    from gengeo_hf.places.imagery import TilingOptions
    from gengeo_hf.places.units import parse_metres, parse_share

    size = parse_metres(tile_size_m) if tile_size_m else None
    return TilingOptions(
        tile_m=parse_metres(tile), overlap=parse_share(overlap), zoom=zoom, tms=tms,
        image_column=columns[0], lat_column=columns[1], lon_column=columns[2], tile_size_m=size,
    )  # fmt: skip


def _lines(answer: "object") -> list[str]:
    """One answer as text for a terminal."""
    from gengeo_hf.places import Answer

    assert isinstance(answer, Answer)
    lines = [f"{answer.photo}" + ("" if answer.known else ": don't know; best guesses")]
    if answer.error:
        return [*lines, f"  {answer.error}"]
    if not answer.places:
        lines.append("  no tile there: widen the radius")
    for place in answer.places:
        radius = f" ± {place.uncertainty_m:.0f} m" if place.uncertainty_m is not None else ""
        sure = f", sure to {place.confidence:.0%}" if place.confidence is not None else ""
        votes = f", {place.votes} tiles" if place.votes > 1 else ""
        where = f"  {place.rank}. {place.lat:.6f}, {place.lon:.6f}{radius}"
        lines.append(f"{where}  score {place.score:.3f}{sure}{votes}  {place.tile_id}")
    if answer.truth is not None:
        error = f", {answer.truth_error_m:,.0f} m from the best place" if answer.truth_error_m is not None else ""
        lines.append(f"  EXIF position: {answer.truth.lat:.6f}, {answer.truth.lon:.6f}{error}")
    return lines


if __name__ == "__main__":
    main()
