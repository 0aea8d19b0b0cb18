"""`gengeo pull`: download a checkpoint, an index or a data set from the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import Overwrite
from gengeo_hf.cli.registry import SHARING, gengeo


@gengeo.command(panel=SHARING)
def pull(
    repository: Annotated[str, typer.Argument(help="Hub id, organisation/name.")],
    out: Annotated[Path, typer.Argument(help="Directory to write.")],
    kind: Annotated[
        str | None, typer.Option(help="Kind of the repository: model, index or dataset. Default: detected.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: main.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Download a checkpoint, an index or a data set, and check it.

    **Example**

        gengeo pull someone/city-index city.gengeo
    """
    from typing import cast

    from gengeo_hf.hub.repository import Kind
    from gengeo_hf.hub.repository import pull as fetch

    found = fetch(repository, out, kind=cast(Kind, kind), revision=revision, overwrite=overwrite)
    use = {
        "model": f"--model {out}",
        "index": f"--index {out}",
        "dataset": f'load_pairs("parquet", root="{out}", split=...)',
    }
    console.result(f"{out} holds the {found} {repository}; use it with {use[found]}")
