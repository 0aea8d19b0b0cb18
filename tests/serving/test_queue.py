import asyncio
import threading

import pytest

from gengeo_hf.serving.queue import BusyError, Limits, Line


def test_never_more_at_work_than_workers_and_all_are_answered():
    now, most, lock = 0, 0, threading.Lock()

    def work(number):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.005)
        with lock:
            now -= 1
        return number

    async def one(line, number):
        async with line.ticket():
            return await line.run(lambda: work(number))

    async def all_of_them():
        line = Line(Limits(queue=50, workers=3))
        found = await asyncio.gather(*(one(line, number) for number in range(50)))
        return found, line

    found, line = asyncio.run(all_of_them())
    assert found == list(range(50)) and most == 3 and line.inside == 0


def test_a_full_line_says_when_to_come_back():
    async def run():
        line = Line(Limits(queue=2))
        async with line.ticket(), line.ticket():
            with pytest.raises(BusyError, match="try again") as refused:
                async with line.ticket():
                    pass
        async with line.ticket():
            assert line.inside == 1
        return refused.value.retry_after, line.refused

    assert asyncio.run(run()) == (1, 1)


def test_bytes_count_as_well_as_requests():
    async def run():
        line = Line(Limits(queue_bytes=100))
        async with line.ticket() as first:
            first.take(70)
            with pytest.raises(BusyError):
                async with line.ticket() as second:
                    second.take(31)
            async with line.ticket() as third:
                third.take(30)
        return line.held

    assert asyncio.run(run()) == 0


def test_who_gives_up_while_waiting_is_never_worked_on_and_who_is_worked_on_keeps_his_worker():
    let_go, started = threading.Event(), []

    def work(number):
        started.append(number)
        let_go.wait(10)

    async def one(line, number):
        async with line.ticket():
            await line.run(lambda: work(number))

    async def run():
        line = Line(Limits(workers=1, seconds=0.1))
        outcomes = await asyncio.gather(*(one(line, number) for number in range(3)), return_exceptions=True)
        busy_still = line._free.locked()
        let_go.set()
        async with line.ticket():
            assert await line.run(lambda: "next") == "next"
        return outcomes, busy_still

    outcomes, busy_still = asyncio.run(run())
    assert all(isinstance(outcome, TimeoutError) for outcome in outcomes)
    assert started == [0] and busy_still
