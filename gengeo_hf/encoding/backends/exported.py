"""Reads the files of `gengeo export`, with which an encoder runs a model without torch.

The files are in the directory `onnx` of a checkpoint directory or Hub repository.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.transfer import first_line
from gengeo_hf.encoding.fingerprint import preprocessing, truncated
from gengeo_hf.encoding.preprocessing import FileProcessor
from gengeo_hf.encoding.protocol import View

FORMAT = 1
FOLDER = "onnx"  # in a checkpoint directory
WEIGHTS = "model.safetensors"  # in a checkpoint directory
MANIFEST = "gengeo_onnx.json"
VIEWS = get_args(View)
INPUT, OUTPUT = "pixel_values", "descriptor"
FIELDS: dict[str, Any] = {  # fields of a manifest and their types
    "fingerprint": str,
    "truncate_dim": int | None,
    "dim": int,
    "patch": list,
    "whole_patches": bool,
    "fewest_tokens": int,
    "preprocessing": dict,
    "graphs": dict,
    "files": dict,
}


class ExportedGraphs:
    """An export: manifest and graphs. Files are compared with the manifest before they are used.

    Args:
        folder: Directory with the graphs, their weights and the manifest.
        processor: Image processor of the checkpoint.

    Raises:
        GenGeoError: The manifest is missing or damaged, or states other preprocessing.
    """

    def __init__(self, folder: Path, processor: Any) -> None:
        self.folder, self.manifest, self.processor = folder, _read_manifest(folder), processor
        if json.loads(json.dumps(preprocessing(processor))) != self.manifest["preprocessing"]:
            raise GenGeoError(
                f"{folder} was exported with other preprocessing than in preprocessor_config.json of its checkpoint: "
                "export it again with gengeo export --onnx"
            )
        self._width: int | None = None
        self._checked: set[str] = set()

    @property
    def whole_dim(self) -> int:
        """Number of values of a descriptor that is not truncated."""
        return int(self.manifest["dim"])

    @property
    def truncate_dim(self) -> int | None:
        """Number of values to which descriptors are truncated; None if they are not."""
        return self._width or self.manifest["truncate_dim"]

    @property
    def dtype(self) -> str:
        """Precision of the graphs: "float32" or "int8"."""
        return str(self.manifest.get("dtype", "float32"))

    def belongs_to_weights(self) -> bool:
        """Whether the weights of the checkpoint are, byte for byte, those from which the export was made.

        False for exports of earlier versions, whose manifests do not state it.
        """
        stated, path = self.manifest.get("checkpoint"), self.folder.parent / WEIGHTS
        return stated is not None and path.is_file() and stated == size_and_sha256(path)

    @property
    def patch(self) -> int:
        """Width of a patch in pixels."""
        return int(self.manifest["patch"][1])

    @property
    def patch_sides(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        high, wide = self.manifest["patch"]
        return int(high), int(wide)

    @property
    def fewest_tokens(self) -> int:
        """Minimum number of tokens of an image."""
        return int(self.manifest["fewest_tokens"])

    @property
    def ground_view(self) -> tuple[str | None, float | None]:
        """`ground_camera` and `ground_vertical_fov` of the checkpoint's configuration; None without one."""
        try:
            config = json.loads((self.folder.parent / "config.json").read_text(encoding="utf-8"))
            return config.get("ground_camera"), config.get("ground_vertical_fov")
        except (OSError, ValueError, AttributeError):
            return None, None

    def fingerprint(self) -> str:
        """Fingerprint of the exported float32 checkpoint."""
        return truncated(self.manifest["fingerprint"], self.truncate_dim)

    def truncate(self, dim: int) -> None:
        """Truncate descriptors to their first `dim` values."""
        self._width = dim

    def check_size(self, height: int, width: int) -> None:
        """Check an image size as the model does; graphs have no checks.

        Args:
            height, width: Image size in pixels.

        Raises:
            ValueError: A side is not a multiple of the patch, or there are too few patches for the head.
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
        """Path of the graph of a view, after its files were compared with the manifest.

        Raises:
            GenGeoError: A file is missing or damaged, or the manifest has no hash of it.
        """
        name, files = self.manifest["graphs"][view], self.manifest["files"]
        if name not in files:
            raise GenGeoError(f"{self.folder / MANIFEST} has no hash of {name}: export the model again")
        for file, stated in files.items():
            path = self.folder / file
            if file in self._checked:
                continue
            if Path(file).name != file or not path.is_file() or size_and_sha256(path) != stated:
                raise GenGeoError(f"{path} is missing or damaged: fetch or export the model again")
            self._checked.add(file)
        return self.folder / name


@contextlib.contextmanager
def graph_errors(path: Path, engine: str) -> Iterator[None]:
    """Convert any error that an engine raises for a graph to a one-line `GenGeoError`."""
    try:
        yield
    except Exception as error:
        raise GenGeoError(f"{engine} cannot open {path} ({first_line(error)}): export the model again") from error


def size_and_sha256(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as in the manifest."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def find_export(
    name: str | Path,
    folder: str = FOLDER,
    revision: str | None = None,
    token: Any = None,
    cache_dir: str | Path | None = None,
) -> tuple[ExportedGraphs, FileProcessor, Path]:
    """Open an export of a checkpoint.

    Args:
        name: Checkpoint directory or Hub id.
        folder: Name of the export's directory, for example "onnx" or "onnx_int8".
        revision, token, cache_dir: Arguments of huggingface_hub.

    Returns:
        The export, the image processor of the checkpoint, and the directory of the checkpoint.

    Raises:
        GenGeoError: There is no such export, or it cannot be read.
    """
    where = {"revision": revision, "token": token, "cache_dir": cache_dir}
    home = Path(name) if Path(name).is_dir() else _fetched(str(name), folder, where)
    if not (home / folder / MANIFEST).is_file():
        what, how = ("ONNX", "--onnx") if folder == FOLDER else (folder, "--int8 --calibrate PHOTOS")
        raise GenGeoError(f"{name} holds no {what} export: make one with gengeo export {name} OUT {how}, and use OUT")
    processor = FileProcessor(home)
    return ExportedGraphs(home / folder, processor), processor, home


def _fetched(name: str, folder: str, where: dict[str, Any]) -> Path:
    """Download the files of a Hub repository that an encoder without torch reads."""
    from gengeo_hf.common.transfer import with_retries

    def fetch() -> str:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", f"{folder}/*"]
        return snapshot_download(name, allow_patterns=patterns, **where)

    return Path(with_retries(fetch, name))


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GenGeoError(f"{folder / MANIFEST} cannot be read ({error!r}): export the model again") from error
    if found != FORMAT:
        raise GenGeoError(f"{folder} has format {found!r}, this package reads {FORMAT}: export the model again")
    if (wrong := _wrong_field(manifest)) is not None:
        raise GenGeoError(
            f"{folder / MANIFEST} is damaged: {wrong} is {manifest.get(wrong)!r:.60}; export the model again"
        )
    return manifest


def _wrong_field(manifest: dict[str, Any]) -> str | None:
    """Name of the first field that is missing or has a wrong type; None if there is none."""
    for name, kind in FIELDS.items():
        if name not in manifest or not isinstance(manifest[name], kind):
            return name
    if len(manifest["patch"]) != 2 or not all(type(side) is int and side > 0 for side in manifest["patch"]):
        return "patch"
    return None if all(isinstance(manifest["graphs"].get(view), str) for view in VIEWS) else "graphs"
