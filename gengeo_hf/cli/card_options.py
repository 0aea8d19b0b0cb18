"""Options of the model card of `gengeo export` and `gengeo push`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

CARD = "Model card"


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """Further contents of an export or a publication."""

    onnx: Annotated[bool, typer.Option("--onnx", help="Also write ONNX graphs to onnx/, for --backend onnx.")] = False
    result: Annotated[
        list[Path] | None,
        typer.Option("--result", help="Result of `gengeo evaluate` (JSON); repeatable.", rich_help_panel=CARD),
    ] = None
    example: Annotated[
        list[Path] | None,
        typer.Option(
            "--example",
            help="Example image for the widget, published without EXIF data; repeatable.",
            rich_help_panel=CARD,
        ),
    ] = None
    license: Annotated[
        str | None,
        typer.Option(
            "--license",
            "--licence",
            help="Licence of the published files, for example apache-2.0. Default: not stated.",
            rich_help_panel=CARD,
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """Given options, with the argument names of `gengeo_hf.hub`."""
        options = {"onnx": self.onnx, "results": self.result, "examples": self.example, "license": self.license}
        return {name: value for name, value in options.items() if value}
