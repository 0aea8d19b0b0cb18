"""Images to descriptors: a checkpoint, its preprocessing and a device, as one object.

Before: photos or tiles. After: unit descriptors for the index, for mining and for evaluation.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from gengeo_hf.data.images import open_image
from gengeo_hf.errors import GenGeoError
from gengeo_hf.fingerprint import fingerprint

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

View = Literal["ground", "aerial"]
TRAINING_RECORD = "gengeo_training.json"
BACKENDS = ("torch", "onnx")


class Encoder:
    """A GenGeo model with its image processor.

    Args:
        model: it is put into evaluation mode on `device`.
        processor: the preprocessing that the model was trained with.
        device: for example `cuda`, `cuda:1`, `cpu`; None takes a GPU when there is one.
        batch_size: images in one forward pass.

    Raises:
        GenGeoError: this machine has no such device, or batches would be empty.

    Example:
        >>> encoder = Encoder.from_pretrained("./gengeo-cvusa")
        >>> descriptors = encoder.encode(["photo.jpg"], view="ground")  # float32 (1, 1024)
    """

    def __init__(
        self,
        model: GenGeoModel,
        processor: GenGeoImageProcessor,
        device: str | torch.device | None = None,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise GenGeoError(f"at least one image must be encoded at a time, found batch_size={batch_size}")
        self.device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model
        self.model.to(torch.device(self.device))  # type: ignore[arg-type]  # the library's annotation loses `self`
        self.model.eval()
        self.processor = processor
        self.batch_size = batch_size
        self.training_record: dict[str, Any] = {}
        self._fingerprint: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        backend: str = "torch",
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> Encoder:
        """Load model, preprocessing and training record from a checkpoint folder or a Hub id.

        Args:
            name: a folder with config.json and model.safetensors, or `organisation/name` on the Hub.
            device: see the class.
            batch_size: see the class.
            backend: "torch", or "onnx" for the files that `gengeo export --onnx` put beside the checkpoint.
            truncate_dim: see `truncate`; None keeps the width that the checkpoint asks for.
            kwargs: passed to `GenGeoModel.from_pretrained`, for example `dtype` or `revision`.

        Raises:
            GenGeoError: nothing is there, or it is not a GenGeo checkpoint.
        """
        if backend not in BACKENDS:
            raise GenGeoError(f"unknown backend {backend!r}: expected {' or '.join(BACKENDS)}")
        if backend == "onnx":
            from gengeo_hf.onnx_encoder import OnnxEncoder

            encoder: Encoder = OnnxEncoder.load(name, device, batch_size, **kwargs)
        else:
            encoder = cls._with_torch(name, device, batch_size, **kwargs)
        if truncate_dim is not None:
            encoder.truncate(truncate_dim)
        return encoder

    @classmethod
    def _with_torch(
        cls, name: str | Path, device: str | torch.device | None, batch_size: int, **kwargs: Any
    ) -> Encoder:
        from transformers import AutoConfig

        from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

        if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
            raise GenGeoError(f"{name} is a folder without config.json; give the folder of a GenGeo checkpoint")
        # All three from one place: preprocessing of another revision would silently change descriptors.
        where = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in kwargs}
        try:
            config = AutoConfig.from_pretrained(name, **where)
        except (OSError, ValueError, KeyError) as error:
            first_line = str(error).splitlines()[0]
            raise GenGeoError(f"no GenGeo checkpoint at {name}: {first_line}") from error
        if config.model_type != "gengeo":
            raise GenGeoError(
                f"{name} holds a {config.model_type!r} model, not a GenGeo checkpoint; "
                "a bare DINOv2 gives no place descriptor before it is trained (see training/train.py)"
            )
        try:
            model = GenGeoModel.from_pretrained(name, **kwargs)
            processor = GenGeoImageProcessor.from_pretrained(name, **where)
        except Exception as error:  # a damaged file raises whatever its reader happens to meet
            raise GenGeoError(f"the checkpoint {name} cannot be read ({error}); fetch or save it again") from error
        encoder = cls(model, processor, device, batch_size)
        encoder.training_record = training_record(name, kwargs.get("revision"))
        return encoder

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return int(self.model.config.truncate_dim or self._whole_dim)

    @property
    def _whole_dim(self) -> int:
        """Length of a descriptor that is not cut."""
        head: Any = next(iter(self.model.heads.values()))
        return int(self.model.config.descriptor_dim or head.aggregator.width_out)

    @property
    def truncate_dim(self) -> int | None:
        """The width that descriptors are cut to, None for whole ones."""
        width: int | None = self.model.config.truncate_dim
        return width

    @property
    def patch(self) -> int:
        """Width in pixels of what becomes one token."""
        from gengeo_hf.model.backbones import patch_sides

        return patch_sides(self.model.config.backbone_config)[1]

    def truncate(self, dim: int) -> None:
        """Cut descriptors to their first `dim` values and normalise them again: smaller indexes, faster search.

        A model whose loss trained the prefixes (`matryoshka_dims`) loses little by it.

        Raises:
            GenGeoError: the model's descriptors have fewer values.
        """
        if not 1 <= dim <= self._whole_dim:
            raise GenGeoError(f"descriptors have {self._whole_dim} values: they cannot be cut to {dim}")
        if dim == self.dim:
            return
        self.model.config.truncate_dim = dim
        for head in self.model.heads.values():
            head.truncate_dim = dim  # type: ignore[assignment]  # a plain attribute of GenGeoHead
        self._fingerprint = None

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and the preprocessing: descriptors of two fingerprints must never be compared."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.model, self.processor)
        return self._fingerprint

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
        while batch := [_as_image(image) for image in itertools.islice(iterator, self.batch_size)]:
            inputs = self.processor(batch, view=view, return_tensors="pt")  # type: ignore[call-arg]  # valid_kwargs
            yield self.describe(inputs["pixel_values"], view)

    @torch.inference_mode()
    def describe(self, pixels: torch.Tensor, view: View) -> np.ndarray:
        """Unit descriptors, float32 (B, dim), of pixel values (B, 3, H, W) on any device."""
        descriptors: np.ndarray = self.model(pixels.to(self.device), view=view).pooler_output.float().cpu().numpy()
        return descriptors


def training_record(name: str | Path, revision: str | None = None) -> dict[str, Any]:
    """What training wrote beside a checkpoint, in a folder or on the Hub; empty where there is no such file.

    Raises:
        GenGeoError: the file is there and is no such record.
    """
    from transformers.utils import cached_file

    path = cached_file(
        str(name), TRAINING_RECORD, revision=revision,
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
        reason = str(error).splitlines()[0]
        raise GenGeoError(f"the device {name} cannot be used here: {reason}; give --device cpu, or none") from error


def _as_image(image: Any) -> Any:
    """Open what is a path or bytes; pass on what is decoded already."""
    if isinstance(image, dict):  # a row of `datasets.Image(decode=False)`
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    return open_image(image) if isinstance(image, str | Path | bytes) else image


def _with_bar(images: Sequence[Any], view: View) -> Iterable[Any]:
    """The same images behind a progress bar."""
    from tqdm.auto import tqdm

    return tqdm(images, desc=f"encode {view}", unit="image", leave=False)
