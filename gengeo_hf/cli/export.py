"""`gengeo export`: write a checkpoint that loads without this package."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.card_options import CardOptions
from gengeo_hf.cli.options import Overwrite
from gengeo_hf.cli.registry import SHARING, gengeo


@gengeo.command(panel=SHARING)
def export(
    model: Annotated[str, typer.Argument(help="Checkpoint directory or Hub id.")],
    out: Annotated[Path, typer.Argument(help="Directory to write.")],
    card: CardOptions,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Also write 8-bit graphs (and the ONNX graphs), for CPUs without bfloat16."),
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Images that calibrate and judge --int8: a directory of photos, or a data set in quotes, 'NAME:SPLIT "
            "[ROOT]', whose pairs judge R@1 as well. Use photos like those of later.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a directory that loads without this package: weights, code, card, endpoint handler; on request ONNX graphs.

    `gengeo locate photo.jpg --index city.gengeo --model ./exported --backend onnx` then needs no torch kernels.

    **Examples**

        gengeo export ./gengeo-cvusa ./exported --onnx --result results/cvusa.json

        gengeo export ./gengeo-cvusa ./exported --int8 --calibrate photos/
    """
    if int8 != (calibrate is not None):
        raise console.UsageError("--int8 and --calibrate go together: --int8 --calibrate photos/")
    from gengeo_hf.hub.export import export_folder

    export_folder(
        model,
        out,
        results=card.result or (),
        examples=card.example or (),
        license=card.license,
        onnx=card.onnx,
        calibrate=calibrate,
        overwrite=overwrite,
    )
    console.result(f"wrote {out}" + (f"; {_agreement(out)}" if card.onnx or int8 else ""))
    for line in _int8_agreement(out) if int8 else ():
        console.result(line)


def _agreement(out: Path) -> str:
    """How near the ONNX graphs came to torch."""
    import json

    from gengeo_hf.encoding.backends.exported import FOLDER, MANIFEST

    stated = json.loads((out / FOLDER / MANIFEST).read_text(encoding="utf-8"))
    return f"lowest cosine to torch {stated['lowest_cosine_to_torch']:.7f}"


def _int8_agreement(out: Path) -> list[str]:
    """How near the int8 graphs came to float32, one line for each engine."""
    import json

    from gengeo_hf.encoding.backends.exported import MANIFEST

    lines = []
    for path in sorted(out.glob(f"*_int8/{MANIFEST}")):
        stated = json.loads(path.read_text(encoding="utf-8"))
        recall = stated["recall_at_1"]
        lines.append(
            f"{path.parent.name}: {len(stated['float_layers'])} layers left in float32, lowest cosine to float32 "
            f"{stated['lowest_cosine_to_float32']:.4f}, mean {stated['mean_cosine_to_float32']:.4f}"
            + (f", R@1 {recall['int8']:.1%} ({recall['float32']:.1%} in float32)" if recall else "")
        )
    return lines
