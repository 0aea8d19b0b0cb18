"""A large contrastive batch in the memory of a small one, with the gradient of the large one.

InfoNCE over 256 pairs cannot be summed from losses of 32 pairs: each pair needs all others as negatives. GradCache
(Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup") splits the chain rule at
the descriptors instead: describe everything without keeping activations, take the loss's gradient at the
descriptors, then describe each part again and push its share of that gradient through the network.

Before: micro-batches of images. After: gradients on the parameters, as of one large batch.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

Part = TypeVar("Part")


class _Chance:
    """The random state before a forward pass, so that the second pass drops the same units."""

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if self.devices else None

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.devices[0])


def cached_backward(
    parts: Sequence[Part],
    describe: Callable[[Part], tuple[Tensor, ...]],
    loss_of: Callable[..., Tensor],
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
    loss_parameters: Iterable[nn.Parameter] = (),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Add the gradient of one large batch to the parameters, a part at a time.

    Two forward passes and one backward pass instead of one and one: about a third more time, and the activations
    of one part instead of all.

    Args:
        parts: micro-batches.
        describe: the network on one part: a tuple of matrices (rows, dim), such as (ground, aerial).
        loss_of: the loss of the whole batch from the concatenated matrices; may gather over processes.
        backward: how the loss is sent back, for example `accelerator.backward`, which scales it in float16.
        no_sync: a context in which DistributedDataParallel does not reduce gradients; all parts but the last run
            in it.
        loss_parameters: parameters that only the loss uses (the temperature). They join the last part's graph with
            weight zero, because DistributedDataParallel waits for each of its parameters there.
        device: whose random state is repeated for dropout.

    Returns:
        The loss, detached.

    Raises:
        ValueError: there are no parts.
    """
    if not parts:
        raise ValueError("a step needs at least one micro-batch")
    device = torch.device(device)
    chances, described = [], []
    with torch.no_grad():
        for part in parts:
            chances.append(_Chance(device))
            described.append(describe(part))
    after = _Chance(device)
    columns = [torch.cat(views).requires_grad_() for views in zip(*described, strict=True)]
    with no_sync():
        loss = loss_of(*columns)
        backward(loss)
    gradients = [column.grad for column in columns]
    first = 0
    for number, part in enumerate(parts):
        rows = len(described[number][0])
        last = number == len(parts) - 1
        chances[number].restore()
        with nullcontext() if last else no_sync():
            views = describe(part)
            pieces = [gradient[first : first + rows] for gradient in gradients if gradient is not None]
            surrogate = torch.stack([(view * piece).sum() for view, piece in zip(views, pieces, strict=True)]).sum()
            if last:
                surrogate = surrogate + torch.stack([p.sum() * 0 for p in loss_parameters] or [surrogate * 0]).sum()
            surrogate.backward()
        first += rows
    after.restore()  # chance goes on as if each part had been described once
    return loss.detach()
