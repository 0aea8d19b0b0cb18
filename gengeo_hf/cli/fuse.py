"""`gengeo fuse`: join models, such as one of panoramas and one of bird's-eye views."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import Overwrite
from gengeo_hf.cli.registry import SHARING, gengeo


@gengeo.command(panel=SHARING)
def fuse(
    models: Annotated[list[str], typer.Argument(help="Directories or Hub ids of two or more checkpoints.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Join checkpoints to one model whose similarity is the mean of theirs (P-BEV).

    The descriptor is that of each model, one behind the other, so every index and store works with it.

    **Example**

        gengeo fuse runs/sample4geo_cvact/model runs/pbev_cvact/model --out ./pbev-cvact
    """
    from gengeo_hf.encoding.fusion import fuse as run

    console.result(f"wrote {run(models, out, overwrite=overwrite)}")
