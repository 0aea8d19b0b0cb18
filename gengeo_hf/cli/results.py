"""Commands that take result files of training/evaluate.py: table, compare."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli.base import app


@app.command()
def table(
    number: Annotated[int, typer.Argument(help="Number of the table in the paper, 2 to 9.")],
    results: Annotated[list[Path] | None, typer.Argument(help="JSON files of training/evaluate.py.")] = None,
    style: Annotated[str, typer.Option("--format", help="md, latex or csv.")] = "md",
) -> None:
    """Print a table of the paper with our results below; what is not comparable is marked or left out.

    **Example:** `gengeo table 2 results/cvusa.json --format latex`
    """
    from typing import cast

    from gengeo_hf.evaluation.tables import Format, build_table, render

    typer.echo(render(build_table(number, results or ()), cast(Format, style)), nl=False)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="JSON file of training/evaluate.py.")],
    second: Annotated[Path, typer.Argument(help="Another one, over the same queries.")],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Tell a gain from noise: differences over the same queries, with 95 % intervals.

    Example: gengeo compare results/before.json results/after.json
    """
    from gengeo_hf.evaluation.compare import compare as paired
    from gengeo_hf.evaluation.compare import comparison_text

    typer.echo(comparison_text(paired(first, second, seed=seed), first.stem, second.stem))
