"""`gengeo data export`: write pairs with their images into files, or publish them."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.data import Dataset, data, parse_dataset


@data.command()
def export(
    dataset: Dataset,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Directory to write.")] = None,
    form: Annotated[str, typer.Option("--format", help="parquet or webdataset.")] = "parquet",
    ground_view: Annotated[
        str | None,
        typer.Option(help="Project panoramas to the ground: bev:512:0.06 (P-BEV) or downward:512x512:170 (AuxGeo)."),
    ] = None,
    aerial_view: Annotated[str | None, typer.Option(help="Unroll tiles: polar:112x616 (SAFA, GeoDTR).")] = None,
    push: Annotated[
        str | None, typer.Option(metavar="ORGANISATION/NAME", help="Also publish on the Hub under this name.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A repository that --push makes is private.")] = False,
) -> None:
    """Write pairs with their images into Parquet files or webdataset shards; a stopped export continues.

    Read them again as `parquet exported` or `webdataset exported`.

    **Example**

        gengeo data export table:train pairs.csv --out exported
    """
    from gengeo_hf.data.export import export_pairs

    if out is None and push is None:
        raise console.UsageError("say where to: --out DIR or --push organisation/name")
    if push is not None and (ground_view or aerial_view):
        raise console.UsageError(
            "--push sends the images as they are: export the view with --out first, then push parquet DIR"
        )
    console.check_writable(out / "queries" / "train" if out else None)
    asked = parse_dataset(dataset)
    split = asked.split or "train"
    found = asked.load(split)
    if out is not None:
        written, kept = export_pairs(
            found,
            out,
            split,
            form,
            ground_view=ground_view,
            aerial_view=aerial_view,
            progress=console.shows_progress(),
        )
        console.result(f"{out}: {written} files written, {kept} were there already")
    if push is not None:
        from gengeo_hf.data.sources import sources_of
        from gengeo_hf.hub.repository import push_dataset

        sources = sources_of(asked.name, asked.root, asked.options)
        console.result(push_dataset(found, push, split, sources=sources, private=private))
