"""A bounded queue of requests: so many wait, so many are worked on, none waits without end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


class BusyError(Exception):
    """The queue is full.

    Args:
        retry_after: seconds after which a place should be free.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"all places in the queue are taken; try again in about {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Limits:
    """How much a service takes on.

    Args:
        queue: requests that are inside at the same time, being received, waiting or worked on.
        workers: photos that are decoded and located at the same time; also the largest batch of the encoder.
        seconds: time limit of a request, from its first byte to its answer.
        photo_bytes: largest upload.
        queue_bytes: all uploads that are inside together; beyond, the queue is full.
    """

    queue: int = 256
    workers: int = 8
    seconds: float = 60.0
    photo_bytes: int = 20_000_000
    queue_bytes: int = 512_000_000


class Slot:
    """A slot of the queue; it knows how many bytes its request holds."""

    def __init__(self, queue: RequestQueue) -> None:
        self._queue = queue
        self.held = 0

    def take(self, size: int) -> None:
        """Account for bytes that have arrived.

        Raises:
            BusyError: all requests together hold too much.
        """
        if self._queue.held + size > self._queue.limits.queue_bytes:
            raise BusyError(self._queue.retry_after)
        self._queue.held += size
        self.held += size


def _leave(entered: Future[Result], reading: contextlib.AbstractContextManager[Result]) -> None:
    """Leave a context that was entered for nothing; one that was never entered is left alone."""
    if not entered.cancelled() and entered.exception() is None:
        reading.__exit__(None, None, None)


class RequestQueue:
    """The queue and its workers. Everything but the work itself happens in the event loop's thread.

    Args:
        limits: see `Limits`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.inside = 0  # requests with a slot
        self.held = 0  # bytes of their uploads
        self.refused = 0
        self._seconds_each = 0.1  # of work, a moving mean
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="gengeo-worker")
        self._waiters = ThreadPoolExecutor(limits.queue, thread_name_prefix="gengeo-decode")  # they only wait
        self._free = asyncio.Semaphore(limits.workers)

    @property
    def retry_after(self) -> int:
        """Seconds until half of the queue will have been answered, at the pace of the last requests."""
        return max(1, math.ceil(self.inside / 2 * self._seconds_each / self.limits.workers))

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """A slot for the time of a request.

        Raises:
            BusyError: there is none.
            TimeoutError: the request took longer than the limit.
        """
        if self.inside >= self.limits.queue:
            self.refused += 1
            raise BusyError(self.retry_after)
        self.inside += 1
        slot = Slot(self)
        try:
            async with asyncio.timeout(self.limits.seconds):
                yield slot
        except BusyError:
            self.refused += 1
            raise
        finally:
            self.inside -= 1
            self.held -= slot.held

    @contextlib.asynccontextmanager
    async def decoded(self, reading: contextlib.AbstractContextManager[Result]) -> AsyncIterator[Result]:
        """Enter a context that waits for a decoder, in a thread of its own, and leave it in every case.

        Args:
            reading: See `serving.decoding.Decoder.read`.
        """
        future = self._waiters.submit(reading.__enter__)
        try:
            image = await asyncio.wrap_future(future)
        except asyncio.CancelledError:  # the request was given up: what it gets now is given back
            future.add_done_callback(lambda done: _leave(done, reading))
            raise
        try:
            yield image
        finally:
            reading.__exit__(None, None, None)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in a worker thread when one is free.

        A request that is given up while it waits costs nothing more. One that is already worked on keeps its worker
        until it is done, for a thread cannot be stopped: so there are never more than `workers` of them.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        future = self._pool.submit(work)

        def free(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, nobody waits any more
                loop.call_soon_threadsafe(self._done, started)

        future.add_done_callback(free)
        return await asyncio.wrap_future(future)

    def _done(self, started: float) -> None:
        self._seconds_each += 0.1 * (time.perf_counter() - started - self._seconds_each)
        self._free.release()

    def close(self) -> None:
        """Let the workers finish and end; what only waits is given up."""
        self._waiters.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=True)
