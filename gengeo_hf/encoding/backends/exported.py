"""The files of `gengeo export --onnx`: what an encoder must know of a model without its weights in torch.

They come from the `onnx` folder of a checkpoint folder or Hub repository.
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
FOLDER = "onnx"  # inside a checkpoint folder
WEIGHTS = "model.safetensors"  # beside it
MANIFEST = "gengeo_onnx.json"
VIEWS = get_args(View)
INPUT, OUTPUT = "pixel_values", "descriptor"
FIELDS: dict[str, Any] = {  # of a manifest, and their types
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
    """One export: its manifest, and its files once they were compared with it.

    Args:
        folder: With the graphs, their weights and the manifest.
        processor: The checkpoint's image processor.

    Raises:
        GenGeoError: The manifest is missing or damaged, or belongs to other preprocessing.
    """

    def __init__(self, folder: Path, processor: Any) -> None:
        self.folder, self.manifest, self.processor = folder, _read_manifest(folder), processor
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
        """Number of values that descriptors are truncated to, None for whole ones."""
        return self._width or self.manifest["truncate_dim"]

    @property
    def dtype(self) -> str:
        """What the graphs multiply in: "float32" or "int8"."""
        return str(self.manifest.get("dtype", "float32"))

    def belongs_to_weights(self) -> bool:
        """Whether the weights beside the export are, byte for byte, those that it was made from.

        False too where the manifest does not say: exports of earlier versions.
        """
        stated, path = self.manifest.get("checkpoint"), self.folder.parent / WEIGHTS
        return stated is not None and path.is_file() and stated == size_and_sha256(path)

    @property
    def patch(self) -> int:
        """Width in pixels of what becomes one token."""
        return int(self.manifest["patch"][1])

    @property
    def patch_sides(self) -> tuple[int, int]:
        """Height and width in pixels of what becomes one token."""
        high, wide = self.manifest["patch"]
        return int(high), int(wide)

    @property
    def fewest_tokens(self) -> int:
        """Tokens that an image must have at least."""
        return int(self.manifest["fewest_tokens"])

    @property
    def ground_view(self) -> tuple[str | None, float | None]:
        """`ground_camera` and `ground_vertical_fov` of the checkpoint's configuration, which lies beside the graphs."""
        try:
            config = json.loads((self.folder.parent / "config.json").read_text(encoding="utf-8"))
            return config.get("ground_camera"), config.get("ground_vertical_fov")
        except (OSError, ValueError, AttributeError):
            return None, None

    def fingerprint(self) -> str:
        """That of the float32 checkpoint which was exported."""
        return truncated(self.manifest["fingerprint"], self.truncate_dim)

    def truncate(self, dim: int) -> None:
        """Truncate descriptors to their first `dim` values."""
        self._width = dim

    def check_size(self, height: int, width: int) -> None:
        """The checks that the model makes by itself, in its words; the graph has none.

        Args:
            height, width: Pixels.

        Raises:
            ValueError: Sides that are not whole patches, or too few patches for the head.
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
            GenGeoError: A file is missing or damaged, or the manifest states no hash of it.
        """
        name, files = self.manifest["graphs"][view], self.manifest["files"]
        if name not in files:
            raise GenGeoError(f"{self.folder / MANIFEST} names no hash of {name}: export the model again")
        for file, stated in files.items():
            path = self.folder / file
            if file in self._checked:
                continue
            if Path(file).name != file or not path.is_file() or size_and_sha256(path) != stated:
                raise GenGeoError(f"{path} is missing or damaged: fetch or export the model again")
            self._checked.add(file)
        return self.folder / name


@contextlib.contextmanager
def opening(path: Path, engine: str) -> Iterator[None]:
    """Turn whatever an engine raises about a graph into one line; for example weights that lie outside its folder."""
    try:
        yield
    except Exception as error:
        raise GenGeoError(f"{engine} cannot open {path} ({first_line(error)}): export the model again") from error


def size_and_sha256(path: Path) -> dict[str, Any]:
    """Size and hash of a file, as the manifest states them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def find_export(
    name: str | Path,
    folder: str = FOLDER,
    revision: str | None = None,
    token: Any = None,
    cache_dir: str | Path | None = None,
) -> tuple[ExportedGraphs, FileProcessor, Path]:
    """Open the ONNX export of a checkpoint folder or Hub id.

    Args:
        name: The folder or Hub id.
        folder: Which export of it, for example "onnx" or "onnx_int8".
        revision, token, cache_dir: Of the Hub, as huggingface_hub takes them.

    Returns:
        The export, the checkpoint's image processor, and the folder that both were read from.

    Raises:
        GenGeoError: There is none, or it cannot be read.
    """
    where = {"revision": revision, "token": token, "cache_dir": cache_dir}
    home = Path(name) if Path(name).is_dir() else _fetched(str(name), folder, where)
    if not (home / folder / MANIFEST).is_file():
        what, how = ("ONNX", "--onnx") if folder == FOLDER else (folder, "--int8 --calibrate PHOTOS")
        raise GenGeoError(f"{name} holds no {what} export: make one with gengeo export {name} OUT {how}, use OUT")
    processor = FileProcessor(home)
    return ExportedGraphs(home / folder, processor), processor, home


def _fetched(name: str, folder: str, where: dict[str, Any]) -> Path:
    """The files of a Hub repository that an encoder without torch reads."""
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
    """What of a manifest is missing or of another type than readers rely on; None where all is well."""
    for name, kind in FIELDS.items():
        if name not in manifest or not isinstance(manifest[name], kind):
            return name
    if len(manifest["patch"]) != 2 or not all(type(side) is int and side > 0 for side in manifest["patch"]):
        return "patch"
    return None if all(isinstance(manifest["graphs"].get(view), str) for view in VIEWS) else "graphs"
