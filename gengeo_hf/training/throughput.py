"""Throughput of a run: pairs per second, and model FLOPs utilisation (MFU), the fraction of the hardware peak."""

import re
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

Batch = TypeVar("Batch")

PROBE = 2  # pairs with which operations are counted
# Dense bfloat16 (2080 Ti, V100: float16) operations per second, from the data sheets.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "V100": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "RTX 2080 Ti": 54e12,
}


def training_flops(model: GenGeoModel, processor: GenGeoImageProcessor, accelerator: Accelerator) -> float:
    """Count the operations of a forward and a backward pass for one pair with PyTorch.

    Mode and random states of the model are restored. The second pass of GradCache is not counted, since MFU is defined
    by the operations that the model needs. On a CPU, the operations inside attention are not counted.

    Args:
        model: Model on its device, in any mode.
        processor: Preprocessing with the sizes of both views.
        accelerator: Accelerator with device and precision.

    Returns:
        Number of floating point operations.
    """
    device, training = accelerator.device, model.training
    model.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), FlopCounterMode(display=False) as counter:
        descriptors = []
        for view, size in processor.view_sizes.items():
            pixels = torch.zeros(PROBE, 3, size["height"], size["width"], device=device)
            with accelerator.autocast():
                descriptors.append(model(pixels, view=view).pooler_output.float().sum())
        torch.stack(descriptors).sum().backward()
    model.zero_grad()
    model.train(training)
    return counter.get_total_flops() / PROBE


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def card_of(device_name: str) -> str | None:
    """Return the key of `PEAKS` of a device name, matched as a whole word (an L40 is not an L4); None if unknown."""
    return next((card for card in PEAKS if re.search(rf"\b{card}\b", device_name)), None)


def peak_flops(device: torch.device) -> tuple[float, str]:
    """Return the peak operations per second of a device, and the source of the number."""
    if device.type == "cuda":
        card = card_of(torch.cuda.get_device_name(device))
        if card is not None:
            return PEAKS[card], f"{card} bf16, data sheet"
    on_cpu = device.type == "cpu"
    side, dtype = (1024, torch.float32) if on_cpu else (4096, torch.bfloat16)
    # Processor time on a CPU: with wall time, other load on the machine would lower the measured peak.
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
    """Measures the throughput of the loop and its MFU.

    Args:
        flops: Operations of a training step for one pair.
        accelerator: Accelerator with the device and the number of processes.
    """

    def __init__(self, flops: float, accelerator: Accelerator) -> None:
        self.flops, self.processes = flops, accelerator.num_processes
        self.peak, self.peak_name = peak_flops(accelerator.device)
        self.device = accelerator.device
        self.last: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Start to measure, for example after an evaluation."""
        _finish(self.device)
        self.started, self.pairs, self.waited = time.perf_counter(), 0, 0.0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches, and measure the time for which the loop waits for them."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def read(self) -> dict[str, float]:
        """Return pairs of the global batch per second, MFU and the fraction of waiting time since the last reading."""
        _finish(self.device)
        passed = time.perf_counter() - self.started
        rate = self.pairs / passed
        self.last = {
            "pairs_per_second": rate,
            "mfu": rate * self.flops / self.processes / self.peak,
            "share_waiting": self.waited / passed,
        }
        self.start()
        return self.last

    def summary(self) -> str:
        """Format the last reading."""
        last = self.last or self.read()
        late = f", {last['share_waiting']:.0%} of the time waiting for images" if last["share_waiting"] > 0.1 else ""
        return f"{last['pairs_per_second']:.1f} pairs/s, {last['mfu']:.0%} MFU (peak: {self.peak_name}){late}"
