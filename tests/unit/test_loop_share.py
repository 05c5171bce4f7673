"""Who reads much waits in a line; who reads little does not. Many streams are opened by turns."""

from __future__ import annotations

import asyncio
import time

import pytest

from airflow_provider_kernel.transport.loop_share import BURST, LoopShare, Turns

#: Seconds of one piece of work.
PIECE = 0.004


def work() -> None:
    until = time.perf_counter() + PIECE
    while time.perf_counter() < until:
        pass


async def test_work_within_the_credit_does_not_wait_for_the_lock():
    line = asyncio.Lock()
    await line.acquire()
    assert await asyncio.wait_for(LoopShare(line).do(lambda: "done"), 10) == "done"


async def test_work_without_credit_waits_for_the_lock():
    line = asyncio.Lock()
    share = LoopShare(line)
    share.charge(2 * BURST)
    await line.acquire()
    waiting = asyncio.create_task(share.do(lambda: "done"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    line.release()
    assert await asyncio.wait_for(waiting, 10) == "done"


async def test_replies_without_credit_take_turns_and_leave_half_of_the_time_to_others():
    line, done, others = asyncio.Lock(), [0] * 10, 0

    async def much(number: int) -> None:
        share = LoopShare(line)
        share.charge(2 * BURST)
        while True:
            await share.do(work)
            done[number] += 1

    tasks = [asyncio.create_task(much(number)) for number in range(10)]
    while min(done) < 3:
        await asyncio.sleep(0)
        others += 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert max(done) - min(done) <= 1
    assert others > sum(done)  # between any two pieces of theirs


async def test_failing_work_is_charged_and_releases_the_lock():
    line = asyncio.Lock()
    share = LoopShare(line)
    share.charge(2 * BURST)

    def fail() -> None:
        raise ValueError("so")

    for _ in range(2):
        with pytest.raises(ValueError, match="so"):
            await share.do(fail)
    assert not line.locked()


async def test_turns_let_one_lot_through_at_a_time_however_long_the_loop_was_held():
    turns = Turns(2, 0.01)
    waits = [asyncio.create_task(turns.take(1000)) for _ in range(9)]
    done, lots = 0, []
    while done < len(waits):
        await asyncio.sleep(0)  # one iteration of the loop
        lots.append(sum(wait.done() for wait in waits) - done)
        done += lots[-1]
        if lots[-1]:
            time.sleep(0.05)
    assert [lot for lot in lots if lot] == [2, 2, 2, 2, 1]


async def test_turns_pass_over_those_that_gave_up():
    turns = Turns(1, 1000)
    await turns.take(1000)
    gives_up, cancelled, waits = (asyncio.create_task(turns.take(wait)) for wait in (0.001, 1000, 1000))
    await asyncio.sleep(0)
    cancelled.cancel()
    await gives_up
    assert not waits.done()
    turns._next_lot()
    await asyncio.wait_for(waits, 10)
