"""Gradient caching: exact gradients of a large contrastive batch with the memory of a micro-batch.

InfoNCE over 256 pairs is not the sum of losses over 32 pairs, since each pair needs all others as negatives. GradCache
(Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup") splits the chain rule at
the descriptors: encode all parts without keeping activations, compute the gradient of the loss with respect to the
descriptors, then encode each part again and backpropagate its rows of that gradient. Two passes of the paper are
avoided: the last part keeps the activations of its first pass, and blocks that do not train run once (`FrozenPrefix`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Part = TypeVar("Part")


class _RngState:
    """The random state before a forward pass, restored for the second pass so that dropout is the same."""

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if self.devices else None

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.devices[0])


class FrozenPrefix:
    """Caches the output of the frozen modules before the first trained one, for the second pass over each part.

    It keeps one token matrix (n, C) per image of the batch: 1 GB for 256 pairs of 1,300 tokens of ViT-B/14 in float32.

    Args:
        stages: Modules that run in sequence, each on the output of the previous one; an empty list caches nothing.
    """

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        self.stages = list(stages)
        self._outputs: dict[int, tuple[list[Tensor], list[_RngState]]] = {}

    @contextmanager
    def part(self, number: int) -> Iterator[None]:
        """Context for encoding part `number`: the stages run in the first pass and are replaced in the second.

        Args:
            number: Zero-based number of the part in its batch.
        """
        if not self.stages:
            yield
            return
        if number in self._outputs:
            replacements = self._replacements(*self._outputs.pop(number))
            with ExitStack() as stack:
                for stage in self.stages:
                    stack.enter_context(replace_forward(stage, next(replacements)))
                yield
            return
        outputs, states = self._outputs.setdefault(number, ([], []))
        with ExitStack() as stack:
            # The state after each stage, since a model may draw between two stages (DINOv3 shifts its positions).
            for stage in self.stages:
                hook = stage.register_forward_hook(lambda _, __, output: states.append(_RngState(output.device)))
                stack.callback(hook.remove)
            hook = self.stages[-1].register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
            stack.callback(hook.remove)
            yield

    def _replacements(self, outputs: list[Tensor], states: list["_RngState"]) -> Iterator[Callable[..., Tensor]]:
        """Yield the forward functions of the second pass: the first returns the cached outputs, the others pass on."""
        output, state = iter(outputs), iter(states)

        def cached_output(*_: Any, **__: Any) -> Tensor:
            next(state).restore()
            return next(output)

        def pass_through(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
            next(state).restore()
            return tokens

        yield cached_output
        while True:
            yield pass_through


@contextmanager
def replace_forward(module: nn.Module, function: Callable[..., Tensor]) -> Iterator[None]:
    """Replace the forward pass of a module by a function for the duration of the block."""
    before = vars(module).get("forward")  # libraries wrap modules by setting it on the instance
    module.forward = function
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def cached_backward(
    parts: Sequence[Part],
    encode: Callable[[Part], tuple[Tensor, ...]],
    loss_of: Callable[..., Tensor],
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
    loss_parameters: Iterable[nn.Parameter] = (),
    device: torch.device | str = "cpu",
    prefix: FrozenPrefix | None = None,
) -> Tensor:
    """Accumulate the gradient of one large batch in the parameters, one micro-batch at a time.

    All parts but the last are encoded twice: up to a third more time, for the activations of one part instead of all.

    Args:
        parts: Micro-batches.
        encode: Encodes one part to a tuple of matrices (rows, dim), such as (ground, aerial).
        loss_of: Computes the loss of the whole batch from the concatenated matrices; may gather over processes.
        backward: Backpropagates the loss, for example `accelerator.backward`, which scales it in float16.
        no_sync: Context in which DistributedDataParallel does not reduce gradients. All parts run in it except the one
            that is backpropagated last.
        loss_parameters: Parameters that only the loss uses (the temperature). They are added to the graph of the last
            part with weight zero, because DistributedDataParallel waits for the gradient of every parameter.
        device: Device whose random state is restored for dropout.
        prefix: Frozen modules that need not run twice. Not for modules compiled with `torch.compile`, whose forward
            pass cannot be replaced.

    Returns:
        The loss, detached.

    Raises:
        ValueError: There are no parts.
    """
    if not parts:
        raise ValueError("a step needs at least one micro-batch")
    device, prefix = torch.device(device), prefix or FrozenPrefix([])
    *twice, once = parts
    states, encoded = [], []
    with torch.no_grad():
        for number, part in enumerate(twice):
            states.append(_RngState(device))
            with prefix.part(number):
                encoded.append(encode(part))
    with no_sync() if twice else nullcontext():
        encoded.append(encode(once))
    after = _RngState(device)
    columns = [torch.cat([view.detach() for view in views]).requires_grad_() for views in zip(*encoded, strict=True)]
    with no_sync():
        loss = loss_of(*columns)
        backward(loss)
    counts = [len(views[0]) for views in encoded]
    whole = [torch.zeros_like(x) if x.grad is None else x.grad for x in columns]  # None: the loss does not use it
    split = list(zip(*[gradient.split(counts) for gradient in whole], strict=True))

    def backpropagate(views: tuple[Tensor, ...], gradients: tuple[Tensor, ...], last: bool) -> None:
        surrogate = torch.stack([(view * grad).sum() for view, grad in zip(views, gradients, strict=True)]).sum()
        if last:
            surrogate = surrogate + torch.stack([p.sum() * 0 for p in loss_parameters] or [surrogate * 0]).sum()
        surrogate.backward()

    with no_sync() if twice else nullcontext():
        backpropagate(encoded.pop(), split.pop(), last=not twice)
    encoded.clear()
    for number, (part, state, gradients) in enumerate(zip(twice, states, split, strict=True)):
        last = number == len(twice) - 1
        state.restore()
        with nullcontext() if last else no_sync():
            with prefix.part(number):
                views = encode(part)
            backpropagate(views, gradients, last)
    after.restore()  # the random state is the same as after one pass over each part
    return loss.detach()
