"""`gengeo merge`: join the parts of a divided build, or several indexes of one model."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import Json, Overwrite
from gengeo_hf.cli.registry import INDEX, gengeo


@gengeo.command(panel=INDEX)
def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="Index directories of one model.")],
    out: Annotated[Path, typer.Option(metavar="INDEX", help="Index directory to write.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Join the parts of a divided build, or several indexes of one model. Nothing is encoded again.

    **Example**

        gengeo merge part-*.gengeo --out city.gengeo
    """
    from gengeo_hf.index.merge import merge_indexes
    from gengeo_hf.index.summary import as_json as as_record

    manifest = merge_indexes(parts, out, overwrite=overwrite)
    if as_json:
        console.json_line(as_record(manifest))
    else:
        console.result(
            f"{out} holds {manifest.tiles:,} tiles of {len(parts)} parts in {len(manifest.segments)} segments"
        )
