"""`gengeo data check`: check whether a directory has all files of a data set."""

from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.data import Dataset, data, parse_dataset
from gengeo_hf.cli.exit_codes import FAILURE


@data.command()
def check(
    dataset: Dataset,
    fix: Annotated[bool, typer.Option("--fix", help="Create the suggested links; no file is moved.")] = False,
) -> None:
    """Print what a directory has, what is missing, and what to do. Exit code 1 if something is missing.

    **Examples**

        gengeo data check cvusa /data/CVUSA

        gengeo data check table pairs.csv columns.heading=gyro missing=drop
    """
    from gengeo_hf.data.check import check_data

    notation = parse_dataset(dataset)
    if notation.root is None:
        name = notation.name
        raise console.UsageError(f"{name} needs its directory or file: gengeo data check {name} PATH")
    report = check_data(notation.name, notation.root, **notation.options)
    console.result(report)
    if fix:
        for link in report.make_links():
            console.result(f"linked {link}")
    elif report.links:
        count = len(report.links)
        console.result(f"--fix would create {count} link{'s' * (count > 1)} for tools that expect other paths")
    if not report.ok:
        raise typer.Exit(FAILURE)
