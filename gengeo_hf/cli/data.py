"""Commands about training data: data check, data show, data export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli.base import app, check_writable

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset

data_app = typer.Typer(no_args_is_help=True, help="Check, show and export pairs of photos and tiles.")
app.add_typer(data_app, name="data")

Name = Annotated[
    str,
    typer.Argument(
        help="cvusa, cvact, vigor-same, vigor-cross, university1652, table, folder, parquet, webdataset, world-*."
    ),
]
Folder = Annotated[Path, typer.Argument(help="The data set's folder (or a table's file).")]
Options = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options of the loader, e.g. missing=drop.")
]
Split = Annotated[str, typer.Option(help="Split of the data set.")]


@data_app.command()
def check(
    name: Name,
    folder: Folder,
    options: Options = None,
    fix: Annotated[bool, typer.Option("--fix", help="Make the links that are offered; nothing is moved.")] = False,
) -> None:
    """Say what a folder holds, what it should hold, and what to do. Exit code 1 where something is missing.

    **Example:** `gengeo data check cvusa /data/CVUSA`

    Options of the loader as for `show`: `gengeo data check table pairs.csv columns.heading=gyro missing=drop`
    """
    from gengeo_hf.data.check import check_data

    report = check_data(name, folder, **_given(options))
    typer.echo(str(report))
    if fix:
        for link in report.make_links():
            typer.echo(f"linked {link}")
    elif report.links:
        typer.echo(f"--fix would make {len(report.links)} links for tools that look elsewhere")
    if not report.ok:
        raise typer.Exit(1)


@data_app.command()
def show(
    name: Name,
    folder: Folder,
    options: Options = None,
    split: Split = "train",
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("pairs.png"),
    pairs: Annotated[int, typer.Option(min=1, max=64, help="How many pairs, evenly from the whole table.")] = 12,
) -> None:
    """Draw a sheet of pairs: are the right photo and the right tile side by side, and is north where it should be?

    **Example:** `gengeo data show cvusa /data/CVUSA --split test --out pairs.png`
    """
    from gengeo_hf.data.preview import write_sheet

    check_writable(out)
    data = _load(name, folder, split, options)
    typer.echo(f"{write_sheet(data, out, pairs)}: {min(pairs, len(data.queries))} of {len(data.queries):,} pairs")


@data_app.command()
def export(
    name: Name,
    folder: Folder,
    options: Options = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    split: Split = "train",
    form: Annotated[str, typer.Option("--format", help="parquet or webdataset.")] = "parquet",
    ground_view: Annotated[
        str | None, typer.Option(help="Lay panoramas flat: bev:512:0.06 (P-BEV) or downward:512x512:170 (AuxGeo).")
    ] = None,
    aerial_view: Annotated[str | None, typer.Option(help="Unroll tiles: polar:112x616 (SAFA, GeoDTR).")] = None,
    push: Annotated[str | None, typer.Option(help="Also publish on the Hub as organisation/name.")] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: of a repository that is made.")] = False,
) -> None:
    """Write pairs with their images into Parquet files or webdataset shards; a stopped export goes on.

    **Example:** `gengeo data export table pairs.csv --split train --out exported`

    Parquet is read again by `data.name=parquet data.root=exported`, webdataset by `data.name=webdataset`.
    """
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.data.export import export_pairs

    if out is None and push is None:
        raise GenGeoError("say where to: --out FOLDER or --push organisation/name")
    if push is not None and (ground_view or aerial_view):
        raise GenGeoError("--push sends the images as they are: export the view first, then `data export parquet`")
    check_writable(out / "queries" / "train" if out else None)
    data = _load(name, folder, split, options)
    if out is not None:
        written, kept = export_pairs(
            data, out, split, form, ground_view=ground_view, aerial_view=aerial_view, progress=True
        )
        typer.echo(f"{out}: {written} files written, {kept} were there already")
    if push is not None:
        from gengeo_hf.hub.repository import push_dataset

        typer.echo(push_dataset(data, push, split, private=private))


def _load(name: str, folder: Path, split: str, options: list[str] | None) -> "CrossViewDataset":
    """The data set, with options as training's configuration files write them."""
    from gengeo_hf.data import load_pairs

    return load_pairs(name, folder, split, **_given(options))


def _given(options: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE words as a dictionary."""
    from omegaconf import OmegaConf

    from gengeo_hf.common.errors import GenGeoError

    if wrong := [word for word in options or () if "=" not in word]:
        raise GenGeoError(f"expected KEY=VALUE, found {wrong[0]!r}")
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(options or []))
    return given
