"""Two or more models as one encoder: their descriptors one behind the other, so that similarities are averaged.

For unit descriptors a_k of a photo and b_k of a tile, the dot product of [a_1, a_2] / sqrt(2) and [b_1, b_2] / sqrt(2)
is the mean of the cosines a_1 b_1 and a_2 b_2. So P-BEV's sum of two similarity matrices, panorama against tile and
bird's-eye view against tile, is one ordinary descriptor, and each index and store works unchanged at twice the size.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, check_replaceable, write_json
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.encoding.protocol import View

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoModel

FUSION = "gengeo_fusion.json"
KIND = "fusion"


class FusedProcessor:
    """The preprocessing of several encoders: pixel values of all, flattened and one behind the other.

    Args:
        processors: Of the branches.
    """

    def __init__(self, processors: Sequence[Any]) -> None:
        self.processors = list(processors)

    @property
    def view_sizes(self) -> Mapping[str, Mapping[str, int]]:
        """Sizes of the first branch."""
        sizes: Mapping[str, Mapping[str, int]] = self.processors[0].view_sizes
        return sizes

    @view_sizes.setter
    def view_sizes(self, sizes: Mapping[str, Mapping[str, int]]) -> None:
        if sizes != self.view_sizes:
            raise GenGeoError("a fused model has one size for each of its branches: leave the size of images out")

    @property
    def view_transforms(self) -> dict[str, str]:
        """The views that any branch changes images to."""
        found: dict[str, str] = {}
        for processor in self.processors:
            found |= processor.view_transforms or {}
        return found

    def to_dict(self) -> dict[str, Any]:
        """Settings of all branches."""
        return {"branches": [processor.to_dict() for processor in self.processors]}

    def __call__(self, images: Any, *, view: str, **options: Any) -> dict[str, torch.Tensor]:
        """Prepare images; `pixel_values` is (B, 3, 1, pixels of all branches)."""
        found = [processor(images, view=view, **options)["pixel_values"] for processor in self.processors]
        return {"pixel_values": torch.cat([pixels.flatten(2) for pixels in found], dim=2).unsqueeze(2)}

    def split(self, packed: torch.Tensor, view: str) -> list[torch.Tensor]:
        """Pixel values (B, 3, H, W) of each branch, from what a call gave."""
        sizes = [(p.view_sizes[view]["height"], p.view_sizes[view]["width"]) for p in self.processors]
        parts = packed.squeeze(2).split([math.prod(size) for size in sizes], dim=2)
        return [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


class FusedEncoder(Encoder):
    """Several encoders as one; see the module.

    Args:
        branches: At least two, whose descriptors are joined in this order.

    Raises:
        GenGeoError: There are fewer than two, or one is truncated or on another device.
    """

    can_mirror = False

    def __init__(self, branches: Sequence[Encoder]) -> None:
        if len(branches) < 2:
            raise GenGeoError(f"a fusion needs at least two models, found {len(branches)}")
        if len({str(branch.device) for branch in branches}) > 1:
            raise GenGeoError("the models of a fusion must be on one device")
        first = branches[0]
        vars(self).update(vars(first))
        self.branches = list(branches)
        fused: Any = FusedProcessor([branch.processor for branch in branches])
        self.processor = fused

    @property
    def model(self) -> GenGeoModel:
        """Refused: there are several.

        Raises:
            GenGeoError: Always.
        """
        raise GenGeoError("a fused model has descriptors only: use one of the models that it was made from")

    @property
    def dim(self) -> int:
        """Number of values of all branches together."""
        return sum(branch.dim for branch in self.branches)

    @property
    def truncate_dim(self) -> None:
        """Fused descriptors are whole."""
        return

    def truncate(self, dim: int) -> None:
        """Refused: the first values are those of the first branch alone.

        Raises:
            GenGeoError: Always.
        """
        raise GenGeoError("a fused model cannot be truncated: truncate the models, then fuse them")

    def scale_input(self, scale: float | Literal["fast"]) -> None:
        """Refused: the branches have no common size.

        Raises:
            GenGeoError: Always.
        """
        raise GenGeoError("a fused model joins several models, which have no common input scale: leave it out")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Settings of the branches' image processors."""
        return {"branches": [branch.preprocessing for branch in self.branches]}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all branches, in their order."""
        whole = " ".join(["fusion", *(branch.fingerprint for branch in self.branches)])
        return hashlib.sha256(whole.encode()).hexdigest()

    def encode_pixels(self, pixels: torch.Tensor | np.ndarray, view: View) -> np.ndarray:
        """Joined descriptors, float32 (B, dim), of what the processor gave."""
        fused: Any = self.processor
        parts = fused.split(torch.as_tensor(pixels), view)
        found = [branch.encode_pixels(part, view) for branch, part in zip(self.branches, parts, strict=True)]
        joined: np.ndarray = np.concatenate(found, axis=1) / np.float32(len(found) ** 0.5)
        return joined


def fuse(models: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> Path:
    """Put several checkpoints into one directory, which `Encoder.from_pretrained` loads as one encoder.

    Args:
        models: Directories of checkpoints or Hub ids, in the order of their descriptors.
        out: Directory to write; it appears whole or not at all.
        overwrite: Replace an earlier fusion.

    Raises:
        GenGeoError: A model cannot be read, is exported or fused itself, or `out` holds something else.
    """
    check_replaceable(out, KIND, overwrite)
    encoders = [Encoder.from_pretrained(name, device="cpu") for name in models]
    if any(isinstance(encoder, FusedEncoder) for encoder in encoders):
        raise GenGeoError("one of the models is fused already: give the models that it was made from")
    fused = FusedEncoder(encoders)
    with atomic_folder(out, KIND) as folder:
        for number, (name, encoder) in enumerate(zip(models, encoders, strict=True)):
            target = folder / str(number)
            if Path(name).is_dir():
                shutil.copytree(name, target)
            else:
                encoder.model.save_pretrained(target)
                encoder.processor.save_pretrained(target)
        branches = [str(number) for number in range(len(models))]
        write_json(folder / FUSION, {"version": 1, "branches": branches, "fingerprint": fused.fingerprint})
    return Path(out)


def load_fusion(folder: Path, truncate_dim: int | None = None, **options: Any) -> FusedEncoder:
    """The encoder of a directory that `fuse` wrote.

    Args:
        folder: With `gengeo_fusion.json`.
        truncate_dim: Refused.
        options: Of `Encoder.from_pretrained`, for each branch.

    Raises:
        GenGeoError: The record is damaged, a branch is missing or was changed, or an option is one of single models.
    """
    if truncate_dim is not None or options.get("backend") == "onnx":
        raise GenGeoError(f"{folder} is a fused model: leave truncate_dim and backend onnx out")
    try:
        record = json.loads((folder / FUSION).read_text(encoding="utf-8"))
        names = [str(int(name)) for name in record["branches"]]
        stated = str(record["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise GenGeoError(f"{folder / FUSION} cannot be read ({error}): fuse the models again") from error
    encoder = FusedEncoder([Encoder.from_pretrained(folder / name, **options) for name in names])
    if options.get("dtype") is None and encoder.fingerprint != stated:
        raise GenGeoError(f"a model in {folder} was changed after it was fused: fuse the models again")
    return encoder
