"""`gengeo slices`: print a result by season, age and other facts about the photos."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.registry import EVALUATE, gengeo


@gengeo.command(panel=EVALUATE)
def slices(
    result: Annotated[Path, typer.Argument(help="JSON file of `gengeo evaluate`.")],
    table: Annotated[str, typer.Option(help="Table of the evaluated pairs, or its directory.")],
    by: Annotated[
        list[str],
        typer.Option(help="Fact: city, season, brightness, age (years from photo to flight), or a column; repeatable."),
    ],
    metric: Annotated[str, typer.Option(help="Metric of the result.")] = "recall@1",
) -> None:
    """Print a result by season, brightness or age of the photos, with 95 % intervals.

    **Example**

        gengeo slices results/town.json --table data/town --by season --by age
    """
    from gengeo_hf.evaluation.results import Result
    from gengeo_hf.evaluation.slices import format_slices, slice_result

    console.result(format_slices(slice_result(Result.load(result), table, by, metric), metric))
