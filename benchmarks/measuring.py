"""Common functions of the benchmarks: runs in turns, growth with size, facts about the machine, values with goals."""

import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

PACKAGES = (
    "torch",
    "transformers",
    "numpy",
    "faiss-cpu",
    "onnxruntime",
    "openvino",
    "pillow",
    "scipy",
    "usearch",
    "embreex",
)
Found = TypeVar("Found")

LOST = 3  # a method this many times slower than the first runs only once
FLAGS = ("avx2", "avx512_f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def peak_mb() -> float:
    """Peak resident memory of this process, MB.

    On Linux it is read from /proc, because `ru_maxrss` starts with the memory of the parent process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # in KB; on macOS it would be in bytes


def in_own_process(function: Callable[..., Found], *values: Any, **named: Any) -> Found:
    """Call a module's function in a new process, to measure its peak memory alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *values, **named).result()


@dataclass(frozen=True)
class Figure:
    """One measured value.

    Args:
        section: Section of the report.
        what: Measured quantity and its size.
        value: The value; a ratio if there is a baseline.
        unit: Unit of the value, for example "x torch float32".
        clock_s, cpu_s: Median clock and CPU seconds of one turn; None if time was not measured.
        goal: Goal, for example "<= 1.3"; empty if there is none.
        note: Note for readers.
    """

    section: str
    what: str
    value: float
    unit: str
    clock_s: float | None = None
    cpu_s: float | None = None
    goal: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value meets its goal; None without one."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        return bool(self.value >= float(bound) if sign == ">=" else self.value <= float(bound))

    def plain(self) -> dict[str, Any]:
        """Convert to values for JSON."""
        return asdict(self) | {"value": float(self.value), "met": self.met}


@dataclass(frozen=True)
class Turns:
    """Clock and CPU seconds of each turn of some methods, and the last result of each."""

    clock: dict[str, list[float]]
    cpu: dict[str, list[float]]
    given: dict[str, Any]

    def medians(self, name: str) -> tuple[float, float]:
        """Median clock and CPU seconds."""
        return statistics.median(self.clock[name]), statistics.median(self.cpu[name])

    def times_as_fast(self, name: str, base: str) -> float:
        """Median ratio of paired turns, by CPU time, which other load affects less."""
        pairs = zip(self.cpu[base], self.cpu[name], strict=False)
        return statistics.median(theirs / max(ours, 1e-9) for theirs, ours in pairs)


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> Turns:
    """Run all methods once to warm up, then `rounds` times in turns.

    A method that needs more than `LOST` times the CPU time of the first one has only one turn.
    """
    for way in ways.values():
        way()
    clock: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    given: dict[str, Any] = {}
    base, racing = next(iter(ways)), list(ways)
    for turn in range(rounds):
        for name in racing:
            wall, own = time.perf_counter(), time.process_time()
            given[name] = ways[name]()
            clock[name].append(time.perf_counter() - wall)
            cpu[name].append(time.process_time() - own)
        if turn == 0:
            racing = [name for name in racing if cpu[name][0] <= LOST * cpu[base][0]]
    return Turns(clock, cpu, given)


def exponent(sizes: Iterable[float], seconds: Iterable[float]) -> float:
    """Slope of log time over log size: 1 for linear growth, 2 for quadratic growth."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(seconds)), 1)[0])


def growth(section: str, what: str, sizes: list[int], seconds: list[float], goal: str = "") -> Figure:
    """Exponent of growth over several sizes, as a `Figure`."""
    shown = ", ".join(f"{size:,}: {second:.3g} s" for size, second in zip(sizes, seconds, strict=True))
    return Figure(section, f"growth of {what}", exponent(sizes, seconds), "exponent", goal=goal, note=shown)


def machine() -> dict[str, Any]:
    """Facts about this machine and its packages, without names and paths."""
    import torch

    able = torch.cpu.get_capabilities()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": f"{able.get('cpu_name') or platform.processor()}{_generation()}",
        "architecture": platform.machine(),
        "flags": [flag for flag in FLAGS if able.get(flag)],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": versions,
    }


def _generation() -> str:
    """Family and model of an x86 processor, whose name may be ambiguous."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = dict(line.replace("\t", "").split(": ", 1) for line in reversed(lines) if ": " in line)
    return f", family {found['cpu family']} model {found['model']}" if "cpu family" in found else ""
