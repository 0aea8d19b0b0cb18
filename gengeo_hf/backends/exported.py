"""The files of `gengeo export --onnx`: what an encoder must know of a model without its weights in torch.

Before: a checkpoint folder or Hub id with an `onnx` folder. After: facts for the encoder, graphs for onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from gengeo_hf.errors import GenGeoError
from gengeo_hf.fingerprint import preprocessing, truncated

FORMAT = 1
FOLDER = "onnx"  # inside a checkpoint folder
MANIFEST = "gengeo_onnx.json"
INPUT, OUTPUT = "pixel_values", "descriptor"
FIELDS = (
    "format", "fingerprint", "truncate_dim", "dim", "patch", "whole_patches", "fewest_tokens", "preprocessing",
    "graphs", "files",
)  # fmt: skip


class ExportedGraphs:
    """One export: its manifest, and its files once they were compared with it.

    Args:
        folder: with the graphs, their weights and the manifest.
        processor: the checkpoint's image processor.

    Raises:
        GenGeoError: the manifest is missing or damaged, or belongs to other preprocessing.
    """

    def __init__(self, folder: Path, processor: Any) -> None:
        self.folder, self.manifest = folder, _read_manifest(folder)
        if json.loads(json.dumps(preprocessing(processor))) != self.manifest["preprocessing"]:
            raise GenGeoError(
                f"{folder} was exported for other preprocessing than preprocessor_config.json beside it says: "
                "export it again with gengeo export --onnx"
            )
        self._width: int | None = None
        self._checked: set[str] = set()

    @property
    def whole_dim(self) -> int:
        """Length of a descriptor as the graph gives it."""
        return int(self.manifest["dim"])

    @property
    def truncate_dim(self) -> int | None:
        """The width that descriptors are cut to, None for whole ones."""
        return self._width or self.manifest["truncate_dim"]

    @property
    def patch(self) -> int:
        """Width in pixels of what becomes one token."""
        return int(self.manifest["patch"][1])

    def fingerprint(self) -> str:
        """That of the float32 checkpoint which was exported."""
        return truncated(self.manifest["fingerprint"], self.truncate_dim)

    def truncate(self, dim: int) -> None:
        """Cut descriptors to their first `dim` values."""
        self._width = dim

    def check_size(self, height: int, width: int) -> None:
        """The checks that the model makes by itself, in its words; the graph has none.

        Args:
            height, width: pixels.

        Raises:
            ValueError: sides that are not whole patches, or too few patches for the head.
        """
        high, wide = self.manifest["patch"]
        if self.manifest["whole_patches"] and (height % high or width % wide):
            raise ValueError(
                f"the image is {height} x {width} pixels (height x width): both sides must be multiples of the patch, "
                f"{high} x {wide}"
            )
        tokens, fewest = (height // high) * (width // wide), self.manifest["fewest_tokens"]
        if tokens < fewest:
            raise ValueError(
                f"an image of {height} x {width} pixels gives {tokens} tokens: the model needs at least {fewest}"
            )

    def graph(self, view: str) -> Path:
        """The graph of a view, after its bytes and those of the weights were compared with the manifest.

        Raises:
            GenGeoError: a file is missing or damaged, or the manifest states no hash of it.
        """
        name, files = self.manifest["graphs"][view], self.manifest["files"]
        if name not in files:
            raise GenGeoError(f"{self.folder / MANIFEST} names no hash of {name}: export the model again")
        for file, stated in files.items():
            path = self.folder / file
            if file in self._checked:
                continue
            if Path(file).name != file or not path.is_file() or described(path) != stated:
                raise GenGeoError(f"{path} is missing or damaged: fetch or export the model again")
            self._checked.add(file)
        return self.folder / name


def described(path: Path) -> dict[str, Any]:
    """Size and hash of a file, as the manifest states them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def find_export(name: str | Path, revision: str | None = None, token: Any = None) -> tuple[ExportedGraphs, Any, Path]:
    """Open the ONNX export of a checkpoint folder or Hub id.

    Returns:
        The export, the checkpoint's image processor, and the folder that both were read from.

    Raises:
        GenGeoError: there is none, or it cannot be read.
    """
    from gengeo_hf.model import GenGeoImageProcessor

    home = Path(name) if Path(name).is_dir() else _fetched(str(name), revision, token)
    if not (home / FOLDER / MANIFEST).is_file():
        raise GenGeoError(f"{name} holds no ONNX export: make one with gengeo export {name} OUT --onnx, use OUT")
    try:
        processor = GenGeoImageProcessor.from_pretrained(home)
    except (OSError, ValueError) as error:
        raise GenGeoError(f"{name} has no readable preprocessor_config.json: {error}") from error
    return ExportedGraphs(home / FOLDER, processor), processor, home


def _fetched(name: str, revision: str | None, token: Any) -> Path:
    """The files of a Hub repository that an encoder without torch reads."""
    from gengeo_hf.exchange import retried

    def fetch() -> str:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", f"{FOLDER}/*"]
        return snapshot_download(name, revision=revision, token=token, allow_patterns=patterns)

    return Path(retried(fetch, name))


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        stated = [manifest[key] for key in FIELDS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GenGeoError(f"{folder / MANIFEST} cannot be read ({error!r}): export the model again") from error
    if stated[0] != FORMAT:
        raise GenGeoError(f"{folder} has format {stated[0]!r}, this package reads {FORMAT}: export the model again")
    return manifest
