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
        typer.Option("--int8", help="Also write int8 graphs and ONNX graphs, for CPUs without bfloat16."),
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Images to calibrate and evaluate --int8: a directory of photos, or a data set in quotes, 'NAME:SPLIT "
            "[ROOT]', whose pairs also measure R@1. Use photos similar to those that you will locate.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a directory that loads without this package: weights, code, card, endpoint handler, optional ONNX graphs.

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
    """Format the agreement of the ONNX graphs with torch."""
    import json

    from gengeo_hf.encoding.backends.exported import FOLDER, MANIFEST

    manifest = json.loads((out / FOLDER / MANIFEST).read_text(encoding="utf-8"))
    return f"lowest cosine to torch {manifest['lowest_cosine_to_torch']:.7f}"


def _int8_agreement(out: Path) -> list[str]:
    """Format the agreement of the int8 graphs with float32, one line for each engine."""
    import json

    from gengeo_hf.encoding.backends.exported import MANIFEST

    lines = []
    for path in sorted(out.glob(f"*_int8/{MANIFEST}")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        recall = manifest["recall_at_1"]
        lines.append(
            f"{path.parent.name}: {len(manifest['float_layers'])} layers left in float32, lowest cosine to float32 "
            f"{manifest['lowest_cosine_to_float32']:.4f}, mean {manifest['mean_cosine_to_float32']:.4f}"
            + (f", R@1 {recall['int8']:.1%} ({recall['float32']:.1%} in float32)" if recall else "")
        )
    return lines
