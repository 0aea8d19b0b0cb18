"""What every benchmark shares: ways that take turns, growth with size, facts about the machine, figures with goals."""

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

LOST = 3  # times slower than the first way
FLAGS = ("avx2", "avx512_f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def peak_mb() -> float:
    """The most that this process has held in memory so far.

    Linux counts it for each program anew; `ru_maxrss` would begin with what the parent held when it started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # where it counts KB, not on macOS


def in_own_process(function: Callable[..., Found], *values: Any, **named: Any) -> Found:
    """Call a module's function in a fresh process, whose peak of memory nothing else has set."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *values, **named).result()


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Args:
        section: Part of the report.
        what: What was measured, and at which size.
        value: Of it; a ratio wherever there is something to stand beside.
        unit: What the value counts, for example "x torch float32".
        clock_s, cpu_s: Medians of one turn, where time was measured.
        goal: For example "<= 1.3"; empty where there is none.
        note: What a reader must know.
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
        """The same as values for JSON."""
        return asdict(self) | {"value": float(self.value), "met": self.met}


@dataclass(frozen=True)
class Turns:
    """What ways took when they took turns: clock and CPU seconds of each turn, and what each gave last."""

    clock: dict[str, list[float]]
    cpu: dict[str, list[float]]
    given: dict[str, Any]

    def medians(self, name: str) -> tuple[float, float]:
        """Clock and CPU seconds."""
        return statistics.median(self.clock[name]), statistics.median(self.cpu[name])

    def times_as_fast(self, name: str, base: str) -> float:
        """The median of paired turns, by CPU time, which neighbours on the machine disturb less."""
        pairs = zip(self.cpu[base], self.cpu[name], strict=False)
        return statistics.median(theirs / max(ours, 1e-9) for theirs, ours in pairs)


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> Turns:
    """Run all ways once to warm up, then `rounds` times in turn.

    A way that needs more than three times the CPU time of the first one has lost: it has one turn, and does not eat the
    time of the others.
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
    """Slope of log time over log size: 1 grows with the size, 2 with its square."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(seconds)), 1)[0])


def growth(section: str, what: str, sizes: list[int], seconds: list[float], goal: str = "") -> Figure:
    """The exponent over several sizes as a figure."""
    shown = ", ".join(f"{size:,}: {second:.3g} s" for size, second in zip(sizes, seconds, strict=True))
    return Figure(section, f"growth of {what}", exponent(sizes, seconds), "exponent", goal=goal, note=shown)


def machine() -> dict[str, Any]:
    """Facts about this machine and its packages: no names, no places."""
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
    """Family and model of an x86 processor, where its name leaves open which one it is."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = dict(line.replace("\t", "").split(": ", 1) for line in reversed(lines) if ": " in line)
    return f", family {found['cpu family']} model {found['model']}" if "cpu family" in found else ""
