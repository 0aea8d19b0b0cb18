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


class Encoder:
    """A GenGeo model with its image processor.

    Args:
        model: it is put into evaluation mode on `device`.
        processor: the preprocessing that the model was trained with.
        device: for example `cuda`, `cuda:1`, `cpu`; None takes a GPU when there is one.
        batch_size: images in one forward pass.

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
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model
        self.model.to(torch.device(self.device))  # type: ignore[arg-type]  # the library's annotation loses `self`
        self.model.eval()
        self.processor = processor
        self.batch_size = batch_size
        self.training_record: dict[str, Any] = {}
        self._fingerprint: str | None = None

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | torch.device | None = None, batch_size: int = 32, **kwargs: Any
    ) -> Encoder:
        """Load model, preprocessing and training record from a checkpoint folder or a Hub id.

        Args:
            name: a folder with config.json and model.safetensors, or `organisation/name` on the Hub.
            device: see the class.
            batch_size: see the class.
            kwargs: passed to `GenGeoModel.from_pretrained`, for example `dtype` or `revision`.

        Raises:
            GenGeoError: nothing is there, or it is not a GenGeo checkpoint.
        """
        from transformers import AutoConfig

        from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

        if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
            raise GenGeoError(f"{name} is a folder without config.json; give the folder of a GenGeo checkpoint")
        try:
            config = AutoConfig.from_pretrained(name)
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
            processor = GenGeoImageProcessor.from_pretrained(name)
        except Exception as error:  # a damaged file raises whatever its reader happens to meet
            raise GenGeoError(f"the checkpoint {name} cannot be read ({error}); fetch or save it again") from error
        encoder = cls(model, processor, device, batch_size)
        record = Path(name) / TRAINING_RECORD
        if record.is_file():
            encoder.training_record = json.loads(record.read_text(encoding="utf-8"))
        return encoder

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        config = self.model.config
        head: Any = next(iter(self.model.heads.values()))
        return int(config.truncate_dim or config.descriptor_dim or head.aggregator.width_out)

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
            pixels = inputs["pixel_values"].to(self.device)
            yield self.model(pixels, view=view).pooler_output.float().cpu().numpy()


def _as_image(image: Any) -> Any:
    """Open what is a path or bytes; pass on what is decoded already."""
    if isinstance(image, dict):  # a row of `datasets.Image(decode=False)`
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    return open_image(image) if isinstance(image, str | Path | bytes) else image


def _with_bar(images: Sequence[Any], view: View) -> Iterable[Any]:
    """The same images behind a progress bar."""
    from tqdm.auto import tqdm

    return tqdm(images, desc=f"encode {view}", unit="image", leave=False)
