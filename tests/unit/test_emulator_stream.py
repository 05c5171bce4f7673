"""The event stream of an invocation, without HTTP."""

import asyncio
import json

import pytest

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator import store
from airflow_provider_kernel.emulator.store import InvocationResult, StoredInvocation, failed
from airflow_provider_kernel.emulator.stream import event_stream

pytestmark = pytest.mark.no_airflow

SUCCEEDED = InvocationResult(InvocationStatus.SUCCEEDED, "1", None)


def queued_invocation():
    return StoredInvocation("id", "app", "action", "emulator", "d", None, started=0)


def decode(data):
    """Return the name, and the message or the status, of each event."""
    found = []
    for piece in data.decode().removesuffix("\n\n").split("\n\n"):
        event = json.loads(piece.removeprefix("data: "))
        text = event.get("message") or event.get("invocation", {}).get("status")
        found.append((event["event"], text))
    return found


async def read_all(stream):
    return [event async for data in stream for event in decode(data)]


async def test_stream_has_the_state_first_then_changes_and_heartbeats():
    invocation = queued_invocation()
    stream = event_stream(invocation, None, heartbeat=0.01)
    seen = decode(await anext(stream)) + decode(await anext(stream))
    invocation.mark_running()
    invocation.add_line("one", 1)
    seen += decode(await anext(stream))
    invocation.add_line("two", 2)
    invocation.finish(failed("why"), 3)
    seen += await read_all(stream)

    assert invocation.listeners == []
    assert seen == [
        ("invocation_state", "queued"),
        ("sse_heartbeat", None),
        ("invocation_state", "running"),
        ("log", "one"),
        ("log", "two"),
        ("invocation_state", "failed"),
    ]


async def test_listener_is_removed_when_the_client_disconnects():
    invocation = queued_invocation()
    stream = event_stream(invocation, None, heartbeat=60)
    await anext(stream)
    assert len(invocation.listeners) == 1
    await stream.aclose()

    assert invocation.listeners == []


async def test_stream_has_every_line_and_one_end_when_the_log_is_long():
    for count in (255, 256, 257, 512, 1000):
        invocation = queued_invocation()
        for number in range(count):
            invocation.add_line(str(number), number)
        invocation.finish(SUCCEEDED, count)

        *lines, end = await read_all(event_stream(invocation, None, heartbeat=60))

        assert lines == [("log", str(number)) for number in range(count)]
        assert end == ("invocation_state", "succeeded")


async def test_stream_reports_dropped_lines_when_the_client_is_slow(monkeypatch):
    monkeypatch.setattr(store, "MAX_LOG_SIZE", 1000)
    invocation = queued_invocation()
    stream = event_stream(invocation, None, heartbeat=60)
    await anext(stream)
    for number in range(100):
        invocation.add_line(str(number), number)
    invocation.finish(SUCCEEDED, 100)

    first, *lines, _ = await read_all(stream)

    assert first == ("log", f"[{invocation.dropped} older lines of this log were dropped.]")
    assert lines == [("log", str(number)) for number in range(invocation.dropped, 100)]


async def test_stream_lets_other_tasks_run_when_the_log_is_long():
    invocation = queued_invocation()
    for number in range(10_000):
        invocation.add_line(str(number), number)
    invocation.finish(SUCCEEDED, 10_000)
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    pieces = [data async for data in event_stream(invocation, None, heartbeat=60)]
    task.cancel()

    assert turns >= len(pieces) - 1 > 10
