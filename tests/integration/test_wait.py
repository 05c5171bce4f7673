"""The wait over real HTTP, asked of both hooks: what one does the other does."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from urllib.parse import unquote

import pytest

from airflow_provider_kernel.api import waiting
from airflow_provider_kernel.api.errors import KernelInvocationTimeout, KernelInvocationUnsettled
from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook
from tests.integration.scripted import Reply, Stream, error, html, invocation, log, serving, state

pytestmark = pytest.mark.usefixtures("no_line_is_late")

LOOK = "GET /invocations/inv1"
STREAM = "GET /invocations/inv1/events"


@pytest.fixture
def server(monkeypatch):
    with serving() as server:
        connection = {"conn_type": "kernel", "host": server.url, "password": "sk_test_token"}
        monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", json.dumps(connection))
        yield server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """The pauses are proved, without waiting, by the unit tests of the state machine."""
    monkeypatch.setattr(waiting.Wait, "_pause", lambda self, count: 0.01)
    monkeypatch.setattr(waiting, "MAX_STREAM_PAUSE", 0.01)
    monkeypatch.setattr(waiting, "RECONNECT_SPREAD", 0.01)


@pytest.fixture(params=["requests", "aiohttp"])
def wait(request, server):
    """``wait(timeout=…, on_log=…)`` waits for the invocation ``inv1``."""

    def wait_synchronously(timeout=20.0, **kwargs):
        with KernelHook() as hook:
            return hook.wait_for_invocation("inv1", timeout=timeout, **kwargs)

    async def wait_asynchronously(timeout, kwargs):
        async with KernelAsyncHook() as hook:
            return await hook.wait_for_invocation("inv1", deadline=time.time() + timeout, **kwargs)

    if request.param == "requests":
        return wait_synchronously
    return lambda timeout=20.0, **kwargs: asyncio.run(wait_asynchronously(timeout, kwargs))


def test_a_stream_to_the_end_costs_two_requests(server, wait):
    lines = []
    server.on(STREAM, Stream(state("running"), log("one", 1), log("two", 2), state("succeeded")))
    server.on(LOOK, invocation("succeeded", output='{"price": 1}'))
    assert wait(on_log=lines.append).output == {"price": 1}
    assert lines == ["one", "two"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "as an old proxy passes it on"])
def test_a_log_line_is_there_before_the_stream_ends(server, wait, chunked):
    seen, before_the_end = threading.Event(), []

    def events():
        yield log("one", 1)
        before_the_end.append(seen.wait(20))
        yield state("succeeded")

    stream = Stream(chunked=chunked)
    stream.events = events()
    server.on(STREAM, stream)
    server.on(LOOK, invocation("succeeded"))
    wait(on_log=lambda line: seen.set())
    assert before_the_end == [True]


def test_without_interest_in_logs_the_wait_is_the_same(server, wait):
    server.on(STREAM, Stream(log("one", 1), state("failed")))
    server.on(LOOK, invocation("failed", status_reason="raised"))
    assert wait().status == "failed"
    assert len(server.requests) == 2


@pytest.mark.parametrize("end", ["cut", "end"])
def test_a_stream_that_breaks_is_opened_again_where_it_stopped_and_no_line_comes_twice(server, wait, end):
    lines = []
    server.on(
        STREAM,
        Stream(log("one", 1), log("two", 5), end=end),
        Stream(log("two", 5), log("two", 5), log("three", 6), state("succeeded")),
    )
    server.on(LOOK, invocation("running"), invocation("succeeded"))
    wait(on_log=lines.append)
    assert lines == ["one", "two", "two", "three"]
    assert "since=2026-01-01T00:00:04.000000000Z" in unquote(server.seen(STREAM)[1].path)


def test_a_silent_stream_makes_it_look(server, wait, monkeypatch):
    monkeypatch.setattr(waiting, "STREAM_SILENCE", 0.2)
    server.on(STREAM, Stream(state("running"), end="silent"))
    server.on(LOOK, invocation("running"), invocation("succeeded"))
    assert wait().status == "succeeded"


def test_even_a_stream_that_seems_well_is_left_now_and_then_to_look(server, wait, monkeypatch):
    monkeypatch.setattr(waiting, "MAX_STREAM_LIFE", 0.2)
    server.on(STREAM, Stream(*[log(f"{n}", n) for n in range(3)], end="silent"))
    server.on(LOOK, invocation("succeeded"))
    assert wait().status == "succeeded"


@pytest.mark.parametrize("refusal", [html(502), error(500), error(429), html(200), Reply(drop=True)])
def test_without_any_stream_it_looks_until_the_end(server, wait, refusal):
    server.on(STREAM, refusal)
    server.on(LOOK, *[invocation("running")] * 5, invocation("succeeded"))
    assert wait().status == "succeeded"


def test_the_end_that_an_event_tells_is_believed_only_of_a_look(server, wait):
    server.on(STREAM, Stream(state("succeeded")))
    server.on(LOOK, invocation("running"), invocation("running"), invocation("failed"))
    assert wait().status == "failed"


@pytest.mark.parametrize(
    "trouble",
    [html(502), error(503), error(429), Reply(drop=True), html(200), error(404), invocation("paused")],
)
def test_trouble_with_a_look_is_waited_out(server, wait, trouble):
    server.on(STREAM, Stream())
    server.on(LOOK, *[trouble] * 5, invocation("succeeded"))
    assert wait().status == "succeeded"


def test_malformed_and_unknown_events_are_passed_over(server, wait):
    lines = []
    noise = [
        b"data: {\n\n",
        b'data: {"event": "party"}\n\n',
        b": comment\n\n",
        b"\xff\xfe\n\n",
        b'data: {"event": "log"}\n\n',
    ]
    server.on(STREAM, Stream(*noise, log("one", 1), *noise, state("succeeded")))
    server.on(LOOK, invocation("succeeded"))
    wait(on_log=lines.append)
    assert lines == ["one"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_asked_once_more_and_then_given_up(server, wait, status):
    server.on(STREAM, error(status))
    server.on(LOOK, error(status))
    with pytest.raises(
        KernelInvocationUnsettled, match=f"inv1 could not be learned: Kernel answered {status}"
    ):
        wait()
    assert len(server.seen(LOOK)) == 2


def test_an_unknown_status_is_never_an_end(server, wait):
    server.on(STREAM, Stream(state("completed")))
    server.on(LOOK, invocation("completed"))
    with pytest.raises(KernelInvocationTimeout):
        wait(timeout=0.5)


def test_the_deadline_holds_while_a_stream_is_open_and_after_a_last_look(server, wait):
    server.on(STREAM, Stream(state("running"), end="silent"))
    server.on(LOOK, invocation("running"))
    began = time.monotonic()
    with pytest.raises(KernelInvocationTimeout, match="inv1 had not ended by its deadline"):
        wait(timeout=0.5)
    assert 0.5 <= time.monotonic() - began < 5
    assert len(server.seen(LOOK)) == 1


def test_an_end_at_the_deadline_is_seen_by_the_last_look(server, wait):
    server.on(STREAM, Stream(state("running"), end="silent"))
    server.on(LOOK, invocation("succeeded", output="1"))
    assert wait(timeout=0.3).output == 1


def test_a_follower_gets_the_events_as_they_are(server):
    server.on(STREAM, Stream(log("one", 1), state("running"), state("succeeded")))
    with KernelHook() as hook:
        followed = list(hook.follow_invocation("inv1", since="5m"))

    async def follow():
        async with KernelAsyncHook() as hook:
            return [event async for event in hook.follow_invocation("inv1", since="5m")]

    assert [type(event).__name__ for event in followed] == ["LogEvent", "StateEvent", "StateEvent"]
    assert asyncio.run(follow()) == followed
    assert {request.path.partition("?")[2] for request in server.requests} == {"since=5m"}
