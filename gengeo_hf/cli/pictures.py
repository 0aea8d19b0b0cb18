"""`gengeo pictures`: draw results of an evaluation."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import LENGTH
from gengeo_hf.cli.registry import EVALUATE, gengeo


@gengeo.command(panel=EVALUATE)
def pictures(
    results: Annotated[list[Path], typer.Argument(help="JSON files of `gengeo evaluate`.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--images", "--data", help="Directory or table of the images. Default: none, for the synthetic worlds."
        ),
    ] = None,
    strips: Annotated[
        int, typer.Option(min=0, help="Number of photos of each group; 0 draws none and needs no images.")
    ] = 5,
    near: Annotated[
        Any,
        typer.Option(
            "--near-miss", "--near", help="Greatest distance at which a wrong answer is a near miss.", **LENGTH
        ),
    ] = "100m",
) -> None:
    """Draw results: strips of photo and best tiles, recall and error curves, a map of errors, failures in groups.

    Curves show every result; map, strips and groups show the first one.

    **Example**

        gengeo pictures results/cvusa.json --images CVUSA --out pictures
    """
    from gengeo_hf.evaluation.report import load_images, write_report
    from gengeo_hf.evaluation.results import Result

    console.check_writable(out / "index.html")
    images = load_images(Result.load(results[0]), data) if strips > 0 else None
    for path in write_report(results, out, images, num_strips=strips, near_m=near):
        console.result(path)
