"""Decoding of uploaded images in worker processes with limits of CPU time and memory.

A file of some hundred bytes can cost minutes or gigabytes to decode. So each image is decoded by a worker process whose
limits of CPU time and memory are enforced by the system, and all images that are decoded at the same time share one
budget of pixels. The workers import neither torch nor transformers.

Images that are costly according to their header (many pixels, many scans) have a worker of their own, so that a small
photo never waits behind them.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import BaseContext

    from pebble import ProcessPool

    from gengeo_hf.common.images import ImageFile

MAX_SCANS = 500  # scans of a JPEG; a progressive JPEG of a camera has about ten
COSTLY_PIXELS = 8_000_000  # pixels times passes over them, from which an image is costly; about 0.2 s of CPU time
RESERVED_PIXELS = 12_000_000  # pixels of the budget that costly images cannot use


@dataclass(frozen=True)
class DecodingLimits:
    """Limits of decoding, for one image and for all images together.

    Args:
        workers: Number of processes that decode ordinary images; costly images have one more.
        cpu_seconds: CPU time of one image, in seconds.
        seconds: Elapsed time of one image in seconds, without the wait for a worker; also the longest wait for free
            pixels of the budget.
        megabytes: Address space of a worker in MiB, beyond what it has when it starts.
        max_pixels: Number of pixels of one image.
        pixels: Number of pixels of all images that are decoded or located at the same time.
    """

    workers: int = 2
    cpu_seconds: float = 2.0
    seconds: float = 20.0
    megabytes: int = 650
    max_pixels: int = 50_000_000
    pixels: int = 64_000_000


class BudgetError(Exception):
    """The pixels of other images fill the budget, and were not freed in time."""


class PixelBudget:
    """Number of pixels that may be in memory at the same time. A small image does not wait behind a large one.

    Args:
        pixels: Size of the budget, in pixels.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels, self.used = pixels, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, pixels: int, seconds: float) -> Iterator[None]:
        """Hold pixels of the budget until the block ends.

        Args:
            pixels: Number of pixels; an image larger than the whole budget takes all of it.
            seconds: Longest wait for free pixels, in seconds.

        Raises:
            BudgetError: The pixels were not free in time.
        """
        pixels = min(pixels, self.pixels)
        with self._changed:
            if not self._changed.wait_for(lambda: self.used + pixels <= self.pixels, seconds):
                raise BudgetError("too many large photos are being decoded; try again later")
            self.used += pixels
        try:
            yield
        finally:
            with self._changed:
                self.used -= pixels
                self._changed.notify_all()


class Decoder:
    """Worker processes that decode images.

    Args:
        limits: Limits of decoding; None takes the defaults of `DecodingLimits`.
    """

    def __init__(self, limits: DecodingLimits | None = None) -> None:
        self.limits = limits or DecodingLimits()
        self.budget = PixelBudget(self.limits.pixels)
        self._costly_budget = PixelBudget(max(self.limits.pixels - RESERVED_PIXELS, self.limits.pixels // 2))
        self._pool, self._costly = self._make_pool(self.limits.workers), self._make_pool(1)

    def _make_pool(self, workers: int) -> ProcessPool:
        from pebble import ProcessPool

        return ProcessPool(
            max_workers=workers,
            max_tasks=256,  # then a new process replaces the worker, which frees what a codec has leaked
            initializer=_limit_worker,
            initargs=[self.limits.megabytes],
            context=_context(),
        )

    @contextlib.contextmanager
    def read(self, content: bytes, target_size: tuple[int, int] | None = None) -> Iterator[ImageFile]:
        """Decode an image file; its pixels count against the budget until the block ends.

        Args:
            content: Bytes of the file.
            target_size: Height and width in pixels that the model needs, see `common.images.open_image`; None decodes
                the full size.

        Yields:
            The upright RGB image and the metadata of its file, see `common.images.read_image`.

        Raises:
            GenGeoError: The file is not an image, is damaged, has too many pixels, or costs too much to decode.
            BudgetError: The pixels of other images fill the budget.
        """
        scans = content.count(b"\xff\xda") if content.startswith(b"\xff\xd8") else 0
        if scans > MAX_SCANS:
            raise GenGeoError(f"the photo is a JPEG of more than {MAX_SCANS} scans; save it again as a plain JPEG")
        width, height = self._run(self._pool, _read_size, content)
        if width * height > self.limits.max_pixels:
            raise GenGeoError(
                f"the photo has {width} x {height} pixels, the limit is {self.limits.max_pixels / 1e6:g} megapixels; "
                "make it smaller: the model resizes photos to a few hundred pixels"
            )
        passes = scans / 2 if scans else 1.0  # a pass over a JPEG costs half as much as over other formats, or less
        pixels, seconds, pool = width * height, self.limits.seconds, self._pool
        with contextlib.ExitStack() as stack:
            if pixels * passes > COSTLY_PIXELS:
                pool = self._costly
                stack.enter_context(self._costly_budget.take(pixels, seconds))
            stack.enter_context(self.budget.take(pixels, seconds))
            yield self._run(pool, _read_image, content, target_size)

    def _run(self, pool: ProcessPool, function: Any, *arguments: Any) -> Any:
        from pebble import ProcessExpired

        arguments = (self.limits.cpu_seconds, function, *arguments)
        task = pool.schedule(_run_limited, args=arguments, timeout=self.limits.seconds)
        try:
            return task.result()
        except (TimeoutError, ProcessExpired):
            raise GenGeoError(
                f"the photo takes more than {self.limits.cpu_seconds:g} s to decode; save it again as a plain JPEG"
            ) from None
        except MemoryError:
            raise GenGeoError("the photo needs too much memory to decode; save it again as a plain JPEG") from None

    def close(self) -> None:
        """End the workers, also those that are decoding."""
        for pool in (self._pool, self._costly):
            pool.stop()
            pool.join()


def _context() -> BaseContext:
    """How workers start: forked from a small process with the codecs loaded, which replaces a killed worker quickly."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "gengeo_hf.common.images"])
    return context


def _limit_worker(megabytes: int) -> None:
    """Set the memory limit and a low priority of a worker, and let it ignore Ctrl-C."""
    import signal

    importlib.import_module("gengeo_hf.common.images")  # used by every task

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        os.nice(5)
    try:
        import resource
    except ImportError:  # Windows has only the limits of time and pixels
        return
    memory = Path("/proc/self/statm")  # Linux; elsewhere the limit counts from 1 GiB
    start = int(memory.read_text(encoding="ascii").split()[0]) * resource.getpagesize() if memory.exists() else 2**30
    resource.setrlimit(resource.RLIMIT_AS, (start + megabytes * 2**20,) * 2)


def _run_limited(cpu_seconds: float, function: Any, *arguments: Any) -> Any:
    """Run a task; the system ends the process when its CPU time is used up, also inside a codec."""
    import signal

    has_timer = hasattr(signal, "setitimer")
    if has_timer:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    try:
        return function(*arguments)
    finally:
        if has_timer:
            signal.setitimer(signal.ITIMER_PROF, 0)


def _read_size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels from the header; zeros where it cannot be read."""
    from gengeo_hf.common.images import image_header

    try:
        with image_header(content) as header:
            return header.size
    except MemoryError:
        raise
    except Exception:  # `_read_image` supports more formats, and raises the error
        return 0, 0


def _read_image(content: bytes, target_size: tuple[int, int] | None) -> ImageFile:
    from gengeo_hf.common.images import read_image

    return read_image(content, target_size=target_size)
