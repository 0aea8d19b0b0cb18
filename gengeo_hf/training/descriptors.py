"""Encode the images of a table with all processes of a training, for mining and validation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from gengeo_hf.encoding.encoder import Encoder, View
from gengeo_hf.encoding.engine import encode_images
from gengeo_hf.model import GenGeoImageProcessor

_GATHERED_ROWS = 4096  # rows per process in one gather: 16 MB of descriptors


def encode_distributed(
    images: Sequence[Any],
    view: View,
    accelerator: Accelerator,
    encoder: Encoder,
    rows: np.ndarray | None = None,
    readers: int = 1,
) -> np.ndarray:
    """Encode rows of a table in the precision of the training; the model is left in evaluation mode.

    Every process encodes complete batches, so that descriptors do not depend on the number of processes.

    Args:
        images: All images of a table.
        view: View of the images, "ground" or "aerial".
        accelerator: Accelerator with the processes and the precision.
        encoder: Model, preprocessing and batch size.
        rows: Rows to encode; None for all.
        readers: Number of threads per process that read images.

    Returns:
        Unit descriptors, float32 (rows, dim), the same on every process.

    Raises:
        GenGeoError: An image is missing or broken, and `images` does not replace it.
    """
    wanted = np.arange(len(images)) if rows is None else rows
    readers = max(1, readers)
    return encode_parts(
        wanted, lambda own: encode_images(encoder, images, view, own, readers=readers), accelerator, encoder
    )


def encode_parts(
    wanted: np.ndarray, encode: Callable[[np.ndarray], np.ndarray], accelerator: Accelerator, encoder: Encoder
) -> np.ndarray:
    """Encode rows with all processes, each with complete batches; see `encode_distributed`.

    Args:
        wanted: Rows to encode.
        encode: Function that encodes rows to unit descriptors, float32 (rows, dim).
        accelerator: Accelerator with the processes and the precision.
        encoder: Encoder with the batch size; its model is left in evaluation mode.

    Returns:
        Unit descriptors, float32 (rows, dim), the same on every process.
    """
    encoder.model.eval()
    batches = -(-len(wanted) // encoder.batch_size)
    share = -(-batches // accelerator.num_processes) * encoder.batch_size
    own = wanted[accelerator.process_index * share : (accelerator.process_index + 1) * share]
    with accelerator.autocast():
        part = encode(own)
    return gather_parts(part, len(wanted), share, accelerator)


def gather_parts(part: np.ndarray, count: int, share: int, accelerator: Accelerator) -> np.ndarray:
    """Concatenate the rows of all processes, so that all continue with the same array.

    Args:
        part: Rows of this process, shape (rows, width).
        count: Number of rows of all processes.
        share: Number of rows of each process, except the last ones, which may have fewer.
        accelerator: Accelerator with the processes.

    Returns:
        Array of shape (count, width).
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
    """Normalise pixels 0..255 of any dtype, (B, 3, H, W), to the range of the model, as the processor does."""
    mean = torch.tensor(processor.image_mean, device=pixels.device)[:, None, None]
    std = torch.tensor(processor.image_std, device=pixels.device)[:, None, None]
    return (pixels.float() / 255 - mean) / std
