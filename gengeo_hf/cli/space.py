"""`gengeo space`: write a Space that uses a published model, with Gradio or as static files."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import Overwrite
from gengeo_hf.cli.registry import SHARING, gengeo


@gengeo.command(panel=SHARING)
def space(
    out: Annotated[Path, typer.Argument(help="Directory to write.")],
    model: Annotated[str, typer.Option("--model", help="Hub id of a published model.")],
    index: Annotated[
        str | None, typer.Option("--index", help="Hub id of a published index. Default: visitors upload tiles.")
    ] = None,
    static: Annotated[
        bool,
        typer.Option(
            "--static",
            help="Write a page without a server, which encodes photos in the browser: --model is a directory of gengeo "
            "export --int8, --index an index directory. Downloads onnxruntime-web by npm.",
        ),
    ] = False,
    runtime: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --static: npm package of onnxruntime-web. Default: downloaded."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a Space that uses a published model: upload the directory to a Space, or run app.py.

    **Examples**

        gengeo space ./space --model someone/gengeo-cvusa --index someone/city-index

        gengeo space ./page --static --model ./exported --index city.gengeo
    """
    if static or runtime is not None:
        _write_static(out, model, index, static, runtime, overwrite)
        return
    from gengeo_hf.hub.export import write_space

    write_space(out, model, index, overwrite=overwrite)
    console.result(f"wrote {out}")
    console.note(f"try it: pip install gradio -r {out}/requirements.txt && python {out}/app.py")


def _write_static(
    out: Path, model: str, index: str | None, static: bool, runtime: Path | None, overwrite: bool
) -> None:
    """Write the page without a server."""
    from gengeo_hf.hub.static_space import write_static_space

    if not static or index is None:
        raise console.UsageError("a page without a server needs --static, --model and --index")
    megabytes = write_static_space(out, model, index, runtime=runtime, overwrite=overwrite)
    console.result(f"wrote {out}; the page loads {megabytes:.1f} MB")
    console.note(f"try it: python -m http.server --directory {out}")
