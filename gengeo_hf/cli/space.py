"""`gengeo space`: write a Gradio Space that shows a published model."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import Overwrite
from gengeo_hf.cli.registry import SHARING, gengeo


@gengeo.command(panel=SHARING)
def space(
    out: Annotated[Path, typer.Argument(help="Directory to write.")],
    model: Annotated[str, typer.Option("--model", help="Hub id of a published model.")],
    index: Annotated[
        str | None, typer.Option("--index", help="Hub id of a published index. Default: visitors upload tiles.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a Gradio Space that shows a published model: upload the directory to a Space, or run app.py.

    **Example**

        gengeo space ./space --model someone/gengeo-cvusa --index someone/city-index
    """
    from gengeo_hf.hub.export import write_space

    write_space(out, model, index, overwrite=overwrite)
    console.result(f"wrote {out}")
    console.note(f"try it: pip install gradio -r {out}/requirements.txt && python {out}/app.py")
