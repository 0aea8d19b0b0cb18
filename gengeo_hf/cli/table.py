"""`gengeo table`: print a table of the paper with own results, or of any results."""

from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.registry import EVALUATE, gengeo


@gengeo.command(panel=EVALUATE)
def table(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[NUMBER] [RESULT]...",
            help="Number of a table in the paper, 2 to 9, and JSON files of `gengeo evaluate`. Without a number: a "
            "table of the results alone.",
        ),
    ],
    style: Annotated[str, typer.Option("--format", help="md, latex or csv.")] = "md",
) -> None:
    """Print a table of the paper with own results below, or any results side by side.

    Below the paper's rows, what is not comparable is marked or left out.

    **Examples**

        gengeo table 2 results/cvusa.json --format latex

        gengeo table results/first.json results/second.json
    """
    from typing import cast

    from gengeo_hf.evaluation.tables import Format, build_results_table, build_table, render

    number, results = (int(words[0]), words[1:]) if words[0].isdigit() else (None, words)
    found = build_results_table(results) if number is None else build_table(number, results)
    console.result(render(found, cast(Format, style)).rstrip("\n"))
