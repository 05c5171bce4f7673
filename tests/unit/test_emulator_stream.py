"""The event stream of an invocation, without HTTP."""

import asyncio
import json

import pytest

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator import store
from airflow_provider_kernel.emulator.store import Outcome, Record, failed
from airflow_provider_kernel.emulator.stream import follow

pytestmark = pytest.mark.no_airflow

SUCCEEDED = Outcome(InvocationStatus.SUCCEEDED, "1", None)


def record():
    return Record("id", "app", "action", "emulator", "d", None, started=0)


def decode(data):
    """Return (event, what it says) for each event."""
    found = []
    for piece in data.decode().removesuffix("\n\n").split("\n\n"):
        event = json.loads(piece.removeprefix("data: "))
        says = event.get("message") or event.get("invocation", {}).get("status")
        found.append((event["event"], says))
    return found


async def read_all(stream):
    return [event async for data in stream for event in decode(data)]


async def test_the_state_comes_first_then_what_happens_and_a_heartbeat_in_silence():
    kept = record()
    stream = follow(kept, None, heartbeat=0.01)
    seen = decode(await anext(stream)) + decode(await anext(stream))
    kept.run()
    kept.log("one", 1)
    seen += decode(await anext(stream))
    kept.log("two", 2)
    kept.end(failed("why"), 3)
    seen += await read_all(stream)

    assert kept.followers == set()
    assert seen == [
        ("invocation_state", "queued"),
        ("sse_heartbeat", None),
        ("invocation_state", "running"),
        ("log", "one"),
        ("log", "two"),
        ("invocation_state", "failed"),
    ]


async def test_a_consumer_that_leaves_is_forgotten():
    kept = record()
    stream = follow(kept, None, heartbeat=60)
    await anext(stream)
    assert len(kept.followers) == 1
    await stream.aclose()

    assert kept.followers == set()


async def test_a_long_log_comes_whole_and_the_end_comes_once():
    for count in (255, 256, 257, 512, 1000):
        kept = record()
        for number in range(count):
            kept.log(str(number), number)
        kept.end(SUCCEEDED, count)

        *lines, end = await read_all(follow(kept, None, heartbeat=60))

        assert lines == [("log", str(number)) for number in range(count)]
        assert end == ("invocation_state", "succeeded")


async def test_a_consumer_that_is_too_slow_is_told_how_much_it_missed(monkeypatch):
    monkeypatch.setattr(store, "MAX_LOG", 1000)
    kept = record()
    stream = follow(kept, None, heartbeat=60)
    await anext(stream)
    for number in range(100):
        kept.log(str(number), number)
    kept.end(SUCCEEDED, 100)

    first, *lines, _ = await read_all(stream)

    assert first == ("log", f"[{kept.dropped} older lines of this log were dropped]")
    assert lines == [("log", str(number)) for number in range(kept.dropped, 100)]


async def test_a_long_log_lets_other_requests_through():
    kept = record()
    for number in range(10_000):
        kept.log(str(number), number)
    kept.end(SUCCEEDED, 10_000)
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    pieces = [data async for data in follow(kept, None, heartbeat=60)]
    task.cancel()

    assert turns >= len(pieces) - 1 > 10
