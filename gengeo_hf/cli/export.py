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
    overwrite: Overwrite = False,
) -> None:
    """Write a directory that loads without this package: weights, code, card, endpoint handler; on request ONNX graphs.

    `gengeo locate photo.jpg --index city.gengeo --model ./exported --backend onnx` then needs no torch kernels.

    **Example**

        gengeo export ./gengeo-cvusa ./exported --onnx --result results/cvusa.json
    """
    from gengeo_hf.hub.export import export_folder

    export_folder(
        model,
        out,
        results=card.result or (),
        examples=card.example or (),
        license=card.license,
        onnx=card.onnx,
        overwrite=overwrite,
    )
    console.result(f"wrote {out}" + (f"; {_agreement(out)}" if card.onnx else ""))


def _agreement(out: Path) -> str:
    """How near the ONNX graphs came to torch."""
    import json

    from gengeo_hf.encoding.backends.exported import FOLDER, MANIFEST

    stated = json.loads((out / FOLDER / MANIFEST).read_text(encoding="utf-8"))
    return f"lowest cosine to torch {stated['lowest_cosine_to_torch']:.7f}"
