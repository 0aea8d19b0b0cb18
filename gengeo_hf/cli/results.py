"""Commands that take result files of `gengeo evaluate`: table, compare, best, pictures."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli.base import app, check_writable


@app.command()
def table(
    number: Annotated[int, typer.Argument(help="Number of the table in the paper, 2 to 9.")],
    results: Annotated[list[Path] | None, typer.Argument(help="JSON files of gengeo evaluate.")] = None,
    style: Annotated[str, typer.Option("--format", help="md, latex or csv.")] = "md",
) -> None:
    """Print a table of the paper with our results below; what is not comparable is marked or left out.

    **Example:** `gengeo table 2 results/cvusa.json --format latex`
    """
    from typing import cast

    from gengeo_hf.evaluation.tables import Format, build_table, render

    typer.echo(render(build_table(number, results or ()), cast(Format, style)), nl=False)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="JSON file of gengeo evaluate.")],
    second: Annotated[Path, typer.Argument(help="Another one, over the same queries.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Tell a gain from noise: differences over the same queries, with 95 % intervals.

    **Example:** `gengeo compare results/before.json results/after.json`
    """
    from gengeo_hf.evaluation.compare import compare as paired
    from gengeo_hf.evaluation.compare import comparison_text

    typer.echo(comparison_text(paired(first, second, seed=seed), first.stem, second.stem))


@app.command()
def best(
    results: Annotated[list[Path], typer.Argument(help="JSON files by one protocol, such as `cvusa@validation`.")],
    metric: Annotated[
        str, typer.Option(help="A share of the queries, such as recall@5 or within_25m; greater is better.")
    ] = "recall@1",
) -> None:
    """Pick a checkpoint on the validation part; results of a split on which numbers are reported are refused.

    **Example:** `gengeo best results/epoch-20.json results/epoch-24.json`
    """
    from gengeo_hf.evaluation.compare import choose_checkpoint

    typer.echo(choose_checkpoint(results, metric))


@app.command()
def pictures(
    results: Annotated[list[Path], typer.Argument(help="JSON files of gengeo evaluate.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the images; the synthetic worlds need none.")] = None,
    strips: Annotated[int, typer.Option(min=0, help="Photos shown of each group; 0 needs no images.")] = 5,
    near: Annotated[str, typer.Option(help="A wrong answer is a near miss up to this distance.")] = "100m",
) -> None:
    """Draw results: strips of photo and best tiles, recall and error curves, a map of errors, failures in groups.

    Curves show every result; map, strips and groups are of the first.

    **Example:** `gengeo pictures results/cvusa.json --data CVUSA --out pictures`
    """
    from gengeo_hf.common.units import parse_metres
    from gengeo_hf.evaluation.report import images_of, make_album
    from gengeo_hf.evaluation.results import Result

    check_writable(out / "index.html")
    images = images_of(Result.load(results[0]), data) if strips > 0 else None
    for path in make_album(results, out, images, each=strips, near_m=parse_metres(near)):
        typer.echo(path)
