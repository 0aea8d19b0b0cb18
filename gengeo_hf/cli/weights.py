"""Commands that take and give weights, and exchange them with the Hub: convert, export, push, pull, space."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gengeo_hf.cli.base import app

Results = Annotated[
    list[Path] | None, typer.Option("--result", help="JSON file of gengeo evaluate for the card; repeatable.")
]
Examples = Annotated[
    list[Path] | None, typer.Option("--example", help="Image for the card's widget, without its EXIF; repeatable.")
]
License = Annotated[
    str | None, typer.Option(help="Licence of what is published, for example apache-2.0. Default: none is stated.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what this command wrote there before.")]
Onnx = Annotated[bool, typer.Option("--onnx", help="Also write ONNX graphs to onnx/, for --backend onnx.")]


@app.command()
def convert(
    kind: Annotated[str, typer.Argument(help="dinov2, dino-salad, megaloc or sample4geo.")],
    source: Annotated[Path, typer.Argument(help="The published .pth, .ckpt or .safetensors file.")],
    out: Annotated[Path, typer.Argument(help="Folder to write, in Hub format.")],
    overwrite: Overwrite = False,
) -> None:
    """Convert published weights of others; dinov2 gives a backbone to start training from.

    **Example:** `gengeo convert dino-salad dino_salad.ckpt ./dino-salad`
    """
    from gengeo_hf.hub.convert import convert as run

    typer.echo(f"wrote {run(kind, source, out, overwrite=overwrite)}")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    onnx: Onnx = False,
    result: Results = None,
    example: Examples = None,
    license: License = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a folder that loads without this package: weights, code, card, endpoint handler; on request ONNX graphs.

    **Example:** `gengeo export ./gengeo-cvusa ./exported --onnx --result results/cvusa.json`

    Then `gengeo locate photo.jpg --index city.gengeo --model ./exported --backend onnx` needs no torch kernels.
    """
    from gengeo_hf.hub.export import export_folder

    options: dict[str, Any] = {"license": license, "onnx": onnx, "overwrite": overwrite}
    export_folder(model, out, results=result or (), examples=example or (), **options)
    typer.echo(f"wrote {out}" + (f"; {_agreement(out)}" if onnx else ""))


@app.command()
def push(
    source: Annotated[str, typer.Argument(help="Checkpoint folder, index folder, or with --split a data set's name.")],
    repository: Annotated[str, typer.Argument(help="organisation/name on the Hub; made if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made, let nobody else see it.")] = False,
    onnx: Onnx = False,
    result: Results = None,
    example: Examples = None,
    license: License = None,
    split: Annotated[str | None, typer.Option(help="Data sets: the split to publish.")] = None,
    root: Annotated[Path | None, typer.Option(help="Data sets: folder with the data.")] = None,
) -> None:
    """Publish a checkpoint (with code, card and handler), an index or a data set, as one commit.

    **Example:** `gengeo push ./gengeo-cvusa someone/gengeo-cvusa --result results/cvusa.json --license apache-2.0`

    Log in with `hf auth login`, or set HF_TOKEN. A data set: `gengeo push world-urban someone/urban --split test`.
    Publish only images that you may pass on.
    """
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.hub.repository import push as publish
    from gengeo_hf.hub.repository import push_dataset

    options = {"onnx": onnx, "results": result, "examples": example, "license": license}
    given: dict[str, Any] = {name: value for name, value in options.items() if value}
    if split is None:
        if not Path(source).is_dir():
            raise GenGeoError(f"{source} is no folder; to publish a data set by its name, say which --split")
        typer.echo(publish(source, repository, private=private, **given))
        return
    if unfit := sorted(given.keys() - {"license"}):
        raise GenGeoError(f"--{unfit[0].rstrip('s')} goes with a checkpoint, --split with a data set: give one of them")
    from gengeo_hf.data import load_pairs

    data = load_pairs(source, root, split)
    typer.echo(push_dataset(data, repository, split, private=private, **given))


@app.command()
def pull(
    repository: Annotated[str, typer.Argument(help="organisation/name on the Hub.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    kind: Annotated[str | None, typer.Option(help="model, index or dataset. Default: found out.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Fetch a checkpoint, an index or a data set, and check it.

    **Example:** `gengeo pull someone/city-index city.gengeo`
    """
    from typing import cast

    from gengeo_hf.hub.repository import Kind
    from gengeo_hf.hub.repository import pull as fetch

    found = fetch(repository, out, kind=cast(Kind, kind), revision=revision, overwrite=overwrite)
    use = {
        "model": f"--model {out}",
        "index": f"--index {out}",
        "dataset": f'load_pairs("parquet", root="{out}", split=...)',
    }
    typer.echo(f"{out} holds the {found} {repository}; use it with {use[found]}")


@app.command()
def space(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    model: Annotated[str, typer.Option("--model", help="Hub id of a published model.")],
    index: Annotated[
        str | None, typer.Option("--index", help="Hub id of a published index. Default: visitors upload tiles.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a Gradio Space that shows a published model: upload the folder to a Space on the Hub, or run app.py.

    **Example:** `gengeo space ./space --model someone/gengeo-cvusa --index someone/city-index`
    """
    from gengeo_hf.hub.export import write_space

    write_space(out, model, index, overwrite=overwrite)
    typer.echo(f"wrote {out}; try it: pip install gradio -r {out}/requirements.txt && python {out}/app.py")


def _agreement(out: Path) -> str:
    """How near the ONNX graphs came to torch."""
    import json

    from gengeo_hf.encoding.backends.exported import FOLDER, MANIFEST

    stated = json.loads((out / FOLDER / MANIFEST).read_text(encoding="utf-8"))
    return f"lowest cosine to torch {stated['lowest_cosine_to_torch']:.7f}"
