"""`gengeo table`: print a table of the paper with own results."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.registry import EVALUATE, gengeo


@gengeo.command(panel=EVALUATE)
def table(
    number: Annotated[int, typer.Argument(help="Number of the table in the paper, 2 to 9.")],
    results: Annotated[list[Path] | None, typer.Argument(help="JSON files of `gengeo evaluate`.")] = None,
    style: Annotated[str, typer.Option("--format", help="md, latex or csv.")] = "md",
) -> None:
    """Print a table of the paper with our results below; what is not comparable is marked or left out.

    **Example**

        gengeo table 2 results/cvusa.json --format latex
    """
    from typing import cast

    from gengeo_hf.evaluation.tables import Format, build_table, render

    console.result(render(build_table(number, results or ()), cast(Format, style)).rstrip("\n"))
