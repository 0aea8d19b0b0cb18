"""A bounded queue of requests: limits of how many wait, how many are processed, and how long each takes."""

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
        retry_after: Seconds after which a slot should be free.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in about {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Limits:
    """Limits of a service.

    Args:
        queue: Number of requests in the queue at the same time: being received, waiting or being processed.
        workers: Number of photos that are located at the same time.
        seconds: Time limit of a request in seconds, from its first byte to its answer.
        photo_bytes: Largest upload, in bytes.
        queue_bytes: Bytes of all uploads in the queue together; with more, the queue is full.
    """

    queue: int = 256
    workers: int = 8
    seconds: float = 60.0
    photo_bytes: int = 20_000_000
    queue_bytes: int = 512_000_000


class Slot:
    """A slot of the queue, which counts the bytes of its request."""

    def __init__(self, queue: RequestQueue) -> None:
        self._queue = queue
        self.held = 0

    def take(self, size: int) -> None:
        """Count received bytes.

        Args:
            size: Number of bytes.

        Raises:
            BusyError: The uploads of all requests together exceed the limit of the queue.
        """
        if self._queue.held + size > self._queue.limits.queue_bytes:
            raise BusyError(self._queue.retry_after)
        self._queue.held += size
        self.held += size


def _exit_if_entered(entered: Future[Result], reading: contextlib.AbstractContextManager[Result]) -> None:
    """Exit a context that was entered after its request was cancelled."""
    if not entered.cancelled() and entered.exception() is None:
        reading.__exit__(None, None, None)


class RequestQueue:
    """The queue and its workers. Only the work itself runs outside the thread of the event loop.

    Args:
        limits: Limits of the queue, see `Limits`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.inside = 0  # requests with a slot
        self.held = 0  # bytes of the uploads of these requests
        self.refused = 0
        self._seconds_each = 0.1  # processing time of a request, a moving mean
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="gengeo-worker")
        self._waiters = ThreadPoolExecutor(limits.queue, thread_name_prefix="gengeo-decode")  # wait for decoders
        self._free = asyncio.Semaphore(limits.workers)

    @property
    def retry_after(self) -> int:
        """Seconds until half of the queue should be answered, from the processing time of the last requests."""
        return max(1, math.ceil(self.inside / 2 * self._seconds_each / self.limits.workers))

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Take a slot until the block ends, with a time limit for the block.

        Raises:
            BusyError: The queue is full.
            TimeoutError: The request took longer than the time limit.
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
        """Enter a context that waits for a decoder, in another thread, and exit it also if the request is cancelled.

        Args:
            reading: The context, see `serving.decoding.Decoder.read`.
        """
        future = self._waiters.submit(reading.__enter__)
        try:
            image = await asyncio.wrap_future(future)
        except asyncio.CancelledError:  # the thread may still enter the context
            future.add_done_callback(lambda done: _exit_if_entered(done, reading))
            raise
        try:
            yield image
        finally:
            reading.__exit__(None, None, None)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in a worker thread when one is free.

        A request that is cancelled while it waits is not processed. A request that is cancelled while it is processed
        keeps its worker until the work is done, because a thread cannot be stopped. So at most `workers` are running.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        future = self._pool.submit(work)

        def free(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(self._done, started)

        future.add_done_callback(free)
        return await asyncio.wrap_future(future)

    def _done(self, started: float) -> None:
        self._seconds_each += 0.1 * (time.perf_counter() - started - self._seconds_each)
        self._free.release()

    def close(self) -> None:
        """Cancel what waits, wait for what is being processed, and end the threads."""
        self._waiters.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=True)
