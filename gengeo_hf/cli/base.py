"""What every command shares: the application that they register with, and the options that several of them take."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

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
    str,
    typer.Option(
        "--backend",
        help="What computes: torch, openvino, onnx (a folder of `gengeo export --onnx`); auto: the faster of torch and "
        "openvino on a CPU.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="Multiply in float32 or bfloat16; auto: the faster one on a CPU, if descriptors agree."
    ),
]
IndexFolder = Annotated[Path, typer.Option("--index", help="Index folder made by `gengeo index`.")]
IndexOrStore = Annotated[str, typer.Option("--index", help="Index folder, or the address of a store.")]
CalibrationFile = Annotated[
    Path | None, typer.Option("--calibration", help="File of `gengeo calibrate`: gives confidences.")
]


def check_writable(*paths: str | Path | None) -> None:
    """Make sure, before the work, that files can be written at its end.

    Args:
        paths: files that will be written; None is one that nobody asked for.

    Raises:
        GenGeoError: a path is a folder, or its folder cannot be made or written to.
    """
    from gengeo_hf.common.errors import GenGeoError

    for path in (Path(path) for path in paths if path is not None):
        if path.is_dir():
            raise GenGeoError(f"{path} is a folder: give the name of a file in it")
        there = path.absolute().parent
        while not there.exists():  # folders are made on the way
            there = there.parent
        try:
            with tempfile.TemporaryFile(dir=there):  # asking for the rights tells nothing of a read-only disk
                pass
        except OSError as error:
            raise GenGeoError(f"{path} cannot be written: {there}: {error.strerror or error}") from error


def tell_choice(encoder: Any) -> None:
    """Say on stderr which backend computes and why, where there was a choice."""
    if encoder.choice_reason:
        typer.echo(encoder.choice_reason, err=True)
