"""What a run will cost, from one step over two pairs: memory, time, floating-point operations.

Before: a model on its device. After: a line at the start, and the share of the device's peak beside the loss.
"""

import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from gengeo_hf.learning import FrozenPrefix
from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

Batch = TypeVar("Batch")

PROBE = 2  # pairs
# Dense bfloat16 (2080 Ti, V100: float16) operations per second, from the makers' data sheets.
PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12,
    "V100": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "RTX 2080 Ti": 54e12,
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of one pair of images.

    Args:
        forward_flops, backward_flops: operations, as PyTorch counts them (on a CPU without those inside attention).
        activation_bytes: what the forward pass keeps for the backward pass.
        again_flops, kept_bytes: operations of GradCache's second description, and what it keeps from the first.
        seconds: of a forward and a backward pass, with a batch of two: an upper bound on a GPU.
    """

    forward_flops: float
    backward_flops: float
    activation_bytes: float
    again_flops: float
    kept_bytes: float
    seconds: float

    def step_flops(self, parts: int = 1) -> float:
        """Operations of a training step for one pair; of GradCache's `parts`, all but the last are described again."""
        return self.forward_flops + self.again_flops * (parts - 1) / parts + self.backward_flops


def measure_cost(
    model: GenGeoModel,
    processor: GenGeoImageProcessor,
    accelerator: Accelerator,
    stages: Sequence[torch.nn.Module] = (),
) -> Cost:
    """Run two made-up pairs forward and backward; gradients, mode and random states are as before afterwards.

    Args:
        model: in any mode.
        processor: for the sizes of both views.
        accelerator: for device and precision.
        stages: of the backbone, whose outputs GradCache keeps.
    """
    device, kept = accelerator.device, _Kept({p.untyped_storage().data_ptr() for p in model.parameters()})
    training = model.training
    model.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        pixels = {
            view: torch.zeros(PROBE, 3, size["height"], size["width"], device=device)
            for view, size in processor.view_sizes.items()
        }
        for _ in range(2):  # the first pass warms up and is not looked at
            kept.total, kept.seen = 0.0, {}
            forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
            _finish(device)
            started = time.perf_counter()
            keep = torch.autograd.graph.saved_tensors_hooks(kept.count, lambda tensor: tensor)
            with forward, keep, accelerator.autocast():
                loss = described_sum(model, pixels)
            with backward:
                loss.backward()
            _finish(device)
            seconds = time.perf_counter() - started
            model.zero_grad()
        prefix, again = FrozenPrefix(stages), FlopCounterMode(display=False)
        with torch.no_grad(), accelerator.autocast():
            with prefix.part(0):
                described_sum(model, pixels)
            kept_bytes = prefix.kept_bytes
            with prefix.part(0), again:
                described_sum(model, pixels)
    model.train(training)
    flops = [counter.get_total_flops() / PROBE for counter in (forward, backward, again)]
    return Cost(flops[0], flops[1], kept.total / PROBE, flops[2], kept_bytes / PROBE, seconds / PROBE)


def described_sum(model: GenGeoModel, pixels: dict[str, torch.Tensor]) -> torch.Tensor:
    """One number that depends on the descriptors of both views."""
    return torch.stack([model(pixels[view], view=view).pooler_output.float().sum() for view in pixels]).sum()


class _Kept:
    """Adds up the bytes of tensors that autograd keeps, each storage once, parameters left out."""

    def __init__(self, parameters: set[int]) -> None:
        self.parameters = parameters
        self.total, self.seen = 0.0, dict[int, torch.Tensor]()

    def count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.parameters and storage.data_ptr() not in self.seen:
            self.seen[storage.data_ptr()] = tensor  # keeping it keeps its address from being given to another
            self.total += storage.nbytes()
        return tensor


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def card_of(device_name: str) -> str | None:
    """The card of `PEAKS` that a device is: an L40 is no L4."""
    return next((card for card in PEAKS if re.search(rf"\b{card}\b", device_name)), None)


def peak_flops(device: torch.device) -> tuple[float, str]:
    """Operations per second that the device can do at most, and where that number is from."""
    if device.type == "cuda":
        card = card_of(torch.cuda.get_device_name(device))
        if card is not None:
            return PEAKS[card], f"{card} bf16, data sheet"
    on_cpu = device.type == "cpu"
    side, dtype = (1024, torch.float32) if on_cpu else (4096, torch.bfloat16)
    # On a CPU by processor time: neighbours on the machine would make a peak that the loop then exceeds.
    clock, lanes = (time.process_time, torch.get_num_threads()) if on_cpu else (time.perf_counter, 1)
    square = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        _finish(device)
        started = clock()
        square @ square
        _finish(device)
        best = min(best, (clock() - started) / lanes)
    return 2 * side**3 / best, f"product of two {side} x {side} matrices, measured"


class Meter:
    """How fast the loop runs, and which share of the device's peak that is.

    Args:
        cost: of a pair.
        accelerator: for the device, the number of processes, and who writes.
        parts: of GradCache; 1 without it.
    """

    def __init__(self, cost: Cost, accelerator: Accelerator, parts: int) -> None:
        self.flops, self.processes = cost.step_flops(parts), accelerator.num_processes
        self.peak, self.peak_name = peak_flops(accelerator.device)
        self.device, self.pairs, self.waited = accelerator.device, 0, 0.0
        self.last: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Begin to count, after a pause that does not belong to training."""
        _finish(self.device)
        self.started, self.pairs, self.waited = time.perf_counter(), 0, 0.0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with a look at how long the loop waits for each: images that come too late are seen."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def read(self) -> dict[str, float]:
        """Since the last reading: pairs of the global batch per second, share of peak, share of the time that the loop
        waited for images.
        """
        _finish(self.device)
        passed = time.perf_counter() - self.started
        rate = self.pairs / passed
        self.last = {
            "pairs_per_second": rate,
            "share_of_peak": rate * self.flops / self.processes / self.peak,
            "share_waiting": self.waited / passed,
        }
        self.start()
        return self.last

    def words(self) -> str:
        """The last reading, for people."""
        last = self.last or self.read()
        late = f", {last['share_waiting']:.0%} of the time waiting for images" if last["share_waiting"] > 0.1 else ""
        return f"{last['pairs_per_second']:.1f} pairs/s, {last['share_of_peak']:.0%} of peak ({self.peak_name}){late}"


def memory_bytes(model: torch.nn.Module, cost: Cost, share: int, parts: int, averaged: bool, divided: int = 1) -> float:
    """Weights, gradients, AdamW's two moments, the average, one part's activations, what GradCache keeps of the rest.

    Args:
        model: for the size of its weights.
        cost: of a pair.
        share: pairs of one process.
        parts: that it describes them in.
        averaged: whether an average of the weights is kept.
        divided: processes that share what the model itself needs.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    own = (weights + trained * (3 + averaged)) / divided
    at_once = math.ceil(share / parts)
    kept = cost.kept_bytes * (share - at_once)
    return own + cost.activation_bytes * at_once + kept


def describe_cost(
    model: torch.nn.Module,
    cost: Cost,
    share: int,
    parts: int,
    processes: int,
    steps: int,
    averaged: bool,
    divided: bool = False,
) -> str:
    """One line for the start of a run.

    Args:
        model: for the size of its weights.
        cost: of a pair.
        share: pairs of one process.
        parts: that it describes them in.
        processes: that share a batch.
        steps: still to do.
        averaged: whether an average of the weights is kept.
        divided: whether the processes share the model too.
    """
    memory = memory_bytes(model, cost, share, parts, averaged, processes if divided else 1)
    flops = cost.step_flops(parts)
    seconds = steps * share * cost.seconds * flops / cost.step_flops()
    return (
        f"estimate: {memory / 2**30:.1f} GiB on each device "
        f"({cost.activation_bytes / 2**20:.0f} MiB of activations a pair), "
        f"{flops * share * processes / 1e12:.2f} TFLOP a step, at most {_duration(seconds)} for {steps:,} steps "
        "without loading, mining and evaluation"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
