"""`gengeo data get`: download an open data set, and write a table of pairs."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.data import data

ON_REQUEST = ("cvusa", "cvact", "vigor", "vigor-same", "vigor-cross", "university1652")


@data.command()
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Data set: justzoomin (Washington DC).")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory to write; a stopped run continues in it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for consent; required without a terminal.")] = False,
    archives: Annotated[
        str, typer.Option(metavar="N,N,...|all", help="Numbers of the photo archives to download, about 5.4 GB each.")
    ] = "0",
    max_photos: Annotated[
        int | None,
        typer.Option(min=1, help="Greatest number of photos, from the beginning of the archives. Default: all."),
    ] = None,
    zoom: Annotated[
        int,
        typer.Option(
            max=0, help="Level of the aerial pyramid: 0 has 0.08 m per pixel, each lower level twice as much."
        ),
    ] = -2,
    crop_m: Annotated[float, typer.Option(min=10, max=400, help="Side of a tile in metres.")] = 39.0625,
    verify: Annotated[
        bool, typer.Option("--verify", help="Verify every unpacked file; damaged ones are downloaded again.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Use only files on disk; send no request.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag on the Hub. Default: the tested commit.")
    ] = None,
    accept_licence: Annotated[
        str, typer.Option(metavar="NAME", help="Licence that you accept; the card of the data set must state it.")
    ] = "cc-by-sa-4.0",
) -> None:
    """Download an open data set from the Hub, render its tiles, and write `pairs.parquet` with licences and sources.

    Disk space and licences are printed before you confirm. Exit code 2 without a terminal and without --yes.

    **Examples**

        gengeo data get justzoomin --out data/jz

        gengeo data get justzoomin --out data/jz --max-photos 2000 --yes
    """
    if name in ON_REQUEST:
        raise console.UsageError(
            f"{name} must be requested from its owners and cannot be downloaded; see docs, Evaluate"
        )
    if name != "justzoomin":
        raise console.UsageError(f"unknown data set {name!r}: only justzoomin can be downloaded")
    from gengeo_hf.common.errors import MissingExtraError

    try:
        from gengeo_hf.acquire import justzoomin
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "httpx", "net", "render tiles") from error
    from gengeo_hf.data.check import check_data

    options = justzoomin.FetchOptions(
        revision or justzoomin.REVISION, archives, max_photos, zoom, crop_m, offline, verify, accept_licence
    )
    todo = justzoomin.plan(out, options, console.progress)
    if todo.damaged:
        console.warning(f"{len(todo.damaged):,} files are damaged or missing, first {todo.damaged[0]}")
    console.note(todo.summary())
    if not offline and todo.download_bytes:
        console.confirm(f"fetch {justzoomin.gigabytes(todo.download_bytes)} into {out}", yes)
    facts = justzoomin.fetch(todo, console.progress)
    console.result(
        f"{out}: {facts['photos']:,} photos in {facts['cells rendered']:,} cells, {facts['bounds of the photos']}"
    )
    if lost := facts["photos left out, cell not covered"]:
        console.result(f"{lost:,} photos are left out: the orthophoto does not cover their cell")
    console.result(check_data(name, out))
