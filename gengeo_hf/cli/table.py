"""`gengeo table`: print a table of the paper with your results, or a table of any results."""

from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.registry import EVALUATE, gengeo


@gengeo.command(panel=EVALUATE)
def table(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[NUMBER] [RESULT]...",
            help="Number of a table in the paper, 2 to 9, and JSON files of `gengeo evaluate`. Without a number, the "
            "table has only the results.",
        ),
    ],
    style: Annotated[str, typer.Option("--format", help="Format of the table: md, latex or csv.")] = "md",
) -> None:
    """Print a table of the paper with your results below, or any results side by side.

    Results that are not comparable with the rows of the paper are marked or left out.

    **Examples**

        gengeo table 2 results/cvusa.json --format latex

        gengeo table results/first.json results/second.json
    """
    from typing import cast

    from gengeo_hf.evaluation.tables import Format, build_results_table, build_table, render

    has_number = arguments[0].isdigit()
    number, results = (int(arguments[0]), arguments[1:]) if has_number else (None, arguments)
    found = build_results_table(results) if number is None else build_table(number, results)
    console.result(render(found, cast(Format, style)).rstrip("\n"))
