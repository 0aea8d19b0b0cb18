"""A large contrastive batch in the memory of a small one, with the gradient of the large one.

InfoNCE over 256 pairs cannot be summed from losses of 32 pairs: each pair needs all others as negatives. GradCache
(Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup") splits the chain rule at
the descriptors instead: encode everything without keeping activations, take the loss's gradient at the
descriptors, then encode each part again and push its share of that gradient through the network. Two passes are
saved beyond the paper: the last part keeps its activations from the first time, and blocks that do not train run once
(`FrozenPrefix`).

Micro-batches of images give the gradients of one large batch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Part = TypeVar("Part")


class _RngState:
    """The random state before a forward pass, so that the second pass drops the same units."""

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if self.devices else None

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.devices[0])


class FrozenPrefix:
    """Keeps what the modules before the first one that trains gave for each part, until it is encoded a second time.

    It holds one token matrix (n, C) an image, for all images of the batch: 1 GB for 256 pairs of 1,300 tokens of
    ViT-B/14 in float32.

    Args:
        stages: modules that run one after another, each on the tensor that the one before gave; none keeps nothing.
    """

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        self.stages = list(stages)
        self._kept: dict[int, tuple[list[Tensor], list[_RngState]]] = {}

    @contextmanager
    def part(self, number: int) -> Iterator[None]:
        """Around the encoding of part `number`: the first time the stages run, the second time they do not."""
        if not self.stages:
            yield
            return
        if number in self._kept:
            stand_ins = self._stand_ins(*self._kept.pop(number))
            with ExitStack() as stack:
                for stage in self.stages:
                    stack.enter_context(forward_by(stage, next(stand_ins)))
                yield
            return
        outputs, states = self._kept.setdefault(number, ([], []))
        with ExitStack() as stack:
            # The state after each stage, since a model may draw between two of them (DINOv3 shifts its positions).
            for stage in self.stages:
                hook = stage.register_forward_hook(lambda _, __, output: states.append(_RngState(output.device)))
                stack.callback(hook.remove)
            hook = self.stages[-1].register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
            stack.callback(hook.remove)
            yield

    def _stand_ins(self, outputs: list[Tensor], states: list["_RngState"]) -> Iterator[Callable[..., Tensor]]:
        """What runs instead: the first stage gives the kept outputs call by call, the others hand them on."""
        output, state = iter(outputs), iter(states)

        def give(*_: Any, **__: Any) -> Tensor:
            next(state).restore()
            return next(output)

        def hand_on(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
            next(state).restore()
            return tokens

        yield give
        while True:
            yield hand_on


@contextmanager
def forward_by(module: nn.Module, function: Callable[..., Tensor]) -> Iterator[None]:
    """Let a function take the place of a module's forward pass."""
    before = vars(module).get("forward")  # libraries wrap a module by setting it on the instance
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
    """Add the gradient of one large batch to the parameters, a part at a time.

    All parts but the last are encoded twice: up to a third more time, and the activations of one part instead of
    all.

    Args:
        parts: micro-batches.
        encode: the network on one part: a tuple of matrices (rows, dim), such as (ground, aerial).
        loss_of: the loss of the whole batch from the concatenated matrices; may gather over processes.
        backward: how the loss is sent back, for example `accelerator.backward`, which scales it in float16.
        no_sync: a context in which DistributedDataParallel does not reduce gradients; all parts run in it but the
            one that is sent back last.
        loss_parameters: parameters that only the loss uses (the temperature). They join that part's graph with
            weight zero, because DistributedDataParallel waits for each of its parameters there.
        device: whose random state is repeated for dropout.
        prefix: the modules that do not train and need not run twice; not with `torch.compile`, which has already
            looked into them.

    Returns:
        The loss, detached.

    Raises:
        ValueError: there are no parts.
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
    shares = list(zip(*[column.grad.split(counts) for column in columns if column.grad is not None], strict=True))

    def send_back(views: tuple[Tensor, ...], gradients: tuple[Tensor, ...], last: bool) -> None:
        surrogate = torch.stack([(view * share).sum() for view, share in zip(views, gradients, strict=True)]).sum()
        if last:
            surrogate = surrogate + torch.stack([p.sum() * 0 for p in loss_parameters] or [surrogate * 0]).sum()
        surrogate.backward()

    with no_sync() if twice else nullcontext():
        send_back(encoded.pop(), shares.pop(), last=not twice)
    encoded.clear()
    for number, (part, state, gradients) in enumerate(zip(twice, states, shares, strict=True)):
        last = number == len(twice) - 1
        state.restore()
        with nullcontext() if last else no_sync():
            with prefix.part(number):
                views = encode(part)
            send_back(views, gradients, last)
    after.restore()  # the generators stand as if each part had been encoded once
    return loss.detach()
