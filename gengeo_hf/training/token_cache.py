"""Cache of the tokens after the frozen blocks for all training images, so that frozen blocks run once in a training.

It requires `data.in_memory`, frozen blocks at the start of the backbone, and no augmentation except a joint mirror, so
that each image of a pair has at most two forms. Otherwise `build_token_cache` returns None and the blocks run in every
step.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gengeo_hf.data.augment import Augmentation
from gengeo_hf.data.cache import PairsInMemory
from gengeo_hf.encoding.encoder import Encoder, View
from gengeo_hf.learning.grad_cache import replace_forward
from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel
from gengeo_hf.model.backbones import frozen_stages
from gengeo_hf.training.descriptors import normalise
from gengeo_hf.training.settings import Settings

LIMIT = 4 * 2**30  # maximum size of the cache in bytes
AT_ONCE = 64  # images per forward pass
VIEWS: tuple[View, View] = ("ground", "aerial")


class _StageReached(Exception):
    """Ends a forward pass after the last frozen stage; its argument is the output of the stage."""


class TokenCache:
    """Tokens after the frozen blocks for every training pair. It replaces the augmentation in a step.

    Args:
        model: Model on its device; its frozen parameters must not change afterwards.
        pairs: Training pairs.
        processor: Preprocessing with the normalisation and the sizes.
        augmentation: Joint mirror; None for no augmentation.
        accelerator: Accelerator with the precision.
    """

    def __init__(
        self,
        model: GenGeoModel,
        pairs: PairsInMemory,
        processor: GenGeoImageProcessor,
        augmentation: Augmentation | None,
        accelerator: Accelerator,
    ) -> None:
        self.model, self.processor, self.augmentation = model, processor, augmentation
        training = model.training
        model.eval()
        with torch.no_grad(), accelerator.autocast():
            self.tokens = {view: self._forms(pairs.columns[view], view) for view in VIEWS}  # (forms, N, 1 + n, C)
        model.train(training)

    def _forms(self, images: Tensor, view: View) -> Tensor:
        forms = [images] if self.augmentation is None else [images, images.flip(-1)]
        parts = [
            [frozen_outputs(self.model, normalise(x, self.processor), view) for x in f.split(AT_ONCE)] for f in forms
        ]
        return torch.stack([torch.cat(form) for form in parts])

    @property
    def nbytes(self) -> int:
        """Size of the cache in bytes."""
        return sum(tokens.nbytes for tokens in self.tokens.values())

    def __call__(self, batch: dict[str, Any], seed: Sequence[int]) -> dict[str, Any]:
        """Replace the images of a batch by tokens (B, 1 + n, C); the augmentation of images mirrors the same pairs."""
        rows = batch["query_row"].cpu()
        mirrored = torch.zeros(len(rows), dtype=torch.int64)
        if self.augmentation is not None:
            mirrored = torch.from_numpy(
                self.augmentation.draw_mirrored(len(rows), np.random.default_rng(list(seed)))
            ).long()
        device = batch["query_row"].device
        return {**batch, **{view: kept[mirrored, rows].to(device) for view, kept in self.tokens.items()}}

    def encode(self, encoder: Encoder, view: View, rows: np.ndarray) -> np.ndarray:
        """Encode the images of some pairs without augmentation.

        Args:
            encoder: Encoder with the current weights.
            view: View of the images, "ground" or "aerial".
            rows: Rows of the pairs.

        Returns:
            Unit descriptors, float32 (rows, dim).
        """
        out = np.empty((len(rows), encoder.dim), dtype=np.float32)
        for start in range(0, len(rows), encoder.batch_size):
            part = torch.from_numpy(rows[start : start + encoder.batch_size])
            tokens = self.tokens[view][0, part].to(self.model.device)
            with _replace_stages(self.model, view, tokens):
                pixels = _blank(tokens, view, self.processor)
                out[start : start + len(part)] = encoder.encode_pixels(pixels, view)
        return out


def build_token_cache(
    settings: Settings,
    model: GenGeoModel,
    pairs: Any,
    processor: GenGeoImageProcessor,
    augmentation: Augmentation | None,
    accelerator: Accelerator,
) -> TokenCache | None:
    """Build the token cache of a run; None if the frozen blocks must run in every step.

    Args:
        settings: Settings of the run.
        model: Unwrapped model on its device.
        pairs: Training pairs that the data loader reads.
        processor: Preprocessing of the model.
        augmentation: Augmentation of the run; None for none.
        accelerator: Accelerator with the precision.
    """
    plain = augmentation is None or augmentation.only_flips
    if not (isinstance(pairs, PairsInMemory) and settings.sampling.keep_frozen and plain) or settings.loss.terms:
        return None
    if settings.optimisation.compile is not None or model.config.aerial_keep is not None:
        return None
    if not all(frozen_stages(model.backbone_of(view)) for view in VIEWS):
        return None
    forms, size = 1 if augmentation is None else 2, 0
    for view in VIEWS:
        few = normalise(pairs.columns[view][:2].to(model.device), processor)
        kept, again = frozen_outputs(model.train(), few, view), frozen_outputs(model.train(), few, view)
        if not torch.equal(kept, again):  # dropout or other random numbers, which differ in every step
            return None
        size += forms * len(pairs) * kept[0].nbytes
    if size > LIMIT:
        accelerator.print(f"frozen blocks run in every step: their outputs would take {size / 2**30:.1f} GiB of memory")
        return None
    found = TokenCache(model, pairs, processor, augmentation, accelerator)
    accelerator.print(f"frozen blocks run once: their outputs for all training images take {size / 1e6:.0f} MB")
    return found


@torch.no_grad()
def frozen_outputs(model: GenGeoModel, pixels: Tensor, view: View) -> Tensor:
    """Return the output of the last frozen stage for normalised pixels (B, 3, H, W): (B, 1 + n, C) on the CPU."""

    def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
        raise _StageReached(output)

    handle = frozen_stages(model.backbone_of(view))[-1].register_forward_hook(stop)
    try:
        model(pixels.to(model.device), view=view)
    except _StageReached as reached:
        found: Tensor = reached.args[0]
        return found.cpu()
    finally:
        handle.remove()
    raise AssertionError("the frozen stages did not run")


@contextmanager
def _replace_stages(model: GenGeoModel, view: str, tokens: Tensor) -> Iterator[None]:
    """Make the frozen stages return these tokens for any input."""
    with ExitStack() as stack:
        for stage in frozen_stages(model.backbone_of(view)):
            stack.enter_context(replace_forward(stage, lambda *_, **__: tokens))
        yield


def _blank(tokens: Tensor, view: str, processor: GenGeoImageProcessor) -> Tensor:
    """Return pixels of the right size, expanded from one value, as input of the replaced frozen stages."""
    size = processor.view_sizes[view]
    return torch.zeros((), device=tokens.device).expand(len(tokens), 3, size["height"], size["width"])


def run_view(
    wrapped: nn.Module, model: GenGeoModel, processor: GenGeoImageProcessor, images: Tensor, view: str, **options: Any
) -> Any:
    """Run the model on the images, or cached tokens, of a training step.

    Args:
        wrapped: Model, wrapped for several processes.
        model: The same model, unwrapped.
        processor: Preprocessing with the normalisation and the sizes.
        images: Pixels (B, 3, H, W) in 0..255 of any dtype, or tokens (B, 1 + n, C) of a `TokenCache`.
        view: View of the images, "ground" or "aerial".
        options: Further arguments of the model.

    Returns:
        Output of the model.
    """
    if images.ndim == 4:
        return wrapped(normalise(images, processor), view=view, **options)
    with _replace_stages(model, view, images):
        return wrapped(_blank(images, view, processor), view=view, **options)
