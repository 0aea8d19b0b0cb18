"""Fuses two or more models into one encoder by concatenating their descriptors, which averages similarities.

For unit descriptors a_k of a photo and b_k of a tile, the dot product of [a_1, a_2] / sqrt(2) and [b_1, b_2] / sqrt(2)
is the mean of the cosines a_1 b_1 and a_2 b_2. The sum of two similarity matrices in P-BEV (panorama against tile and
bird's-eye view against tile) therefore needs only one descriptor, and indexes and stores work unchanged at twice the
size.
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
    """Preprocessing of several encoders: their pixel values are flattened and concatenated.

    Args:
        processors: Image processor of each branch.
    """

    def __init__(self, processors: Sequence[Any]) -> None:
        self.processors = list(processors)

    @property
    def view_sizes(self) -> Mapping[str, Mapping[str, int]]:
        """Image sizes of the first branch."""
        sizes: Mapping[str, Mapping[str, int]] = self.processors[0].view_sizes
        return sizes

    @view_sizes.setter
    def view_sizes(self, sizes: Mapping[str, Mapping[str, int]]) -> None:
        if sizes != self.view_sizes:
            raise GenGeoError("the branches of a fused model have their own image sizes: leave the size out")

    @property
    def view_transforms(self) -> dict[str, str]:
        """View transforms of all branches."""
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
        """Split packed pixel values into (B, 3, H, W) for each branch."""
        sizes = [(p.view_sizes[view]["height"], p.view_sizes[view]["width"]) for p in self.processors]
        parts = packed.squeeze(2).split([math.prod(size) for size in sizes], dim=2)
        return [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


class FusedEncoder(Encoder):
    """An encoder whose descriptors are the concatenated descriptors of several encoders.

    Args:
        branches: Two or more encoders on one device, in the order of their descriptors.

    Raises:
        GenGeoError: There are fewer than two encoders, or they are on different devices.
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
        """Not supported: there are several models.

        Raises:
            GenGeoError: Always.
        """
        raise GenGeoError("a fused model computes only descriptors: use one of the models from which it was made")

    @property
    def dim(self) -> int:
        """Sum of the numbers of values of the branches."""
        return sum(branch.dim for branch in self.branches)

    @property
    def truncate_dim(self) -> None:
        """None: fused descriptors are not truncated."""
        return

    def truncate(self, dim: int) -> None:
        """Not supported: the first values are those of the first branch.

        Raises:
            GenGeoError: Always.
        """
        raise GenGeoError("a fused model cannot be truncated: truncate the models, then fuse them")

    def scale_input(self, scale: float | Literal["fast"]) -> None:
        """Not supported: the branches have different image sizes.

        Raises:
            GenGeoError: Always.
        """
        raise GenGeoError("a fused model has several models without a common input scale: leave input_scale out")

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
        """Encode packed pixel values of `FusedProcessor`: concatenated descriptors, float32 (B, dim)."""
        fused: Any = self.processor
        parts = fused.split(torch.as_tensor(pixels), view)
        found = [branch.encode_pixels(part, view) for branch, part in zip(self.branches, parts, strict=True)]
        joined: np.ndarray = np.concatenate(found, axis=1) / np.float32(len(found) ** 0.5)
        return joined


def fuse(models: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> Path:
    """Write several checkpoints to one directory, which `Encoder.from_pretrained` loads as one encoder.

    Args:
        models: Checkpoint directories or Hub ids, in the order of their descriptors.
        out: Directory to write; it is created atomically.
        overwrite: Replace an earlier fusion.

    Returns:
        The path of the directory.

    Raises:
        GenGeoError: A model cannot be read, or is an export or a fusion; or `out` holds something else.
    """
    check_replaceable(out, KIND, overwrite)
    encoders = [Encoder.from_pretrained(name, device="cpu") for name in models]
    if any(isinstance(encoder, FusedEncoder) for encoder in encoders):
        raise GenGeoError("one of the models is fused already: give the models from which it was made")
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
    """Load a fused encoder from a directory that `fuse` wrote.

    Args:
        folder: Directory with `gengeo_fusion.json`.
        truncate_dim: Not supported; must be None.
        options: Arguments of `Encoder.from_pretrained` for each branch.

    Raises:
        GenGeoError: The record is damaged, a branch is missing or was changed, or an option is not supported.
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
