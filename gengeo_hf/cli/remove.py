"""`gengeo remove`: remove tiles from an index, or from a vector database."""

from typing import Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import Json, checked, read_bounds
from gengeo_hf.cli.registry import INDEX, gengeo


@gengeo.command(panel=INDEX)
def remove(
    index: Annotated[
        str, typer.Argument(metavar="INDEX", help="Index directory made by `gengeo index`, or the address of a store.")
    ],
    tile_id: Annotated[list[str] | None, typer.Option(help="Remove the tile with this id; repeatable.")] = None,
    area_name: Annotated[
        str | None, typer.Option(help="Remove all tiles of the area with this name, as `gengeo info` prints it.")
    ] = None,
    bounds: Annotated[
        Any,
        typer.Option(
            help="Remove all tiles whose centre is in this box, in degrees.", **checked(read_bounds, "W,S,E,N")
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Remove all tiles of this source, as `gengeo info` prints it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove tiles from an index, or from a store.

    A store with a copy of the index is updated by the next `gengeo to-store`.

    **Examples**

        gengeo remove city.gengeo --bounds 24.90,60.16,24.95,60.18

        gengeo remove milvus:http://localhost:19530#city --tile-id 60.17_24.94_100m
    """
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.stores import connect, is_address

    if not (tile_id or area_name is not None or bounds or source is not None):
        raise console.UsageError("give the tiles to remove: --tile-id, --area-name, --bounds or --source")
    if is_address(index):
        store = connect(index).use()
        removed = store.remove(tile_id or (), area_name, bounds, source)
        _print(removed, len(store), as_json, f"no tile of {store.address} matches: nothing was removed")
        return
    opened = GeoIndex.load(index, verify=False)
    left_out = opened.left_out.num_rows
    removed = opened.remove(tile_id or (), area_name, bounds, source)
    nothing = f"no tile matches: nothing was removed; gengeo info {index} prints what the index holds"
    _print(removed, len(opened), as_json, nothing if opened.left_out.num_rows == left_out else "")


def _print(removed: int, left: int, as_json: bool, nothing: str) -> None:
    """Print the number of removed tiles, or the text `nothing` if there are none."""
    if as_json:
        console.json_line({"removed": removed, "tiles": left})
    elif not removed and nothing:
        console.result(nothing)
    else:
        console.result(f"removed {removed:,} tiles, {left:,} left")
