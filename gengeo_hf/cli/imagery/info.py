"""`gengeo imagery info`: what a source of imagery holds."""

from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.imagery import imagery
from gengeo_hf.cli.network_options import NetworkOptions
from gengeo_hf.cli.options import AreaOptions, Json


@imagery.command()
def info(
    source: Annotated[
        str, typer.Argument(help="Imagery as `gengeo index` takes it: an address, a template, a service, a file.")
    ],
    where: AreaOptions,
    network: NetworkOptions,
    tms: Annotated[bool, typer.Option("--tms", help="Rows of a template are counted from the south.")] = False,
    as_json: Json = False,
) -> None:
    """Print layers, zoom levels, metres per pixel, extent and licence of a source. No tile is requested.

    **Examples**

        gengeo imagery info "https://tiles.example.org/{z}/{x}/{y}.jpeg" --bounds 24.93,60.16,24.96,60.18

        gengeo imagery info "https://maps.example.org/wmts?service=WMTS" --layer ortho
    """
    from dataclasses import replace

    from gengeo_hf.imagery import TilingOptions
    from gengeo_hf.imagery.source_info import source_info

    net = replace(network.net(), needs_rights=False)  # nothing is fetched for keeps
    found = source_info(source, TilingOptions(area=where.chosen(), tms=tms, net=net))
    if as_json:
        console.json_line(found.to_dict())
    else:
        console.result(found)
