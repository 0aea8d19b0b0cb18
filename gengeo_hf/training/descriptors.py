"""Descriptors of many images in the middle of a training, by all processes together.

Before: a table's images and the present weights. After: mining and validation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.loading import resized
from gengeo_hf.encoding.encoder import Encoder, View
from gengeo_hf.model import GenGeoImageProcessor
from gengeo_hf.training.shard import is_sharded


class _Pixels(Dataset[torch.Tensor | GenGeoError]):
    """Resized images of one view, uint8, for a loader's worker processes.

    An error that the user can mend is handed over, not raised: PyTorch would put a worker's traceback into its message.
    """

    def __init__(self, images: Sequence[Any], processor: Any, view: View) -> None:
        self.images, self.processor, self.view = images, processor, view

    def __getitems__(self, rows: list[int]) -> torch.Tensor | GenGeoError:
        """A batch, (B, 3, H, W)."""
        try:
            return resized(self.processor, [self.images[row] for row in rows], self.view)
        except GenGeoError as error:
            return GenGeoError(error)


def _as_it_is(batch: Any) -> Any:
    return batch


@torch.no_grad()  # not inference_mode: what a sharded model gathers here is used again in training
def describe(
    images: Sequence[Any],
    rows: np.ndarray,
    view: View,
    accelerator: Accelerator,
    encoder: Encoder,
    workers: int = 0,
) -> np.ndarray:
    """Describe some rows of a table in the training's precision; the model is left in evaluation mode.

    Batch number i is described by process i modulo their number, so the batches, and with them the descriptors, do not
    depend on how many processes there are. Nothing but the result grows with the number of images.

    Args:
        images: all images of a table.
        rows: which of them.
        view: "ground" or "aerial".
        accelerator: for the processes and the precision.
        encoder: model, preprocessing and batch size.
        workers: loader processes of each process.

    Returns:
        Unit descriptors, float32 (rows, dim), the same on every process.

    Raises:
        GenGeoError: an image is missing or broken, and `images` has no stand-in for it.
    """
    encoder.model.eval()
    size, processes = encoder.batch_size, accelerator.num_processes
    batches = [rows[first : first + size].tolist() for first in range(0, len(rows), size)]
    mine = batches[accelerator.process_index :: processes]
    table = _Pixels(images, encoder.processor, view)
    loader = iter(DataLoader(table, batch_sampler=mine, collate_fn=_as_it_is, num_workers=workers))
    out = np.empty((len(rows), encoder.dim), dtype=np.float32)
    for first in range(0, len(batches), processes):
        block = torch.zeros(size, encoder.dim, device=accelerator.device)
        busy = first + accelerator.process_index < len(batches)
        if busy or is_sharded(encoder.model):  # the pieces of a sharded model take part in every batch
            pixels = next(loader) if busy else resized(encoder.processor, [images[0]], view)
            if isinstance(pixels, GenGeoError):
                raise pixels
            batch = normalise(pixels.to(accelerator.device), encoder.processor)
            with accelerator.autocast():
                descriptors = encoder.model(batch, view=view).pooler_output
            block[: len(descriptors)] = descriptors.float()
        every = (accelerator.gather(block) if processes > 1 else block).cpu().numpy()
        for process, batch_rows in enumerate(batches[first : first + processes]):
            start = (first + process) * size
            out[start : start + len(batch_rows)] = every[process * size : process * size + len(batch_rows)]
    return out


def normalise(pixels: torch.Tensor, processor: GenGeoImageProcessor) -> torch.Tensor:
    """uint8 or 0..255 float (B, 3, H, W) to the model's range, as the processor does for one image."""
    mean = torch.tensor(processor.image_mean, device=pixels.device)[:, None, None]
    std = torch.tensor(processor.image_std, device=pixels.device)[:, None, None]
    return (pixels.float() / 255 - mean) / std
