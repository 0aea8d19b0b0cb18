"""`gengeo data`: check, show and export pairs of photos and tiles."""

from typing import TYPE_CHECKING, Annotated

import typer

from gengeo_hf.cli.registry import DATA, add_group, import_commands

if TYPE_CHECKING:
    from gengeo_hf.data.registry import DataNotation

Dataset = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME[:SPLIT] [ROOT] [KEY=VALUE]...",
        help="A data set: its name, with a split where one is needed, its directory (or a table's file), and options "
        "of its loader, for example missing=drop. Names: cvusa, cvact, vigor-same, vigor-cross, university1652, "
        "cvcities, cvcities-CITY, loci, justzoomin, justzoomin-area, justzoomin-covered, table, folder, parquet, "
        "webdataset, world-urban, world-rural, world-offcenter, mixture.",
    ),
]

data = add_group("data", "Fetch, make, check, show and export pairs of photos and tiles.", panel=DATA)


def parse_dataset(words: list[str]) -> "DataNotation":
    """The data set that was written as `NAME[:SPLIT] [ROOT] [key=value ...]`, as several words or as one in quotes.

    Raises:
        UsageError: it is written in another way.
    """
    from gengeo_hf.cli.console import UsageError
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.data.registry import parse_data

    try:
        return parse_data(words[0] if len(words) == 1 else words)
    except GenGeoError as error:
        raise UsageError(str(error)) from None


import_commands(__name__, __path__)
