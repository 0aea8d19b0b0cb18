"""A bounded line of requests: so many wait, so many are worked on, none waits for ever.

Before: the service, which holds bodies of unknown size. After: worker threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


class BusyError(Exception):
    """The line is full.

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
        queue_bytes: all uploads that are inside together; beyond, the line is full.
    """

    queue: int = 256
    workers: int = 8
    seconds: float = 60.0
    photo_bytes: int = 20_000_000
    queue_bytes: int = 512_000_000


class Ticket:
    """A place in the line; it knows how many bytes its request holds."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.held = 0

    def take(self, size: int) -> None:
        """Account for bytes that have arrived.

        Raises:
            BusyError: all requests together hold too much.
        """
        if self._line.held + size > self._line.limits.queue_bytes:
            raise BusyError(self._line.retry_after)
        self._line.held += size
        self.held += size


class Line:
    """The line and its workers. Everything but the work itself happens in the event loop's thread.

    Args:
        limits: see `Limits`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.inside = 0  # requests with a ticket
        self.held = 0  # bytes of their uploads
        self.refused = 0
        self._seconds_each = 0.1  # of work, a moving mean
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="gengeo-worker")
        self._free = asyncio.Semaphore(limits.workers)

    @property
    def retry_after(self) -> int:
        """Seconds until half of the line will have been answered, at the pace of the last requests."""
        return max(1, math.ceil(self.inside / 2 * self._seconds_each / self.limits.workers))

    @contextlib.asynccontextmanager
    async def ticket(self) -> AsyncIterator[Ticket]:
        """A place in the line for the time of a request.

        Raises:
            BusyError: there is none.
            TimeoutError: the request took longer than the limit.
        """
        if self.inside >= self.limits.queue:
            self.refused += 1
            raise BusyError(self.retry_after)
        self.inside += 1
        ticket = Ticket(self)
        try:
            async with asyncio.timeout(self.limits.seconds):
                yield ticket
        except BusyError:
            self.refused += 1
            raise
        finally:
            self.inside -= 1
            self.held -= ticket.held

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
        """Let the workers finish and end."""
        self._pool.shutdown(wait=True)
