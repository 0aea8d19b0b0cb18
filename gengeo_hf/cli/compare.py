"""`gengeo compare`: test whether the difference of two results is significant."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.registry import EVALUATE, gengeo


@gengeo.command(panel=EVALUATE)
def compare(
    first: Annotated[Path, typer.Argument(help="JSON file of `gengeo evaluate`.")],
    second: Annotated[Path, typer.Argument(help="JSON file of another evaluation, over the same queries.")],
    metric: Annotated[
        str, typer.Option(help="Primary metric, the only one with a verdict; choose it before you see the results.")
    ] = "recall@1",
) -> None:
    """Compare two results over the same queries: differences with 95 % intervals, and a verdict.

    **Example**

        gengeo compare results/before.json results/after.json
    """
    from gengeo_hf.evaluation.compare import compare as paired
    from gengeo_hf.evaluation.compare import format_comparison

    console.result(format_comparison(paired(first, second), first.stem, second.stem, metric))
