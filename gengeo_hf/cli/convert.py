"""`gengeo convert`: convert published weights of other projects."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import Overwrite
from gengeo_hf.cli.registry import SHARING, gengeo


@gengeo.command(panel=SHARING)
def convert(
    kind: Annotated[
        str, typer.Argument(help="Kind of the weights: dinov2, dino-salad, megaloc, sample4geo or pbev-bev.")
    ],
    source: Annotated[Path, typer.Argument(help="Published .pth, .ckpt or .safetensors file.")],
    out: Annotated[Path, typer.Argument(help="Directory to write, in Hub format.")],
    overwrite: Overwrite = False,
) -> None:
    """Convert published weights of other projects; dinov2 gives a backbone to start training from.

    **Example**

        gengeo convert dino-salad dino_salad.ckpt ./dino-salad
    """
    from gengeo_hf.hub.convert import convert as run

    console.result(f"wrote {run(kind, source, out, overwrite=overwrite)}")
