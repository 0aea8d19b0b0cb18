"""Frozen blocks run once in a training: what they give for each training image is kept in memory.

It needs `data.in_memory`, frozen blocks at the start of the backbone, and images that nothing changes but a joint
mirror: then each view of a pair has one or two forms. Elsewhere `keep_tokens` gives None and the blocks run each time.
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

LIMIT = 4 * 2**30  # bytes that may be kept
AT_ONCE = 64  # images
VIEWS: tuple[View, View] = ("ground", "aerial")


class _ReachedError(Exception):
    """Carries the output of the last frozen stage out of a forward pass."""


class KeptTokens:
    """Tokens after the frozen blocks, for every training pair. Takes the place of the augmentation in a step.

    Args:
        model: On its device; its frozen parameters must not change any more.
        pairs: The training pairs.
        processor: For the normalisation and the sizes.
        augmentation: The joint mirror, or None where images stay as they are.
        accelerator: For the precision.
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
        """Memory that is taken."""
        return sum(tokens.nbytes for tokens in self.tokens.values())

    def __call__(self, batch: dict[str, Any], seed: Sequence[int]) -> dict[str, Any]:
        """The batch with tokens (B, 1 + n, C) in the place of images; the same pairs are mirrored as by the images."""
        rows = batch["query_row"].cpu()
        mirrored = torch.zeros(len(rows), dtype=torch.int64)
        if self.augmentation is not None:
            mirrored = torch.from_numpy(
                self.augmentation.draw_mirrored(len(rows), np.random.default_rng(list(seed)))
            ).long()
        device = batch["query_row"].device
        return {**batch, **{view: kept[mirrored, rows].to(device) for view, kept in self.tokens.items()}}

    def encode(self, encoder: Encoder, view: View, rows: np.ndarray) -> np.ndarray:
        """Unit descriptors of the unchanged images of some pairs, float32 (len(rows), dim)."""
        out = np.empty((len(rows), encoder.dim), dtype=np.float32)
        for start in range(0, len(rows), encoder.batch_size):
            part = torch.from_numpy(rows[start : start + encoder.batch_size])
            tokens = self.tokens[view][0, part].to(self.model.device)
            with _tokens_given(self.model, view, tokens):
                pixels = _blank(tokens, view, self.processor)
                out[start : start + len(part)] = encoder.encode_pixels(pixels, view)
        return out


def keep_tokens(
    settings: Settings,
    model: GenGeoModel,
    pairs: Any,
    processor: GenGeoImageProcessor,
    augmentation: Augmentation | None,
    accelerator: Accelerator,
) -> KeptTokens | None:
    """The kept tokens of a run, or None where frozen blocks must run in every step.

    Args:
        settings: Of the run.
        model: Unwrapped, on its device.
        pairs: What the loader reads.
        processor: Of the model.
        augmentation: Of the run; None for none.
        accelerator: For the precision.
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
        if not torch.equal(kept, again):  # dropout or another draw, which each step must make anew
            return None
        size += forms * len(pairs) * kept[0].nbytes
    if size > LIMIT:
        accelerator.print(f"frozen blocks run in every step: to keep their outputs takes {size / 2**30:.1f} GiB")
        return None
    found = KeptTokens(model, pairs, processor, augmentation, accelerator)
    accelerator.print(f"frozen blocks run once: their outputs for all training images take {size / 1e6:.0f} MB")
    return found


@torch.no_grad()
def frozen_outputs(model: GenGeoModel, pixels: Tensor, view: View) -> Tensor:
    """What the last frozen stage gives for normalised pixels (B, 3, H, W): (B, 1 + n, C) on the CPU."""

    def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
        raise _ReachedError(output)

    handle = frozen_stages(model.backbone_of(view))[-1].register_forward_hook(stop)
    try:
        model(pixels.to(model.device), view=view)
    except _ReachedError as reached:
        found: Tensor = reached.args[0]
        return found.cpu()
    finally:
        handle.remove()
    raise AssertionError("the frozen stages did not run")


@contextmanager
def _tokens_given(model: GenGeoModel, view: str, tokens: Tensor) -> Iterator[None]:
    """The frozen stages give these tokens, whatever pixels come in."""
    with ExitStack() as stack:
        for stage in frozen_stages(model.backbone_of(view)):
            stack.enter_context(replace_forward(stage, lambda *_, **__: tokens))
        yield


def _blank(tokens: Tensor, view: str, processor: GenGeoImageProcessor) -> Tensor:
    """Pixels of the right size that take no memory: the frozen stages would have read them."""
    size = processor.view_sizes[view]
    return torch.zeros((), device=tokens.device).expand(len(tokens), 3, size["height"], size["width"])


def run_view(
    wrapped: nn.Module, model: GenGeoModel, processor: GenGeoImageProcessor, images: Tensor, view: str, **options: Any
) -> Any:
    """The model's output for images as a step has them.

    Args:
        wrapped: The model, wrapped for several processes.
        model: The same, unwrapped.
        processor: For the normalisation and the sizes.
        images: Pixels (B, 3, H, W), uint8 or 0..255, or the tokens (B, 1 + n, C) that `KeptTokens` gives.
        view: "ground" or "aerial".
        options: Further arguments of the model.
    """
    if images.ndim == 4:
        return wrapped(normalise(images, processor), view=view, **options)
    with _tokens_given(model, view, images):
        return wrapped(_blank(images, view, processor), view=view, **options)
