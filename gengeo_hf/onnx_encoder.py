"""The encoder with onnxruntime behind it: the same descriptors from the files that `gengeo export --onnx` writes.

Before: a checkpoint folder (or Hub id) with an `onnx` folder. After: unit descriptors, as `gengeo_hf.encoder` gives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gengeo_hf.encoder import Encoder, View, training_record
from gengeo_hf.errors import GenGeoError
from gengeo_hf.fingerprint import preprocessing, truncated
from gengeo_hf.onnx_export import FOLDER, FORMAT, INPUT, MANIFEST, OUTPUT, described

FIELDS = (
    "format", "fingerprint", "truncate_dim", "dim", "patch", "whole_patches", "fewest_tokens", "preprocessing",
    "graphs", "files",
)  # fmt: skip


class OnnxEncoder(Encoder):
    """Describes images with onnxruntime. An index that torch's encoder made can be searched with it, and vice versa.

    It has no `model`: what needs token maps (`gengeo_hf.explain`) wants the encoder of torch.

    Args:
        folder: with the graphs, their weights and the manifest.
        processor: the checkpoint's image processor.
        device: "cpu" (also for None), or "cuda" with onnxruntime-gpu.
        batch_size: images in one run.

    Raises:
        GenGeoError: onnxruntime is missing, a file is missing or damaged, or belongs to other preprocessing.
    """

    def __init__(
        self, folder: Path, processor: Any, device: str | torch.device | None = None, batch_size: int = 32
    ) -> None:
        self.folder, self.processor, self.batch_size = folder, processor, batch_size
        self.device = torch.device(device or "cpu")
        self.manifest = _read_manifest(folder)
        if json.loads(json.dumps(preprocessing(processor))) != self.manifest["preprocessing"]:
            raise GenGeoError(
                f"{folder} was exported for other preprocessing than preprocessor_config.json beside it says: "
                "export it again with gengeo export --onnx"
            )
        self.training_record: dict[str, Any] = {}
        self._width: int | None = None
        self._sessions: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        name: str | Path,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        revision: str | None = None,
    ) -> OnnxEncoder:
        """Open a checkpoint folder or Hub id that holds an ONNX export.

        Raises:
            GenGeoError: see the class.
        """
        from gengeo_hf.model import GenGeoImageProcessor

        home = Path(name) if Path(name).is_dir() else _fetched(str(name), revision)
        if not (home / FOLDER / MANIFEST).is_file():
            raise GenGeoError(f"{name} holds no ONNX export: make one with gengeo export {name} OUT --onnx, use OUT")
        try:
            processor = GenGeoImageProcessor.from_pretrained(home)
        except (OSError, ValueError) as error:
            raise GenGeoError(f"{name} has no readable preprocessor_config.json: {error}") from error
        encoder = cls(home / FOLDER, processor, device, batch_size)
        encoder.training_record = training_record(home)
        return encoder

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return self._width or int(self.manifest["dim"])

    @property
    def truncate_dim(self) -> int | None:
        """The width that descriptors are cut to, None for whole ones."""
        return self._width or self.manifest["truncate_dim"]

    @property
    def patch(self) -> int:
        """Width in pixels of what becomes one token."""
        return int(self.manifest["patch"][1])

    @property
    def fingerprint(self) -> str:
        """That of the float32 checkpoint which was exported."""
        return truncated(self.manifest["fingerprint"], self.truncate_dim)

    def truncate(self, dim: int) -> None:
        """Cut descriptors to their first `dim` values, as `Encoder.truncate` does.

        Raises:
            GenGeoError: `dim` is not in 1..the width of the export.
        """
        if not 1 <= dim <= int(self.manifest["dim"]):
            raise GenGeoError(f"descriptors have {self.manifest['dim']} values: they cannot be cut to {dim}")
        if dim != self.dim:
            self._width = dim

    def describe(self, pixels: torch.Tensor, view: View) -> np.ndarray:
        """Unit descriptors, float32 (B, dim), of pixel values (B, 3, H, W).

        Raises:
            ValueError: the model cannot take images of this size.
        """
        self._check_size(*pixels.shape[2:])
        found: np.ndarray = self._session(view).run([OUTPUT], {INPUT: pixels.float().cpu().numpy()})[0]
        if self._width is None:
            return found
        found = found[:, : self._width]
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def _check_size(self, height: int, width: int) -> None:
        """The checks that the model makes by itself, in its words; the graph has none."""
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

    def _session(self, view: View) -> Any:
        """The graph of a view, opened when it is first needed."""
        graph = self.manifest["graphs"][view]
        if graph not in self._sessions:
            self._sessions[graph] = _opened(self.folder, self.manifest, graph, self.device)
        return self._sessions[graph]


def _fetched(name: str, revision: str | None) -> Path:
    """The files of a Hub repository that this encoder reads."""
    from gengeo_hf.exchange import retried

    def fetch() -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(name, revision=revision, allow_patterns=["*.json", f"{FOLDER}/*"])

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


def _opened(folder: Path, manifest: dict[str, Any], graph: str, device: torch.device) -> Any:
    """A session of onnxruntime, after the bytes were compared with the manifest."""
    try:
        import onnxruntime
    except ImportError as error:
        raise GenGeoError("--backend onnx needs onnxruntime: pip install 'gengeo_hf[onnx]'") from error
    for name, stated in manifest["files"].items():
        if Path(name).name != name or not (folder / name).is_file() or described(folder / name) != stated:
            raise GenGeoError(f"{folder / name} is missing or damaged: fetch or export the model again")
    if graph not in manifest["files"]:
        raise GenGeoError(f"{folder / MANIFEST} names no hash of {graph}: export the model again")
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise GenGeoError(f"this onnxruntime has no {provider}: install onnxruntime-gpu, or give --device cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # what OMP_NUM_THREADS asks for, as with torch
    return onnxruntime.InferenceSession(folder / graph, options, providers=[provider])


__all__ = ["OnnxEncoder"]
