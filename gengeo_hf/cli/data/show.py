"""`gengeo data show`: draw a sheet of pairs."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.data import Dataset, data, parse_dataset


@data.command()
def show(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Picture to write (PNG).")] = Path("pairs.png"),
    pairs: Annotated[int, typer.Option(min=1, max=64, help="Number of pairs, evenly spaced over the table.")] = 12,
) -> None:
    """Draw a sheet of pairs, to check that photos and tiles belong together and that north is right.

    **Example**

        gengeo data show cvusa:test /data/CVUSA --out pairs.png
    """
    from gengeo_hf.data.preview import write_sheet

    console.check_writable(out)
    found = parse_dataset(dataset).load("train")
    console.result(
        f"{write_sheet(found, out, pairs)}: {min(pairs, len(found.queries))} of {len(found.queries):,} pairs"
    )
