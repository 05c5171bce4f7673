"""The wait survives whatever befalls its requests on the way, in both hooks, and no line of the log is lost or doubled."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest

from airflow_provider_kernel.lifecycle import wait_machine
from airflow_provider_kernel.lifecycle.log_buffer import REPLAY, REPLAY_OVER
from tests import faults

pytestmark = [pytest.mark.one_airflow, pytest.mark.usefixtures("no_line_is_late")]

LOOK = "GET /invocations/{id}"
STREAM = "GET /invocations/{id}/events"
OLD, NEW = "sk_the_old_token", "sk_the_new_token"


@pytest.fixture(autouse=True)
def by_proxy(proxy, connect):
    """Return what sets the connection ``kernel_default``, through the proxy."""

    def by_proxy(token=OLD, **extra):
        connect(host=proxy.base_url, password=token, extra=extra)

    by_proxy(timeout=2)
    return by_proxy


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Their real length is proved, without waiting, by the unit tests of the state machine."""
    monkeypatch.setattr(wait_machine.WaitMachine, "_pause", lambda self, count: 0.02)
    monkeypatch.setattr(wait_machine, "MAX_STREAM_PAUSE", 0.05)
    monkeypatch.setattr(
        wait_machine, "STREAM_IDLE_TIMEOUT", 1.0
    )  # the emulator's heartbeat comes twice as often
    monkeypatch.setattr(wait_machine, "LOG_DRAIN_IDLE_TIMEOUT", 1.0)


def printed(count):
    """What the action ``logs`` prints."""
    return [f"line {number}" for number in range(count)]


BOTH_ANSWER = {
    "500": faults.answer(500),
    "503": faults.answer(503),
    "529": faults.answer(529),
    "408": faults.answer(408),
    "429": faults.answer(429),
    "HTML 502": faults.html(502),
    "HTML 200": faults.html(200),
    "HTML 404": faults.html(404),
    "a redirect": faults.answer(302, b"", {"Location": "https://status.example.com/"}),
    "404": faults.answer(404),
    "nothing: the request is lost": faults.drop_request(),
    "nothing: the reply is lost": faults.cut_after(size=3),
    "a reset": faults.cut_after(size=3, reset=True),
}
CUT = (STREAM, faults.cut_after(events=6), 1)
SPELLS = {
    **{
        f"both are answered {name}": [(STREAM, fault, 1), CUT, (STREAM, fault, 2), (LOOK, fault, 2)]
        for name, fault in BOTH_ANSWER.items()
    },
    "one 401": [CUT, (STREAM, faults.answer(401), 1), (LOOK, faults.answer(401), 1)],
    "the API goes down, twice": [CUT, CUT, (LOOK, faults.refuse(0.4), 2)],
    "streams are cut": [(STREAM, faults.cut_after(events=n, reset=n == 9), 1) for n in (4, 9, 14)],
    "streams are half-open": [(STREAM, faults.half_open(events=n), 1) for n in (0, 5)],
    "streams are garbled": [CUT, (STREAM, faults.garble(), 1)],
    "streams trickle": [CUT, (STREAM, faults.trickle(0.0001), 1)],
    "a stream is late": [CUT, (STREAM, faults.delay(0.3), 1)],
    "a stream is late to be answered": [CUT, (STREAM, faults.delay(0.3, reply=True), 1)],
    "a look is never answered": [CUT, CUT, (LOOK, faults.hold(forward=True), 1)],
}


@pytest.mark.parametrize("spell", SPELLS.values(), ids=SPELLS)
def test_wait_succeeds_and_writes_each_line_once_during_a_fault(proxy, submit, wait, by_proxy, spell):
    by_proxy(timeout=0.5)
    rules = [proxy.on(route, fault, times=times) for route, fault, times in spell]
    lines = []
    found = wait(submit("logs", {"n": 20, "delay": 0.015}), on_log=lines.append)
    assert found.output == 20
    assert lines == printed(20)
    assert [rule.route for rule in rules if rule.left] == [], "some of the faults never came"


@pytest.mark.parametrize("seed", range(2))
def test_wait_succeeds_during_random_faults(proxy, submit, wait, by_proxy, seed):
    by_proxy(timeout=0.5)
    everywhere = {fault: 0.06 for name, fault in BOTH_ANSWER.items() if name != "404"}
    proxy.plan = faults.random_plan(
        seed,
        {
            STREAM: {faults.cut_after(events=14): 0.2, faults.half_open(events=13): 0.1, **everywhere},
            LOOK: {faults.hold(forward=False): 0.05, faults.refuse(0.1): 0.1, **everywhere},
        },
    )
    lines = []
    assert wait(submit("logs", {"n": 20, "delay": 0.1}), on_log=lines.append).output == 20
    assert lines == printed(20)
    assert {exchange.did for exchange in proxy.exchanges} != {"pass"}


def test_stream_and_poll_honour_retry_after(proxy, submit, wait):
    for route in (STREAM, LOOK):
        proxy.on(route, faults.answer(429, headers={"Retry-After": "1"}), times=1)
    wait(submit("echo", 1))
    refused_stream, refused_look, look = proxy.exchanges[:3]
    assert [exchange.did for exchange in (refused_stream, refused_look, look)] == ["answer 429"] * 2 + [
        "pass"
    ]
    assert all(later.at - earlier.at >= 1 for earlier, later in pairwise(proxy.exchanges[:3]))


@pytest.mark.parametrize(
    "spell",
    [
        [faults.half_open(events=1), faults.cut_after(events=2), faults.html(502)],
        [faults.half_open(events=1), faults.half_open(), faults.drop_request(), faults.answer(503)],
        [faults.answer(500), faults.cut_after(events=3), faults.answer(429, headers={"Retry-After": "1"})],
    ],
    ids=lambda spell: ", ".join(fault.name for fault in spell),
)
def test_log_is_read_completely_when_streams_break_after_the_end(proxy, submit, wait, spell, monkeypatch):
    # The second stream opens after the end, and not before.
    monkeypatch.setattr(wait_machine, "MAX_STREAM_PAUSE", 1000.0)
    monkeypatch.setattr(wait_machine, "MIN_STREAM_LIFETIME", 1000.0)
    for fault in spell:
        proxy.on(STREAM, fault, times=1)
    invocation_id, lines = submit("logs", {"n": 10}, wait_for="succeeded"), []
    proxy.on(LOOK, faults.html(502), times=1)
    assert wait(invocation_id, on_log=lines.append).output == 10
    assert lines == printed(10)
    assert len(proxy.seen(STREAM)) == len(spell) + 1


@pytest.mark.parametrize("status", [401, 403])
def test_changed_token_is_read_again_during_a_wait(proxy, submit, wait, by_proxy, status):
    lines = []

    def rotate_once_it_runs(line):
        lines.append(line)
        if line == "line 3":
            by_proxy(NEW)
            for route in (STREAM, LOOK):
                proxy.on(route, faults.answer(status), where=lambda e: OLD in e.headers["Authorization"])
            proxy.go_down()
            proxy.come_up()

    assert wait(submit("logs", {"n": 12, "delay": 0.05}), on_log=rotate_once_it_runs).output == 12
    assert lines == printed(12)
    assert len([exchange for exchange in proxy.exchanges if exchange.answered_status == status]) == 1
    assert NEW in proxy.exchanges[-1].headers["Authorization"]


def test_trickling_reply_ends_at_the_timeout(proxy, submit, wait, by_proxy):
    by_proxy(timeout=0.1)
    proxy.on(STREAM, faults.answer(503))
    proxy.on(LOOK, faults.trickle(0.05), times=1)
    began = time.monotonic()
    assert wait(submit("echo", "x" * 1_000)).output == "x" * 1_000
    assert time.monotonic() - began < 10


def test_wait_ignores_a_reply_about_another_invocation(proxy, submit, wait):
    other = {"id": "another", "status": "failed", "status_reason": "not mine"}
    event = {"event": "invocation_state", "timestamp": "2026-01-01T00:00:00Z", "invocation": other}
    proxy.on(STREAM, faults.garble([b"data: " + json.dumps(event).encode() + b"\n\n"]))
    proxy.on(LOOK, faults.answer(200, other), times=3)
    lines = []
    assert wait(submit("logs", {"n": 5}), on_log=lines.append).status == "succeeded"
    assert lines == printed(5)
    assert [exchange.did for exchange in proxy.seen(LOOK)] == ["answer 200"] * 3 + ["pass"]


def test_log_is_shown_again_with_notices_when_a_wait_restarts(submit, wait, client):
    class Killed(BaseException):
        pass

    def die_at_line_3(line):
        first.append(line)
        if line == "line 3":
            raise Killed

    first, second = [], []
    invocation_id = submit("logs", {"n": 20, "delay": 0.05})
    with pytest.raises(Killed):
        wait(invocation_id, on_log=die_at_line_3)
    wait(invocation_id, on_log=second.append, replayed_before=time.time())
    assert first == printed(4)
    assert [line for line in second if line not in (REPLAY, REPLAY_OVER)] == printed(20)
    assert second[0] == REPLAY
    assert 5 <= second.index(REPLAY_OVER) < 21
