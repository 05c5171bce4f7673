"""The wait over real HTTP, asked of both hooks: what one does the other does."""

from __future__ import annotations

import asyncio
import threading
import time
from urllib.parse import unquote

import pytest

from airflow_provider_kernel.api.errors import KernelInvocationTimeoutError, KernelInvocationUnknownError
from airflow_provider_kernel.hooks import kernel_async
from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook
from airflow_provider_kernel.lifecycle import wait_machine
from tests.integration.scripted import Stream, error, html, invocation, log, state

pytestmark = pytest.mark.usefixtures("no_line_is_late")

LOOK = "GET /invocations/inv1"
STREAM = "GET /invocations/inv1/events"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """The pauses are proved, without waiting, by the unit tests of the state machine."""
    monkeypatch.setattr(wait_machine.WaitMachine, "_pause", lambda self, count: 0.01)
    monkeypatch.setattr(wait_machine, "MAX_STREAM_PAUSE", 0.01)
    monkeypatch.setattr(wait_machine, "RECONNECT_SPREAD", 0.01)


def test_wait_takes_two_requests_when_the_stream_works(server, wait):
    lines = []
    server.on(STREAM, Stream(state("running"), log("one", 1), log("two", 2), state("succeeded")))
    server.on(LOOK, invocation("succeeded", output='{"price": 1}'))
    assert wait("inv1", on_log=lines.append).output == {"price": 1}
    assert lines == ["one", "two"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "as an old proxy passes it on"])
def test_log_line_is_written_before_the_stream_ends(server, wait, chunked):
    seen, before_the_end = threading.Event(), []

    def events():
        yield log("one", 1)
        before_the_end.append(seen.wait(20))
        yield state("succeeded")

    stream = Stream(chunked=chunked)
    stream.events = events()
    server.on(STREAM, stream)
    server.on(LOOK, invocation("succeeded"))
    wait("inv1", on_log=lambda line: seen.set())
    assert before_the_end == [True]


@pytest.mark.parametrize("end", ["cut", "end"])
def test_broken_stream_is_reopened_without_repeated_lines(server, wait, end):
    lines = []
    server.on(
        STREAM,
        Stream(log("one", 1), log("two", 5), end=end),
        Stream(log("two", 5), log("two", 5), log("three", 6), state("succeeded")),
    )
    server.on(LOOK, invocation("running"), invocation("succeeded"))
    wait("inv1", on_log=lines.append)
    assert lines == ["one", "two", "two", "three"]
    assert "since=2026-01-01T00:00:04.000000000Z" in unquote(server.seen(STREAM)[1].path)


def test_silent_stream_causes_a_poll(server, wait, monkeypatch):
    monkeypatch.setattr(wait_machine, "STREAM_IDLE_TIMEOUT", 0.2)
    server.on(STREAM, Stream(state("running"), end="silent"))
    server.on(LOOK, invocation("running"), invocation("succeeded"))
    assert wait("inv1").status == "succeeded"


def test_working_stream_is_left_for_a_poll_after_its_maximum_lifetime(server, wait, monkeypatch):
    monkeypatch.setattr(wait_machine, "STREAM_MAX_LIFETIME", 0.2)
    server.on(STREAM, Stream(*[log(f"{n}", n) for n in range(3)], end="silent"))
    server.on(LOOK, invocation("succeeded"))
    assert wait("inv1").status == "succeeded"


def test_end_in_an_event_is_confirmed_by_a_poll(server, wait):
    server.on(STREAM, Stream(state("succeeded")))
    server.on(LOOK, invocation("running"), invocation("running"), invocation("failed"))
    assert wait("inv1").status == "failed"


@pytest.mark.parametrize("refusal", [error(401), error(403), html(403)])
def test_wait_raises_after_a_second_refusal(server, wait, refusal):
    server.on(STREAM, refusal)
    server.on(LOOK, refusal)
    says = f"inv1 could not be determined: Kernel answered {refusal.status}"
    with pytest.raises(KernelInvocationUnknownError, match=says):
        wait("inv1")
    assert len(server.seen(LOOK)) == 2


def test_wait_times_out_during_a_stream_after_a_last_poll(server, wait):
    server.on(STREAM, Stream(state("running"), end="silent"))
    server.on(LOOK, invocation("running"))
    began = time.monotonic()
    with pytest.raises(KernelInvocationTimeoutError, match="inv1 had not ended by its deadline"):
        wait("inv1", timeout=0.5)
    assert 0.5 <= time.monotonic() - began < 5
    assert len(server.seen(LOOK)) == 1


def test_last_poll_sees_an_end_at_the_deadline(server, wait):
    server.on(STREAM, Stream(state("running"), end="silent"))
    server.on(LOOK, invocation("succeeded", output="1"))
    assert wait("inv1", timeout=0.3).output == 1


def test_streams_of_many_triggers_are_opened_by_turns(server, monkeypatch):
    monkeypatch.setattr(kernel_async, "STREAMS_AT_ONCE", 1)
    monkeypatch.setattr(kernel_async, "STREAM_SPACING", 1000.0)
    server.on(STREAM, Stream(state("running"), end="silent"))

    async def wait_three_times():
        async with KernelAsyncHook() as hook:
            waits = [asyncio.create_task(hook.wait_for_invocation("inv1")) for _ in range(3)]
            while len(hook._in_use().stream_turns._waiting) < 2 or not server.seen(STREAM):
                await asyncio.sleep(0.01)
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    asyncio.run(asyncio.wait_for(wait_three_times(), 60))
    assert len(server.seen(STREAM)) == 1


def test_delay_of_a_stream_counts_toward_its_maximum_lifetime(server, monkeypatch):
    monkeypatch.setattr(kernel_async, "STREAMS_AT_ONCE", 1)
    monkeypatch.setattr(kernel_async, "STREAM_SPACING", 1000.0)
    server.on(STREAM, Stream(state("running"), end="silent"))
    server.on(LOOK, invocation("running"))

    async def wait_twice():
        async with KernelAsyncHook() as hook:
            for _ in range(2):
                with pytest.raises(KernelInvocationTimeoutError):
                    await hook.wait_for_invocation("inv1", deadline=time.time() + 0.3)

    began = time.monotonic()
    asyncio.run(wait_twice())
    assert time.monotonic() - began < 500


def test_follow_invocation_yields_the_events(server):
    server.on(STREAM, Stream(log("one", 1), state("running"), state("succeeded")))
    with KernelHook() as hook:
        followed = list(hook.follow_invocation("inv1", since="5m"))

    async def follow():
        async with KernelAsyncHook() as hook:
            return [event async for event in hook.follow_invocation("inv1", since="5m")]

    assert [type(event).__name__ for event in followed] == ["LogEvent", "StateEvent", "StateEvent"]
    assert asyncio.run(follow()) == followed
    assert {request.path.partition("?")[2] for request in server.requests} == {"since=5m"}
