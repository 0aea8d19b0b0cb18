"""`gengeo remove`: remove tiles from an index."""

from typing import Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import IndexPath, Json, checked, read_bounds
from gengeo_hf.cli.registry import INDEX, gengeo


@gengeo.command(panel=INDEX)
def remove(
    index: IndexPath,
    tile_id: Annotated[list[str] | None, typer.Option(help="Tile to remove; may be given several times.")] = None,
    area_name: Annotated[
        str | None, typer.Option(help="Remove all tiles of the area with this name, as `gengeo info` prints it.")
    ] = None,
    bounds: Annotated[
        Any,
        typer.Option(help="Remove tiles with their centre in this box.", **checked(read_bounds, "W,S,E,N")),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Remove all tiles of this file, as `gengeo info` names it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove tiles from an index.

    **Example**

        gengeo remove city.gengeo --bounds 24.90,60.16,24.95,60.18
    """
    from gengeo_hf.index import GeoIndex

    if not (tile_id or area_name is not None or bounds or source is not None):
        raise console.UsageError("say what to remove: --tile-id, --area-name, --bounds or --source")
    opened = GeoIndex.load(index, verify=False)
    unreadable = opened.left_out.num_rows
    removed = opened.remove(tile_id or (), area_name, bounds, source)
    if as_json:
        console.json_line({"removed": removed, "tiles": len(opened)})
    elif not removed and opened.left_out.num_rows == unreadable:
        console.result(f"no tile matches: nothing was removed; gengeo info {index} lists what it holds")
    else:
        console.result(f"removed {removed:,} tiles, {len(opened):,} left")
