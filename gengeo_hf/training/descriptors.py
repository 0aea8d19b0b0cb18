"""Descriptors of a table's images in the middle of a training, by all processes together: for mining and validation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from gengeo_hf.encoding.encoder import Encoder, View
from gengeo_hf.encoding.engine import encode_images
from gengeo_hf.model import GenGeoImageProcessor

_GATHERED_ROWS = 4096  # of each process at a time: 16 MB of descriptors


def encode_together(
    images: Sequence[Any],
    view: View,
    accelerator: Accelerator,
    encoder: Encoder,
    rows: np.ndarray | None = None,
    readers: int = 1,
) -> np.ndarray:
    """Encode rows of a table in the precision of the training; the model is left in evaluation mode.

    Every process encodes a part of whole batches, so descriptors do not depend on the number of processes.

    Args:
        images: All images of a table.
        view: "ground" or "aerial".
        accelerator: For the processes and the precision.
        encoder: Model, preprocessing and batch size.
        rows: Rows to encode; None for all.
        readers: Number of threads of each process that read images.

    Returns:
        Unit descriptors, float32 (rows, dim), the same on every process.

    Raises:
        GenGeoError: An image is missing or broken, and `images` has no stand-in for it.
    """
    wanted = np.arange(len(images)) if rows is None else rows
    readers = max(1, readers)
    return in_parts(
        wanted, lambda own: encode_images(encoder, images, view, own, readers=readers), accelerator, encoder
    )


def in_parts(
    wanted: np.ndarray, encode: Callable[[np.ndarray], np.ndarray], accelerator: Accelerator, encoder: Encoder
) -> np.ndarray:
    """Encode rows by all processes, each a part of whole batches; see `encode_together`.

    Args:
        wanted: Rows.
        encode: Rows to unit descriptors, float32 (rows, dim).
        accelerator: For the processes and the precision.
        encoder: Its model is left in evaluation mode, and its batch size is that of a part.
    """
    encoder.model.eval()
    batches = -(-len(wanted) // encoder.batch_size)
    share = -(-batches // accelerator.num_processes) * encoder.batch_size
    own = wanted[accelerator.process_index * share : (accelerator.process_index + 1) * share]
    with accelerator.autocast():
        part = encode(own)
    return gather_parts(part, len(wanted), share, accelerator)


def gather_parts(part: np.ndarray, count: int, share: int, accelerator: Accelerator) -> np.ndarray:
    """Concatenate what each process has, so that all continue with the very same array.

    Args:
        part: (rows, width) of this process.
        count: Rows of all processes together.
        share: Rows of every process but the last ones, which may have fewer.
        accelerator: For the processes.
    """
    if accelerator.num_processes == 1:
        return part
    out = np.empty((count, part.shape[1]), dtype=part.dtype)
    for first in range(0, share, _GATHERED_ROWS):
        size = min(_GATHERED_ROWS, share - first)
        padded = np.zeros((size, part.shape[1]), dtype=part.dtype)
        some = part[first : first + size]
        padded[: len(some)] = some
        every = accelerator.gather(torch.from_numpy(padded).to(accelerator.device)).cpu().numpy()
        for process in range(accelerator.num_processes):
            start = process * share + first
            end = min(start + size, (process + 1) * share, count)
            if end > start:
                out[start:end] = every[process * size : process * size + end - start]
    return out


def normalise(pixels: torch.Tensor, processor: GenGeoImageProcessor) -> torch.Tensor:
    """uint8 or 0..255 float (B, 3, H, W) to the model's range, as the processor does for one image."""
    mean = torch.tensor(processor.image_mean, device=pixels.device)[:, None, None]
    std = torch.tensor(processor.image_std, device=pixels.device)[:, None, None]
    return (pixels.float() / 255 - mean) / std
