"""What every command shares: the application that they register with, and the options that several of them take."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="gengeo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Find where a photo was taken by matching it with aerial imagery.\n\n"
    "    gengeo index orthophoto.tif --out city.gengeo --model ./gengeo-cvusa --tile 100m --overlap 50%\n\n"
    "    gengeo locate photo.jpg --index city.gengeo --model ./gengeo-cvusa --map places.html",
)

Model = Annotated[str, typer.Option("--model", help="Checkpoint folder or Hub id.")]
Device = Annotated[str | None, typer.Option(help="For example cuda, cuda:1 or cpu. Default: a GPU if there is one.")]
Backend = Annotated[
    str, typer.Option("--backend", help="What computes: torch, or onnx for a folder of `gengeo export --onnx`.")
]
IndexFolder = Annotated[Path, typer.Option("--index", help="Index folder made by `gengeo index`.")]
