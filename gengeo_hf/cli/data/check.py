"""`gengeo data check`: compare a directory with what a data set should hold."""

from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.data import Dataset, data, parse_dataset
from gengeo_hf.cli.exit_codes import FAILURE


@data.command()
def check(
    dataset: Dataset,
    fix: Annotated[bool, typer.Option("--fix", help="Make the links that are offered; nothing is moved.")] = False,
) -> None:
    """Say what a directory holds, what it should hold, and what to do. Exit code 1 if something is missing.

    **Examples**

        gengeo data check cvusa /data/CVUSA

        gengeo data check table pairs.csv columns.heading=gyro missing=drop
    """
    from gengeo_hf.data.check import check_data

    asked = parse_dataset(dataset)
    if asked.root is None:
        raise console.UsageError(f"{asked.name} needs its directory or file: gengeo data check {asked.name} PATH")
    report = check_data(asked.name, asked.root, **asked.options)
    console.result(report)
    if fix:
        for link in report.make_links():
            console.result(f"linked {link}")
    elif report.links:
        console.result(f"--fix would make {len(report.links)} links for tools that look elsewhere")
    if not report.ok:
        raise typer.Exit(FAILURE)
