"""`gengeo best`: choose a checkpoint by its result on the validation split."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.registry import EVALUATE, gengeo


@gengeo.command(panel=EVALUATE)
def best(
    results: Annotated[
        list[Path],
        typer.Argument(help="JSON files of `gengeo evaluate` with one protocol, such as `cvusa@validation`."),
    ],
    metric: Annotated[
        str, typer.Option(help="Metric of the choice, such as recall@5 or within_25m; greater is better.")
    ] = "recall@1",
) -> None:
    """Choose a checkpoint by its result on the validation split; results on a test split are refused.

    **Example**

        gengeo best results/epoch-20.json results/epoch-24.json
    """
    from gengeo_hf.evaluation.compare import choose_checkpoint

    console.result(choose_checkpoint(results, metric))
