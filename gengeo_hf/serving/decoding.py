"""Decoding of strangers' images in processes that can be killed.

A file of some hundred bytes can cost minutes or gigabytes to decode. So each image is decoded by a worker process with
a limit of CPU time and of memory, both enforced by the system, and all images that are decoded at one moment share one
budget of pixels. The workers import neither torch nor transformers.

Images that are costly by their header (many pixels, many scans) have a worker of their own, so that a small photo never
waits behind them.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import threading
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import BaseContext

    from pebble import ProcessPool

    from gengeo_hf.common.images import ImageFile

MAX_SCANS = 500  # of a JPEG; a progressive one of a camera has about ten
COSTLY = 8_000_000  # pixels times passes over them; about 0.2 s of CPU time
RESERVED = 12_000_000  # pixels of the budget that costly images leave to others


@dataclass(frozen=True)
class DecodingLimits:
    """What the decoding of one image, and of all together, may cost.

    Args:
        workers: Processes that decode ordinary images; costly ones have one more.
        cpu_seconds: CPU time of one image.
        seconds: Clock time of one image, waiting for a worker not counted.
        megabytes: Address space of a worker beyond what it has when it starts.
        max_pixels: Pixels of one image.
        pixels: Pixels of all images that are decoded or located at one moment.
    """

    workers: int = 2
    cpu_seconds: float = 2.0
    seconds: float = 20.0
    megabytes: int = 650
    max_pixels: int = 50_000_000
    pixels: int = 64_000_000


class BudgetError(Exception):
    """The pixels of other images leave no room for this one in time."""


class PixelBudget:
    """Pixels that may be in memory at one moment. A small image does not wait behind a large one.

    Args:
        pixels: The budget.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels, self.used = pixels, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, pixels: int, seconds: float) -> Iterator[None]:
        """Hold some pixels of the budget.

        Args:
            pixels: How many; an image larger than the whole budget takes all of it.
            seconds: How long to wait for them.

        Raises:
            BudgetError: They were not free in time.
        """
        pixels = min(pixels, self.pixels)
        with self._changed:
            if not self._changed.wait_for(lambda: self.used + pixels <= self.pixels, seconds):
                raise BudgetError("too many large photos are being decoded at this moment; try again later")
            self.used += pixels
        try:
            yield
        finally:
            with self._changed:
                self.used -= pixels
                self._changed.notify_all()


class Decoder:
    """Worker processes that read images.

    Args:
        limits: See `DecodingLimits`.
    """

    def __init__(self, limits: DecodingLimits | None = None) -> None:
        self.limits = limits or DecodingLimits()
        self.budget = PixelBudget(self.limits.pixels)
        self._costly_budget = PixelBudget(max(self.limits.pixels - RESERVED, self.limits.pixels // 2))
        self._pool, self._costly = self._make_pool(self.limits.workers), self._make_pool(1)

    def _make_pool(self, workers: int) -> ProcessPool:
        from pebble import ProcessPool

        return ProcessPool(
            max_workers=workers,
            max_tasks=256,  # a new process now and then: what a codec leaks ends with it
            initializer=_limit_worker,
            initargs=[self.limits.megabytes],
            context=_context(),
        )

    @contextlib.contextmanager
    def read(self, content: bytes, target_size: tuple[int, int] | None = None) -> Iterator[ImageFile]:
        """Decode a file; the budget holds its pixels until the block ends.

        Args:
            content: The file's bytes.
            target_size: (height, width) in pixels that the model looks at, see `common.images.open_image`.

        Yields:
            The upright RGB image and what its file says, see `common.images.read_image`.

        Raises:
            GenGeoError: It is not an image, damaged, has too many pixels, or costs too much to decode.
            BudgetError: See `PixelBudget.take`.
        """
        scans = content.count(b"\xff\xda") if content.startswith(b"\xff\xd8") else 0
        if scans > MAX_SCANS:
            raise GenGeoError(f"the photo is a JPEG of more than {MAX_SCANS} scans; save it again as a plain JPEG")
        width, height = self._run(self._pool, _size, content)
        if width * height > self.limits.max_pixels:
            raise GenGeoError(
                f"the photo has {width} x {height} pixels, the limit here is {self.limits.max_pixels / 1e6:g} "
                "megapixels; make it smaller: the model looks at a few hundred pixels only"
            )
        passes = scans / 2 if scans else 1.0  # JPEGs are decoded at half the cost or less of other formats
        pixels, seconds, pool = width * height, self.limits.seconds, self._pool
        with contextlib.ExitStack() as stack:
            if pixels * passes > COSTLY:
                pool = self._costly
                stack.enter_context(self._costly_budget.take(pixels, seconds))
            stack.enter_context(self.budget.take(pixels, seconds))
            yield self._run(pool, _read, content, target_size)

    def _run(self, pool: ProcessPool, function: Any, *given: Any) -> Any:
        from pebble import ProcessExpired

        task = pool.schedule(_limited, args=[self.limits.cpu_seconds, function, *given], timeout=self.limits.seconds)
        try:
            return task.result()
        except (LateError, ProcessExpired):
            raise GenGeoError(
                f"the photo takes more than {self.limits.cpu_seconds:g} s to decode; save it again as a plain JPEG"
            ) from None
        except MemoryError:
            raise GenGeoError("the photo needs too much memory to decode; save it again as a plain JPEG") from None

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        for pool in (self._pool, self._costly):
            pool.stop()
            pool.join()


def _context() -> BaseContext:
    """How workers start: forked from a small server that has read the codecs, so that a killed one is back at once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "gengeo_hf.common.images"])
    return context


def _limit_worker(megabytes: int) -> None:
    """Give a worker a bound of memory, a low priority and none of the parent's signals."""
    import signal

    importlib.import_module("gengeo_hf.common.images")  # what every task needs

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        os.nice(5)
    try:
        import resource
    except ImportError:  # Windows: the limits of time and pixels alone hold there
        return
    memory = Path("/proc/self/statm")  # Linux; elsewhere the bound counts from zero
    start = int(memory.read_text(encoding="ascii").split()[0]) * resource.getpagesize() if memory.exists() else 2**30
    resource.setrlimit(resource.RLIMIT_AS, (start + megabytes * 2**20,) * 2)


def _limited(cpu_seconds: float, function: Any, *given: Any) -> Any:
    """Run a task; the system ends the process when its CPU time is used up, also inside a codec."""
    import signal

    timed = hasattr(signal, "setitimer")
    if timed:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    try:
        return function(*given)
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_PROF, 0)


def _size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    from gengeo_hf.common.images import image_header

    try:
        with image_header(content) as header:
            return header.size
    except MemoryError:
        raise
    except Exception:  # `_read` knows more formats, and says what is wrong
        return 0, 0


def _read(content: bytes, target_size: tuple[int, int] | None) -> ImageFile:
    from gengeo_hf.common.images import read_image

    return read_image(content, target_size=target_size)
