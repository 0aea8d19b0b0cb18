"""`RequestQueue`: limits of requests, bytes and workers, and requests that are cancelled."""

import asyncio
import contextlib
import threading

import pytest

from gengeo_hf.serving.queue import BusyError, Limits, RequestQueue


def test_run_uses_at_most_all_workers_and_answers_every_request():
    running, most, lock = 0, 0, threading.Lock()

    def work(number):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.005)
        with lock:
            running -= 1
        return number

    async def one(queue, number):
        async with queue.slot():
            return await queue.run(lambda: work(number))

    async def all_of_them():
        queue = RequestQueue(Limits(queue=50, workers=3))
        found = await asyncio.gather(*(one(queue, number) for number in range(50)))
        return found, queue

    found, queue = asyncio.run(all_of_them())
    assert found == list(range(50)) and most == 3 and queue.inside == 0


def test_full_queue_raises_busy_with_retry_after():
    async def run():
        queue = RequestQueue(Limits(queue=2))
        async with queue.slot(), queue.slot():
            with pytest.raises(BusyError, match="try again") as refused:
                async with queue.slot():
                    pass
        async with queue.slot():
            assert queue.inside == 1
        return refused.value.retry_after, queue.refused

    assert asyncio.run(run()) == (1, 1)


def test_queue_is_full_when_bytes_exceed_limit():
    async def run():
        queue = RequestQueue(Limits(queue_bytes=100))
        async with queue.slot() as first:
            first.take(70)
            with pytest.raises(BusyError):
                async with queue.slot() as second:
                    second.take(31)
            async with queue.slot() as third:
                third.take(30)
        return queue.held

    assert asyncio.run(run()) == 0


def test_cancelled_request_is_skipped_while_waiting_and_keeps_worker_while_running():
    go, started = threading.Event(), []

    def work(number):
        started.append(number)
        go.wait(10)

    async def one(queue, number):
        async with queue.slot():
            await queue.run(lambda: work(number))

    async def run():
        queue = RequestQueue(Limits(workers=1, seconds=0.1))
        outcomes = await asyncio.gather(*(one(queue, number) for number in range(3)), return_exceptions=True)
        is_busy = queue._free.locked()
        go.set()
        async with queue.slot():
            assert await queue.run(lambda: "next") == "next"
        return outcomes, is_busy

    outcomes, is_busy = asyncio.run(run())
    assert all(isinstance(outcome, TimeoutError) for outcome in outcomes)
    assert started == [0] and is_busy


@pytest.mark.parametrize("pending", [False, True])
def test_decoded_context_is_exited_after_request_was_cancelled(pending):
    """A decoder may finish after the time limit; its pixels must not stay in the budget."""
    go, events = threading.Event(), []

    @contextlib.contextmanager
    def reading():
        go.wait(10)
        events.append("entered")
        try:
            yield
        finally:
            events.append("left")

    async def run():
        queue = RequestQueue(Limits(queue=1 if pending else 2, workers=1))
        blocked = [asyncio.create_task(use(queue)) for _ in range(2 if pending else 1)]
        await asyncio.sleep(0.1)
        for task in blocked:
            task.cancel()
        await asyncio.gather(*blocked, return_exceptions=True)
        go.set()
        await asyncio.get_running_loop().run_in_executor(None, queue._waiters.shutdown)

    async def use(queue):
        async with queue.decoded(reading()):
            raise AssertionError("the request was cancelled")

    asyncio.run(run())
    assert events == ["entered", "left"]
