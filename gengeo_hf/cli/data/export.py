"""`gengeo data export`: write pairs with their images to files, or publish them."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.data import Dataset, data, parse_dataset


@data.command()
def export(
    dataset: Dataset,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Directory to write. Default: none.")] = None,
    form: Annotated[str, typer.Option("--format", help="Format of the files: parquet or webdataset.")] = "parquet",
    ground_view: Annotated[
        str | None,
        typer.Option(
            help="Projection of panoramas: bev:512:0.06 (P-BEV) or downward:512x512:170 (AuxGeo). Default: none."
        ),
    ] = None,
    aerial_view: Annotated[
        str | None, typer.Option(help="Projection of tiles: polar:112x616 (SAFA, GeoDTR). Default: none.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="ORGANISATION/NAME", help="Hub id under which to publish the pairs. Default: not published."
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that --push creates private.")] = False,
) -> None:
    """Write pairs with their images to Parquet files or webdataset shards; a stopped export continues.

    Load the result as `parquet exported` or `webdataset exported`.

    **Example**

        gengeo data export table:train pairs.csv --out exported
    """
    from gengeo_hf.data.export import export_pairs

    if out is None and push is None:
        raise console.UsageError("give an output: --out DIR or --push organisation/name")
    if push is not None and (ground_view or aerial_view):
        raise console.UsageError(
            "--push publishes the images without a projection: export with --out first, then push parquet DIR"
        )
    console.check_writable(out / "queries" / "train" if out else None)
    notation = parse_dataset(dataset)
    split = notation.split or "train"
    pairs = notation.load(split)
    if out is not None:
        written, kept = export_pairs(
            pairs,
            out,
            split,
            form,
            ground_view=ground_view,
            aerial_view=aerial_view,
            progress=console.shows_progress(),
        )
        console.result(f"{out}: {written} files written, {kept} existed already")
    if push is not None:
        from gengeo_hf.data.sources import sources_of
        from gengeo_hf.hub.repository import push_dataset

        sources = sources_of(notation.name, notation.root, notation.options)
        console.result(push_dataset(pairs, push, split, sources=sources, private=private))
