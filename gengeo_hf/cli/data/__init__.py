"""`gengeo data`: download, make, check, show and export pairs of photos and tiles."""

from typing import TYPE_CHECKING, Annotated

import typer

from gengeo_hf.cli.registry import DATA, add_group, import_commands

if TYPE_CHECKING:
    from gengeo_hf.data.registry import DataNotation

Dataset = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME[:SPLIT] [ROOT] [KEY=VALUE]...",
        help="Data set: name, optional split, directory (or file of a table), and options of its loader, for example "
        "missing=drop. Names: cvusa, cvact, vigor-same, vigor-cross, university1652, "
        "cvcities, cvcities-CITY, loci, justzoomin, justzoomin-area, justzoomin-covered, table, folder, parquet, "
        "webdataset, world-urban, world-rural, world-offcenter, mixture.",
    ),
]

data = add_group("data", "Download, make, check, show and export pairs of photos and tiles.", panel=DATA)


def parse_dataset(arguments: list[str]) -> "DataNotation":
    """Parse a data set in the notation `NAME[:SPLIT] [ROOT] [key=value ...]`.

    Args:
        arguments: The parts of the notation, or a list with the whole notation.

    Raises:
        UsageError: The notation is not valid.
    """
    from gengeo_hf.cli.console import UsageError
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.data.registry import parse_data

    try:
        return parse_data(arguments[0] if len(arguments) == 1 else arguments)
    except GenGeoError as error:
        raise UsageError(str(error)) from None


import_commands(__name__, __path__)
