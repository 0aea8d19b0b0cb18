"""`gengeo fuse`: join models, such as a model of panoramas and one of bird's-eye views."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import Overwrite
from gengeo_hf.cli.registry import SHARING, gengeo


@gengeo.command(panel=SHARING)
def fuse(
    models: Annotated[list[str], typer.Argument(help="Two or more checkpoint directories or Hub ids.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Join checkpoints to one model whose similarity is the mean of theirs (P-BEV).

    The descriptor is the concatenation of the descriptors, so it works with every index and store.

    **Example**

        gengeo fuse runs/sample4geo_cvact/model runs/pbev_cvact/model --out ./pbev-cvact
    """
    from gengeo_hf.encoding.fusion import fuse as run

    console.result(f"wrote {run(models, out, overwrite=overwrite)}")
