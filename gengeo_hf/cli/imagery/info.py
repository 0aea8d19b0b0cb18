"""`gengeo imagery info`: print the contents of a source of imagery."""

from typing import Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.imagery import imagery
from gengeo_hf.cli.network_options import NetworkOptions
from gengeo_hf.cli.options import LENGTH, AreaOptions, Json


@imagery.command()
def info(
    source: Annotated[
        str, typer.Argument(help="Imagery, as for `gengeo index`: an address, a template, a service, a file.")
    ],
    where: AreaOptions,
    network: NetworkOptions,
    tms: Annotated[bool, typer.Option("--tms", help="Rows of a template are counted from the south.")] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Other imagery of the area, by address or a file, to measure a shift; some tiles are requested."
        ),
    ] = None,
    tile: Annotated[Any, typer.Option(help="Side of the tiles that --reference compares.", **LENGTH)] = "100m",
    as_json: Json = False,
) -> None:
    """Print layers, zoom levels, metres per pixel, extent and licence of a source.

    No tile is requested, except with --reference, which measures the shift between the source and other imagery and
    prints the --shift that corrects it.

    **Examples**

        gengeo imagery info "https://tiles.example.org/{z}/{x}/{y}.jpeg" --bounds 24.93,60.16,24.96,60.18

        gengeo imagery info "https://maps.example.org/wmts?service=WMTS" --layer ortho

        gengeo imagery info "https://tiles.example.org/{z}/{x}/{y}.jpeg" --near 60.16,24.93,500m --reference ortho.tif
    """
    from dataclasses import asdict, replace

    from gengeo_hf.imagery import TilingOptions, open_imagery
    from gengeo_hf.imagery.registration import measure_shift
    from gengeo_hf.imagery.source_info import source_info

    net = replace(network.net(), needs_rights=False)  # no imagery is stored
    options = TilingOptions(area=where.chosen(), tms=tms, net=net, tile_m=tile, overlap=0.0)
    found, shift = source_info(source, options), None
    if reference is not None:
        if options.area is None:
            raise console.UsageError("--reference needs an area that both cover: --area, --bounds or --near")
        shift = measure_shift(open_imagery(source, options), open_imagery(reference, options))
    if as_json:
        console.json_line(found.to_dict() | ({"shift": asdict(shift)} if shift is not None else {}))
    else:
        console.result(found if shift is None else f"{found}\n{shift}")
