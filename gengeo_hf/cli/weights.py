"""Commands that take weights: convert."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli.base import app


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
