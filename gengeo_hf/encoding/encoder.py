"""Images to descriptors: a checkpoint, its preprocessing and a device, as one object.

Before: photos or tiles. After: unit descriptors for the index, for mining and for evaluation.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import open_image
from gengeo_hf.common.transfer import first_line
from gengeo_hf.encoding.backends.exported import ExportedGraphs, find_export
from gengeo_hf.encoding.backends.loaded import LoadedModel
from gengeo_hf.encoding.backends.onnx import OnnxBackend
from gengeo_hf.encoding.backends.protocol import Backend, View
from gengeo_hf.encoding.backends.torch import TorchBackend
from gengeo_hf.encoding.backends.trial import Choice, check_words, choose

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

TRAINING_RECORD = "gengeo_training.json"


class Encoder:
    """A GenGeo model with its image processor, and the backend that computes.

    Args:
        model: it is put into evaluation mode on `device`; or the graphs of an ONNX export, which have no model.
        processor: the preprocessing that the model was trained with.
        device: for example `cuda`, `cuda:1`, `cpu`; None takes a GPU when there is one.
        batch_size: images in one forward pass.
        backend: "torch", "openvino", or "auto" for the faster one; "onnx" for exported graphs.
        dtype: "float32" or "bfloat16" to multiply in, "auto" for the faster one that agrees with float32; None leaves
            the precision of the weights.
        images: how many images are going to be described, where that is known: few are not worth a trial.

    Raises:
        GenGeoError: this machine has no such device or backend, or batches would be empty.

    Example:
        >>> encoder = Encoder.from_pretrained("./gengeo-cvusa")
        >>> descriptors = encoder.encode(["photo.jpg"], view="ground")  # float32 (1, 1024)
    """

    model: GenGeoModel  # not there for exported graphs: what needs token maps (`gengeo_hf.explain`) asks for it

    def __init__(
        self,
        model: GenGeoModel | ExportedGraphs,
        processor: GenGeoImageProcessor,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        backend: str = "torch",
        dtype: str | None = None,
        images: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise GenGeoError(f"at least one image must be encoded at a time, found batch_size={batch_size}")
        check_words(backend, dtype or "auto")
        self.processor, self.batch_size = processor, batch_size
        self.training_record: dict[str, Any] = {}
        self.source: LoadedModel | ExportedGraphs
        if isinstance(model, ExportedGraphs):
            if dtype == "bfloat16":
                raise GenGeoError("--backend onnx computes in float32: leave --dtype out, or take another backend")
            graphs = OnnxBackend(model, device)
            self.source, self.device, self.choice = model, graphs.device, Choice(graphs)
            return
        if backend == "onnx":
            raise GenGeoError("backend onnx runs exported graphs, found a model in memory: use Encoder.from_pretrained")
        on_cpu = backend == "openvino" and device is None  # it has no other place
        self.device = _usable(device or ("cuda" if torch.cuda.is_available() and not on_cpu else "cpu"))
        self.model = model
        self.model.to(self.device)  # type: ignore[arg-type]  # the library's annotation loses `self`
        self.model.eval()
        self.source = LoadedModel(model, processor)
        plain = backend == "torch" and dtype is None
        self.choice = (
            Choice(TorchBackend(model)) if plain else choose(model, processor, backend, dtype or "auto", images)
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        backend: str = "torch",
        truncate_dim: int | None = None,
        dtype: str | torch.dtype | None = None,
        images: int | None = None,
        **kwargs: Any,
    ) -> Encoder:
        """Load model, preprocessing and training record from a checkpoint folder or a Hub id.

        Args:
            name: a folder with config.json and model.safetensors, or `organisation/name` on the Hub.
            device: see the class.
            batch_size: see the class.
            backend: "torch" or "openvino" for the weights, "onnx" for the files that `gengeo export --onnx` put
                beside them; "auto" takes the faster of the first two.
            truncate_dim: see `truncate`; None keeps the width that the checkpoint asks for.
            dtype, images: see the class. A `torch.dtype` is the precision that the weights are loaded in, which gives
                another fingerprint.
            kwargs: passed to `GenGeoModel.from_pretrained`, for example `revision`; exported graphs know `revision`,
                `token` and `cache_dir`.

        Raises:
            GenGeoError: nothing is there, it is not a GenGeo checkpoint, or the backend cannot be had.
        """
        if isinstance(dtype, torch.dtype):
            kwargs["dtype"], dtype = dtype, None
        check_words(backend, dtype or "auto")
        found: tuple[GenGeoModel | ExportedGraphs, GenGeoImageProcessor, dict[str, Any]]
        found = _exported(name, **kwargs) if backend == "onnx" else _loaded(name, **kwargs)
        model, processor, record = found
        encoder = cls(model, processor, device, batch_size, backend, dtype, images)
        encoder.training_record = record
        if truncate_dim is not None:
            encoder.truncate(truncate_dim)
        return encoder

    @property
    def backend(self) -> Backend:
        """What computes."""
        return self.choice.backend

    @property
    def computed_by(self) -> str:
        """The backend and its precision in words, for manifests: "torch float32"."""
        return f"{self.backend.name} {self.backend.dtype}"

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return self.source.truncate_dim or self.source.whole_dim

    @property
    def truncate_dim(self) -> int | None:
        """The width that descriptors are cut to, None for whole ones."""
        return self.source.truncate_dim

    @property
    def patch(self) -> int:
        """Width in pixels of what becomes one token."""
        return self.source.patch

    @property
    def ground_camera(self) -> str | None:
        """What the ground images of training were: "panorama", "photo", or None where the checkpoint does not say."""
        return self.source.ground_view[0]

    @property
    def ground_vertical_fov(self) -> float | None:
        """Degrees of elevation that the panoramas of training show, None where the checkpoint does not say."""
        return self.source.ground_view[1]

    def truncate(self, dim: int) -> None:
        """Cut descriptors to their first `dim` values and normalise them again: smaller indexes, faster search.

        A model whose loss trained the prefixes (`matryoshka_dims`) loses little by it.

        Raises:
            GenGeoError: the model's descriptors have fewer values.
        """
        whole = self.source.whole_dim
        if not 1 <= dim <= whole:
            raise GenGeoError(f"descriptors have {whole} values: they cannot be cut to {dim}")
        if dim != self.dim:
            self.source.truncate(dim)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and the preprocessing: descriptors of two fingerprints must never be compared.

        Backends do not count: their descriptors agree, see `gengeo_hf.encoding.backends.protocol.LOWEST_COSINE`.
        """
        return self.source.fingerprint()

    def encode(self, images: Sequence[Any], view: View, progress: bool = False) -> np.ndarray:
        """Descriptors of images, in their order.

        Args:
            images: paths, bytes, PIL images or uint8 arrays (height, width, 3).
            view: "ground" for photos, "aerial" for tiles: it sets the size, and the head of a non-shared model.
            progress: show a bar with images per second.

        Returns:
            Unit descriptors, float32 (images, dim).

        Raises:
            GenGeoError: an image is missing or broken.
        """
        out = np.empty((len(images), self.dim), dtype=np.float32)
        row = 0
        for block in self.encode_stream(_with_bar(images, view) if progress else images, view):
            out[row : row + len(block)] = block
            row += len(block)
        return out

    @torch.inference_mode()
    def encode_stream(self, images: Iterable[Any], view: View) -> Iterator[np.ndarray]:
        """Like `encode`, one batch at a time, for more images than fit in memory.

        Yields:
            Unit descriptors, float32 (at most batch_size, dim).
        """
        iterator = iter(images)
        while batch := [as_image(image) for image in itertools.islice(iterator, self.batch_size)]:
            inputs = self.processor(batch, view=view, return_tensors="pt")  # type: ignore[call-arg]  # valid_kwargs
            yield self.describe(inputs["pixel_values"], view)

    def describe(self, pixels: torch.Tensor, view: View) -> np.ndarray:
        """Unit descriptors, float32 (B, dim), of pixel values (B, 3, H, W) on any device.

        Raises:
            ValueError: the model cannot take images of this size.
        """
        found = self.backend.describe(pixels, view)
        if found.shape[1] > self.dim:  # torch cuts by itself; graphs have the width that they were made with
            found = found[:, : self.dim]
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        return found


def _loaded(name: str | Path, **kwargs: Any) -> tuple[GenGeoModel, GenGeoImageProcessor, dict[str, Any]]:
    """Model, preprocessing and training record of a checkpoint folder or Hub id."""
    from transformers import AutoConfig

    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise GenGeoError(f"{name} is a folder without config.json; give the folder of a GenGeo checkpoint")
    # All three from one place: preprocessing of another revision would silently change descriptors.
    where = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in kwargs}
    try:
        # Nobody is asked whether code of a stranger may run: it may not.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
    except Exception as error:  # a damaged file raises whatever its reader happens to meet
        raise GenGeoError(f"no GenGeo checkpoint at {name}: {first_line(error)}") from error
    if config.model_type != "gengeo":
        raise GenGeoError(
            f"{name} holds a {config.model_type!r} model, not a GenGeo checkpoint; "
            "a bare DINOv2 gives no place descriptor before it is trained (see training/train.py)"
        )
    try:
        model = GenGeoModel.from_pretrained(name, **kwargs)
        processor = GenGeoImageProcessor.from_pretrained(name, **where)
    except Exception as error:  # a damaged file raises whatever its reader happens to meet
        why = " ".join(str(error).split()) or type(error).__name__
        raise GenGeoError(f"the checkpoint {name} cannot be read ({why:.300}); fetch or save it again") from error
    return model, processor, training_record(name, **where)


def _exported(name: str | Path, **where: Any) -> tuple[ExportedGraphs, GenGeoImageProcessor, dict[str, Any]]:
    """The same of an ONNX export, without the weights."""
    graphs, processor, home = find_export(name, **where)
    return graphs, processor, training_record(home)


def training_record(name: str | Path, revision: str | None = None, **where: Any) -> dict[str, Any]:
    """What training wrote beside a checkpoint, in a folder or on the Hub; empty where there is no such file.

    Args:
        name: the folder or Hub id.
        revision: branch, tag or commit on the Hub.
        where: `token`, `cache_dir`, `subfolder`, the same as for the weights.

    Raises:
        GenGeoError: the file is there and is no such record.
    """
    from transformers.utils import cached_file

    path = cached_file(
        str(name), TRAINING_RECORD, revision=revision, **where,
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    try:
        return {} if path is None else dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise GenGeoError(f"{path} is no training record ({error}); fetch or save the checkpoint again") from error


def _usable(name: str | torch.device) -> torch.device:
    """The device, after it has held a tensor: the word may be unknown, the card or its support missing."""
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise GenGeoError(f"the device {name} cannot be used here: {reason}; give --device cpu, or none") from error


def as_image(image: Any) -> Any:
    """Open what is a path or bytes, turn a PIL image upright, pass on what is an array.

    Raises:
        GenGeoError: an image is missing or broken.
    """
    if isinstance(image, dict):  # a row of `datasets.Image(decode=False)`
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    # A photo from `Image.open` must have the descriptor of its file.
    return open_image(image) if isinstance(image, str | Path | bytes | Image.Image) else image


def _with_bar(images: Sequence[Any], view: View) -> Iterable[Any]:
    """The same images behind a progress bar."""
    from tqdm.auto import tqdm

    return tqdm(images, desc=f"encode {view}", unit="image", leave=False)
