"""`gengeo data make`: make pairs of a city from Mapillary photos and an orthophoto."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.data import data
from gengeo_hf.cli.network_options import NetworkOptions
from gengeo_hf.cli.options import LENGTH, SHARE, AreaOptions, Json, Overwrite

if TYPE_CHECKING:
    from gengeo_hf.acquire.city import CityOptions

PHOTOS, PARTS, IMAGERY = "Photos", "Splits", "Tiles"
API_ADDRESS = "https://graph.mapillary.com"


@data.command()
def make(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory to write.")],
    imagery: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Aerial imagery, as for `gengeo index`: a template https://.../{z}/{x}/{y}.jpg, WMS, "
            "WMTS, ArcGIS, COG, a GeoTIFF or a directory of them.",
        ),
    ],
    where: AreaOptions,
    network: NetworkOptions,
    kind: Annotated[
        str, typer.Option(help="Kind of photos: panorama or perspective.", rich_help_panel=PHOTOS)
    ] = "panorama",
    max_photos: Annotated[int, typer.Option(min=1, help="Greatest number of photos.", rich_help_panel=PHOTOS)] = 20_000,
    max_years: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Greatest number of years between photo and flight; needs --acquired. Default: no limit.",
            rich_help_panel=PHOTOS,
        ),
    ] = None,
    photo_width: Annotated[
        int | None,
        typer.Option(
            help="Width of photos in pixels: 256, 1024 or 2048. Default: 2048 for panoramas, else 1024.",
            rich_help_panel=PHOTOS,
        ),
    ] = None,
    max_shift: Annotated[
        Any,
        typer.Option(help="Greatest distance between computed and stated position.", rich_help_panel=PHOTOS, **LENGTH),
    ] = "15m",
    max_tilt: Annotated[
        float, typer.Option(min=0, help="Greatest pitch or roll in degrees.", rich_help_panel=PHOTOS)
    ] = 10.0,
    min_quality: Annotated[
        float, typer.Option(min=0, max=1, help="Minimum quality score, 0 to 1.", rich_help_panel=PHOTOS)
    ] = 0.0,
    min_brightness: Annotated[
        float, typer.Option(min=0, max=255, help="Minimum mean grey level, 0 to 255.", rich_help_panel=PHOTOS)
    ] = 25.0,
    api: Annotated[
        str, typer.Option(help="Address of the photo service, which receives your token.", rich_help_panel=PHOTOS)
    ] = API_ADDRESS,
    tile: Annotated[Any, typer.Option(help="Side of a tile on the ground.", rich_help_panel=IMAGERY, **LENGTH)] = "60m",
    overlap: Annotated[
        Any, typer.Option(help="Share of a tile that its neighbour overlaps.", rich_help_panel=IMAGERY, **SHARE)
    ] = "50%",
    pixels: Annotated[
        int,
        typer.Option(min=64, max=2048, help="Greatest width and height of a tile in pixels.", rich_help_panel=IMAGERY),
    ] = 392,
    zoom: Annotated[
        int | None, typer.Option(help="Zoom level. Default: the coarsest that is fine enough.", rich_help_panel=IMAGERY)
    ] = None,
    tms: Annotated[
        bool, typer.Option("--tms", help="Rows are counted from the south.", rich_help_panel=IMAGERY)
    ] = False,
    split: Annotated[
        str,
        typer.Option(
            help="area: split by blocks of land; test: put all photos into the test split.", rich_help_panel=PARTS
        ),
    ] = "area",
    test_share: Annotated[
        Any, typer.Option(help="Share of the photos in the test split.", rich_help_panel=PARTS, **SHARE)
    ] = "20%",
    validation_share: Annotated[
        Any, typer.Option(help="Share of the photos in the validation split.", rich_help_panel=PARTS, **SHARE)
    ] = "10%",
    block: Annotated[
        Any,
        typer.Option(
            help="Side of the blocks of land. Default: the largest with enough blocks.", rich_help_panel=PARTS, **LENGTH
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random choice of blocks.", rich_help_panel=PARTS)] = 0,
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="Continue although some requests have failed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for consent before the download.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan; request no photo and no tile, write nothing.")
    ] = False,
    as_json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Make pairs of photos and tiles of an area, from Mapillary photos and any orthophoto that you may use.

    The access token is read from MAPILLARY_ACCESS_TOKEN. A stopped run continues when the command is run again. Load
    the result as `table DIR`.

    **Example**

        gengeo data make --bounds 2.2990,48.8087,2.3330,48.8253 --out data/montrouge --acquired 2021 \
            --imagery "https://tiles.example.org/{z}/{x}/{y}.jpeg" --attribution "Example Survey" \
            --licence "CC BY 4.0" --contact me@example.org
    """
    from gengeo_hf.acquire.city import make_city, plan_city
    from gengeo_hf.acquire.mapillary import Mapillary, read_token
    from gengeo_hf.imagery import TilingOptions, open_imagery
    from gengeo_hf.imagery.tiles import Rights

    area = where.chosen()
    if area is None:
        raise console.UsageError("choose an area: --area FILE.geojson, --bounds W,S,E,N or --near lat,lon,radius")
    options = _options(
        kind,
        photo_width,
        split,
        allow_gaps,
        test_share,
        validation_share,
        block,
        seed,
        **{
            "max_photos": max_photos,
            "max_years": max_years,
            "max_shift_m": max_shift,
            "max_tilt": max_tilt,
            "min_quality": min_quality,
            "min_brightness": min_brightness,
        },
    )
    token = None if dry_run else read_token()
    net = network.net()
    source = open_imagery(
        imagery, TilingOptions(tile_m=tile, overlap=overlap, pixels=pixels, zoom=zoom, tms=tms, area=area, net=net)
    )
    rights = net.rights.or_else(getattr(source, "rights", Rights()))  # files and sources of plugins may have no rights
    plan = plan_city(area, source, options, api)
    if dry_run:
        console.json_line(plan.to_dict()) if as_json else console.result(plan)
        return
    console.note(plan)
    console.confirm(f"fetch photos (Mapillary contributors, CC BY-SA 4.0) and {plan.tiles:,} tiles into {out}", yes)
    assert token is not None
    with Mapillary(token, _client_options(net.client), api) as client:
        city = make_city(
            client, area, source, rights, out, options, overwrite=overwrite, progress=console.progress, say=console.note
        )
    if as_json:
        console.json_line({"table": str(out), "photos": city.counts, "left_out": dict(city.chosen.dropped)})
    else:
        console.result(city)
    console.note(f"next: gengeo data check table {out}; gengeo data show table:test {out}")


def _options(
    kind: str,
    photo_width: int | None,
    split: str,
    allow_gaps: bool,
    test_share: float,
    validation_share: float,
    block_m: float | None,
    seed: int,
    **rules: Any,
) -> "CityOptions":
    """Convert the options of the command.

    Raises:
        UsageError: A value is unknown or outside its range.
    """
    from gengeo_hf.acquire.city import CityOptions
    from gengeo_hf.acquire.mapillary import KINDS, PIXELS
    from gengeo_hf.acquire.photo_rules import PhotoRules
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.data.own import SplitOptions

    if kind not in KINDS:
        raise console.UsageError(f"--kind is {kind!r}, expected {' or '.join(KINDS)}")
    if split not in ("area", "test"):
        raise console.UsageError(f"--split is {split!r}, expected area or test")
    width = photo_width or (2048 if kind == "panorama" else 1024)
    if width not in PIXELS:
        raise console.UsageError(f"--photo-width is {width}, expected {', '.join(map(str, PIXELS))}")
    try:
        cut = SplitOptions(validation_share=validation_share, test_share=test_share, block_m=block_m, seed=seed)
    except GenGeoError as error:
        raise console.UsageError(str(error)) from None
    return CityOptions(PhotoRules(kind=kind, **rules), None if split == "test" else cut, width, allow_gaps)


def _client_options(imagery: Any) -> Any:
    """Limits for the photo service: eight simultaneous requests, which the service allows; else as for imagery."""
    from dataclasses import replace

    return replace(imagery, connections=8, rate=20.0 if imagery.rate else 0.0)
