"""The decisions of waiting, against a simulated Kernel that fails in every way, on a simulated clock."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass, field
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_kernel.api.endpoints import Cancellation
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelError,
    KernelInvocationTimeoutError,
    KernelTransportError,
)
from airflow_provider_kernel.api.events import ErrorEvent, Heartbeat, LogEvent, StateEvent
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.api.timestamps import format_timestamp
from airflow_provider_kernel.lifecycle import log_buffer
from airflow_provider_kernel.lifecycle.log_buffer import BURST_RECORDS
from airflow_provider_kernel.lifecycle.wait_machine import (
    LOG_DRAIN_IDLE_TIMEOUT,
    LOG_DRAIN_MAX_LIFETIME,
    LOG_DRAIN_SECONDS,
    LOG_DRAIN_SECONDS_WITHOUT_STREAM,
    MAX_OUTAGE,
    NOT_FOUND_GRACE,
    STREAM_IDLE_TIMEOUT,
    STREAM_MAX_LIFETIME,
    Ended,
    Follow,
    GaveUp,
    Poll,
    Sleep,
    StatusLookup,
    WaitMachine,
    gave_up,
)
from airflow_provider_kernel.lifecycle.wait_result import WaitResult

pytestmark = [pytest.mark.no_airflow, pytest.mark.usefixtures("no_line_is_late")]

START = 1_800_000_000.0
RUNNING, SUCCEEDED, FAILED = (Invocation("i1", status) for status in ("running", "succeeded", "failed"))


def answered(status: int, retry_after: float | None = None, code: str | None = "a_code") -> KernelApiError:
    return KernelApiError("so", status_code=status, retry_after=retry_after, code=code)


def proxied(status: int) -> KernelApiError:
    """An error status that is not Kernel's."""
    return answered(status, code=None)


LOST = KernelTransportError("reset")
HTML = KernelTransportError("GET was answered 200 with text/html")


@dataclass
class World:
    """
    A Kernel and a clock. ``weather`` says from when on Kernel behaves how: (second, how looks go, how streams go).

    Looks: "ok", an error, or a status. Streams: an error (refused), "closes" (at once), "cuts" (after 20 s),
    "breaks" (an error after 20 s), "silent", "heartbeats", "lies" (says at once that it has ended).
    """

    ends_at: float = float("inf")
    weather: list[tuple[float, object, object]] = field(default_factory=lambda: [(0.0, "ok", "heartbeats")])
    latency: float = 0.05
    now: float = START
    looks: list[float] = field(default_factory=list)
    streams: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    told_end: bool = False

    def mood(self, at: float) -> tuple[object, object]:
        return next((look, stream) for since, look, stream in reversed(self.weather) if at - START >= since)

    def invocation(self) -> Invocation:
        return SUCCEEDED if self.now - START >= self.ends_at else RUNNING

    def run(self, wait: WaitMachine, until: float = 20_000.0) -> Ended | GaveUp | None:
        """Do what the wait asks until it is over (None: it is not by ``until``)."""
        while self.now < START + until:
            self.steps.append(self.now)
            step = wait.next(self.now)
            match step:
                case Ended():
                    assert self.told_end, "an end that no look has seen"
                    return step
                case GaveUp():
                    return step
                case Sleep(seconds):
                    assert seconds > 0
                    self.now += max(seconds, 0.001)
                case Poll():
                    self.look(wait)
                case Follow(idle_timeout, max_lifetime):
                    assert idle_timeout > 0
                    assert 0 < max_lifetime <= STREAM_MAX_LIFETIME
                    self.follow(wait, idle_timeout, max_lifetime)
            assert len(self.steps) < 20_000
        return None

    def look(self, wait: WaitMachine) -> None:
        self.looks.append(self.now)
        self.now += self.latency
        how = self.mood(self.now)[0]
        if isinstance(how, KernelError):
            wait.on_error(how, self.now)
        elif how == "ok":
            self.told_end = self.told_end or self.invocation().is_ended
            wait.on_invocation(self.invocation(), self.now)
        else:
            wait.on_invocation(Invocation("i1", str(how)), self.now)

    def follow(self, wait: WaitMachine, idle_timeout: float, max_lifetime: float) -> None:
        self.streams.append(self.now)
        opened = self.now
        self.now += self.latency
        how = self.mood(self.now)[1]
        if isinstance(how, KernelError):
            return wait.on_stream_end(self.now, how)
        if how == "closes":
            return wait.on_stream_end(self.now)
        if how == "lies":
            assert not wait.on_event(StateEvent("", SUCCEEDED), self.now)
            return wait.on_stream_end(self.now)
        if how == "silent":
            self.now = opened + min(idle_timeout, max_lifetime)
            return wait.on_stream_end(self.now, LOST if idle_timeout < max_lifetime else None)
        while True:
            pause = min(15.0, self.ends_at - (self.now - START) if self.invocation().is_active else 15.0)
            self.now += max(pause, 0.001)  # what is less would be lost in the clock's rounding
            if self.now - opened >= max_lifetime:
                self.now = opened + max_lifetime
                return wait.on_stream_end(self.now)
            if how in ("cuts", "breaks") and self.now - opened >= 20:
                return wait.on_stream_end(self.now, LOST if how == "breaks" else None)
            if not self.invocation().is_active:
                assert not wait.on_event(StateEvent("", self.invocation()), self.now)
                return wait.on_stream_end(self.now)
            assert wait.on_event(Heartbeat(""), self.now)

    @property
    def requests(self) -> list[float]:
        return sorted(self.looks + self.streams)


def waiting(**options) -> WaitMachine:
    return WaitMachine("i1", START, **{"jitter": random.Random(7).random, **options})


errors = st.one_of(
    st.sampled_from([LOST, HTML]),
    st.builds(answered, st.sampled_from([500, 502, 503, 408, 529])),
    st.builds(proxied, st.sampled_from([404, 302, 405, 502])),
    st.builds(answered, st.just(429), st.none() | st.floats(0, 3600)),
)
refusals = st.builds(answered, st.sampled_from([400, 401, 403, 404, 302]))
looks = st.just("ok") | errors | refusals | st.sampled_from(["paused", "Succeeded"])
streams = errors | refusals | st.sampled_from(["closes", "cuts", "breaks", "silent", "heartbeats", "lies"])
weather = st.lists(st.tuples(st.floats(0, 3000), looks, streams), max_size=6).map(
    lambda spells: [(0.0, "ok", "heartbeats"), *sorted(spells, key=lambda spell: spell[0])]
)


@settings(max_examples=300, deadline=None)
@given(
    weather,
    st.floats(0, 4000) | st.just(float("inf")),
    st.floats(-10, 3000),
    st.sampled_from([0.5, 5.0, 30.0, 600.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_wait_ends_by_its_deadline_with_the_right_result_in_any_conditions(
    sky, ends_at, deadline, poll_interval, jitter
):
    world = World(ends_at, sky)
    wait = WaitMachine(
        "i1", START, deadline=START + deadline, poll_interval=poll_interval, jitter=lambda: jitter
    )
    end = world.run(wait)
    assert end is not None
    assert world.now - START <= max(deadline, 0) + 1
    if end == GaveUp(None):
        assert world.looks[-1] >= START + deadline - world.latency, "no last look at the deadline"
        assert world.now >= START + deadline
    if (
        isinstance(end, GaveUp)
        and end.error
        and not (
            getattr(end.error, "is_refusal", False)
            and (end.error.code or end.error.status_code in (401, 403))
        )
    ):
        assert world.now - START >= MAX_OUTAGE
    # A tenth of a second can hold a look, the end of a stream, a sleep and the opening of a stream; no more.
    assert len(world.steps) <= 30 * (world.now - START + 1)
    assert len(world.requests) <= 20 + 6 * (world.now - START) / min(poll_interval, 10)
    assert wait.next(world.now + 1e6) == end, "an outcome is final"


@pytest.mark.parametrize("error", [LOST, HTML, answered(500), answered(503, 20.0)])
def test_wait_retries_errors_and_gives_up_after_the_maximum_outage_without_a_deadline(error):
    world = World(weather=[(0.0, error, error)])
    end = world.run(waiting())
    assert end == GaveUp(error)
    assert MAX_OUTAGE <= world.now - START <= MAX_OUTAGE + 60
    assert len(world.requests) < 60


def test_wait_succeeds_after_an_outage_shorter_than_the_maximum():
    world = World(3000.0, [(0.0, "ok", "heartbeats"), (400.0, LOST, LOST), (1200.0, "ok", "heartbeats")])
    assert world.run(waiting()) == Ended(SUCCEEDED)
    assert world.now - START < 3001


@pytest.mark.parametrize("status", [400, 401, 403, 410, 302])
def test_wait_gives_up_after_a_second_refusal(status):
    world = World(weather=[(0.0, "ok", "closes"), (60.0, answered(status), "closes")])
    end = world.run(waiting())
    assert isinstance(end, GaveUp)
    assert end.error.status_code == status
    assert len([at for at in world.looks if at - START + world.latency >= 60]) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_wait_gives_up_after_401_or_403_without_kernels_code(status):
    world = World(weather=[(0.0, "ok", "closes"), (60.0, proxied(status), "closes")])
    assert isinstance(world.run(waiting()), GaveUp)
    assert world.now - START < 120


@pytest.mark.parametrize("status", [404, 405, 302])
def test_wait_retries_a_refusal_of_a_proxy(status):
    outage = [(0.0, "ok", "closes"), (60.0, proxied(status), proxied(status)), (600.0, "ok", "heartbeats")]
    assert World(700.0, outage).run(waiting()) == Ended(SUCCEEDED)


def test_wait_gives_up_after_a_404_only_when_it_persists():
    spell = [
        (0.0, "ok", "closes"),
        (60.0, answered(404), "closes"),
        (60.0 + NOT_FOUND_GRACE - 1, "ok", "closes"),
    ]
    assert World(300.0, spell).run(waiting(poll_interval=5.0)) == Ended(SUCCEEDED)
    gone = World(weather=spell[:2])
    assert gone.run(waiting(poll_interval=5.0)).error.status_code == 404
    assert NOT_FOUND_GRACE <= gone.now - START - 60 <= NOT_FOUND_GRACE + 15


def test_wait_continues_after_a_single_refusal():
    for at in range(100, 130):
        world = World(
            300.0, [(0.0, "ok", "closes"), (at, answered(401), "closes"), (at + 0.4, "ok", "closes")]
        )
        assert world.run(waiting(poll_interval=1.0)) == Ended(SUCCEEDED)


def test_wait_retries_a_404_of_a_new_invocation():
    late = World(100.0, [(0.0, answered(404), answered(404)), (NOT_FOUND_GRACE - 1, "ok", "heartbeats")])
    assert late.run(waiting()) == Ended(SUCCEEDED)
    never = World(weather=[(0.0, answered(404), answered(404))])
    assert isinstance(never.run(waiting()), GaveUp)
    assert NOT_FOUND_GRACE <= never.now - START <= NOT_FOUND_GRACE + 40


@pytest.mark.parametrize("status", ["paused", "Succeeded", "cancelled"])
def test_wait_does_not_end_with_an_unknown_status(status):
    world = World(weather=[(0.0, status, "closes")])
    end = world.run(waiting())
    assert isinstance(end, GaveUp)
    assert f"status {status!r}, which this provider does not know" in str(end.error)
    assert world.now - START >= MAX_OUTAGE


@pytest.mark.parametrize("how", [LOST, answered(404), answered(429), "closes", "lies"])
@pytest.mark.parametrize("ends_at", [0.0, 3.0, 100.0, 1234.0])
@pytest.mark.parametrize("poll_interval", [5.0, 30.0])
def test_wait_sees_the_end_within_the_poll_interval_without_a_stream(how, ends_at, poll_interval):
    world = World(ends_at, [(0.0, "ok", how)])
    assert world.run(waiting(poll_interval=poll_interval)) == Ended(SUCCEEDED)
    assert world.now - START - ends_at <= poll_interval + 2
    assert len(world.requests) <= 25 + 2.5 * ends_at / poll_interval


@pytest.mark.parametrize("ends_at", range(0, 2000, 97))
def test_wait_sees_the_end_after_the_idle_timeout_when_the_stream_is_half_open(ends_at):
    world = World(ends_at, [(0.0, "ok", "silent")])
    assert world.run(waiting()) == Ended(SUCCEEDED)
    assert world.now - START - ends_at <= 30 + STREAM_IDLE_TIMEOUT + 3


def test_wait_polls_once_per_working_stream():
    world = World(3600.0)
    assert world.run(waiting()) == Ended(SUCCEEDED)
    assert len(world.looks) <= 3600 / STREAM_MAX_LIFETIME + 1
    assert len(world.streams) <= 3600 / STREAM_MAX_LIFETIME + 1
    assert world.now - START <= 3601


def test_wait_returns_the_end_when_it_is_just_before_the_deadline():
    world = World(449.99, [(0.0, LOST, LOST), (449.0, "ok", LOST)])
    assert world.run(waiting(deadline=START + 450)) == Ended(SUCCEEDED)


def test_wait_polls_once_when_the_deadline_has_passed():
    world = World(0.0)
    assert world.run(waiting(deadline=START - 1000)) == Ended(SUCCEEDED)
    assert (len(world.looks), len(world.streams)) == (1, 0)


@pytest.mark.parametrize("seconds", [2.0, 45.0, 600.0])
def test_poll_honours_retry_after(seconds):
    world = World(5000.0, [(0.0, answered(429, seconds), "closes"), (700.0, "ok", "closes")])
    assert world.run(waiting()) == Ended(SUCCEEDED)
    refused = [at for at in world.looks if at - START < 700]
    assert all(later - earlier >= seconds for earlier, later in itertools.pairwise(refused))


def test_wait_without_a_poll_at_the_deadline_is_given_up_there():
    world = World(1000.0)
    assert world.run(waiting(deadline=START + 5, poll_at_deadline=False)) == GaveUp(None)
    assert world.now == pytest.approx(START + 5, abs=0.1)
    assert world.looks == []


def test_wait_without_a_poll_at_the_deadline_still_polls_for_an_end_that_the_stream_reported():
    wait = waiting(deadline=START + 5, poll_at_deadline=False)
    wait.next(START)
    wait.on_event(StateEvent("", SUCCEEDED), START + 5)
    wait.on_stream_end(START + 5)
    assert isinstance(wait.next(START + 5), Poll)


def test_poll_honours_retry_after_of_a_stream_up_to_the_deadline():
    world = World(weather=[(0.0, "ok", answered(429, 500.0))])
    assert world.run(waiting(deadline=START + 200)) == GaveUp(None)
    assert len(world.looks) == 1
    assert 200 <= world.now - START <= 201


def test_wait_reopens_a_refused_stream_with_growing_pauses():
    world = World(4000.0, [(0.0, "ok", answered(500)), (2000.0, "ok", "heartbeats")])
    assert world.run(waiting()) == Ended(SUCCEEDED)
    refused = [at for at in world.streams if at - START < 2000]
    assert len(refused) <= 15
    assert len([at for at in world.looks if at - START > 2400]) <= 8


@pytest.mark.parametrize(
    ("event", "stay"),
    [
        (LogEvent("", "m"), True),
        (Heartbeat(""), True),
        (ErrorEvent("", "c", "m"), True),
        (StateEvent("", RUNNING), True),
        (StateEvent("", Invocation("i1", "queued")), True),
        (StateEvent("", SUCCEEDED), False),
        (StateEvent("", FAILED), False),
        (StateEvent("", Invocation("i1", "new")), False),
    ],
)
def test_event_causes_a_poll_and_never_ends_the_wait(event, stay):
    wait = waiting()
    wait.next(START)
    assert wait.on_event(event, START + 20) is stay
    wait.on_stream_end(START + 20)
    assert wait.next(START + 20) == Poll(mock.ANY)


@pytest.mark.parametrize("ended", [SUCCEEDED, FAILED])
def test_stream_ends_the_wait_without_a_poll_when_the_end_need_not_be_confirmed(ended):
    wait = waiting(confirm_end=False, on_log=[].append)
    wait.next(START)
    assert not wait.on_event(StateEvent("", ended), START + 20)
    wait.on_stream_end(START + 20)
    assert wait.next(START + 20) == Ended(ended)


@pytest.mark.parametrize("told", [Invocation("i1", "new"), Invocation("i2", "succeeded"), RUNNING, None])
def test_stream_ends_no_wait_by_an_unknown_status_another_invocation_or_its_own_end(told):
    wait = waiting(confirm_end=False)
    wait.next(START)
    if told:
        wait.on_event(StateEvent("", told), START + 20)
    wait.on_stream_end(START + 20)
    assert wait.next(START + 20) == Poll(mock.ANY)


def test_end_of_the_log_drain_does_not_replace_what_get_reported():
    wait = waiting(confirm_end=False, on_log=[].append)
    wait.next(START)
    wait.on_stream_end(START + 1, LOST)
    wait.on_invocation(FAILED, START + 3)
    assert isinstance(wait.next(START + 3), Follow)
    wait.on_event(StateEvent("", SUCCEEDED), START + 4)
    wait.on_stream_end(START + 4)
    assert wait.next(START + 4) == Ended(FAILED)


def test_wait_reports_few_of_consecutive_errors():
    told = []
    wait = waiting(on_transient_error=told.append)
    for number in range(64):
        wait.on_error(LOST, START + number)
        assert told
    assert len(told) == 7
    wait.on_invocation(RUNNING, START + 70)
    wait.on_error(LOST, START + 80)
    assert len(told) == 8, "a new series is told from its first"


def test_wait_does_not_give_up_after_429():
    world = World(5000.0, [(0.0, answered(429), answered(429)), (4000.0, "ok", "closes")])
    assert world.run(waiting()) == Ended(SUCCEEDED)


def line(text: str) -> LogEvent:
    return LogEvent("2026-01-01T00:00:00Z", text)


@pytest.mark.parametrize("error", [LOST, None])
def test_wait_reads_the_rest_of_the_log_after_the_end_when_the_stream_broke(error):
    records = []
    wait = waiting(on_log=records.append)
    assert isinstance(wait.next(START), Follow)
    wait.on_event(line("one"), START + 1)
    wait.on_stream_end(START + 2, error)
    wait.on_invocation(SUCCEEDED, START + 3)
    assert wait.next(START + 3) == Follow(
        LOG_DRAIN_IDLE_TIMEOUT, LOG_DRAIN_MAX_LIFETIME, "2025-12-31T23:59:59.000000000Z", "i1"
    )
    for text in ("one", "two"):
        wait.on_event(line(text), START + 4)
    wait.on_event(StateEvent("", SUCCEEDED), START + 4)
    wait.on_stream_end(START + 5)
    assert wait.next(START + 5) == Ended(SUCCEEDED)
    assert records == ["one", "two"]


class TestLogDrain:
    """Its streams may break as others do."""

    def ended(self, *, with_stream: bool) -> tuple[WaitMachine, list[str]]:
        records: list[str] = []
        wait = waiting(on_log=records.append)
        assert isinstance(wait.next(START), Follow)
        if with_stream:
            wait.on_event(line("one"), START)
        wait.on_stream_end(START, LOST)
        wait.on_invocation(SUCCEEDED, START)
        return wait, records

    def tries(self, wait: WaitMachine, error: KernelError) -> list[float]:
        """When, in seconds after the end, it is tried to read the log."""
        now, tried = START, []
        while not isinstance(step := wait.next(now), Ended):
            if isinstance(step, Sleep):
                now += step.seconds
            else:
                assert isinstance(step, Follow)
                tried.append(now - START)
                wait.on_stream_end(now, error)
        return tried

    def test_is_retried_during_an_outage_of_a_minute(self):
        wait, records = self.ended(with_stream=True)
        tried = self.tries(wait, LOST)
        assert len(tried) < 10
        assert 60 < tried[-1] <= LOG_DRAIN_SECONDS
        assert records == ["one", "… the rest of the log could not be read: reset"]

    def test_is_short_when_no_stream_ever_worked(self):
        wait, records = self.ended(with_stream=False)
        tried = self.tries(wait, answered(502))
        assert len(tried) == 2
        assert tried[-1] <= LOG_DRAIN_SECONDS_WITHOUT_STREAM
        assert records == ["… the rest of the log could not be read: Kernel answered 502 a_code: so."]

    def test_ends_after_a_second_refusal(self):
        wait, _ = self.ended(with_stream=True)
        assert len(self.tries(wait, answered(401))) == 2
        wait, _ = self.ended(with_stream=True)
        assert len(self.tries(wait, proxied(404))) > 5

    @pytest.mark.parametrize(("with_stream", "patient"), [(True, True), (False, False)])
    def test_retries_a_404_only_when_a_stream_worked_before(self, with_stream, patient):
        wait, _ = self.ended(with_stream=with_stream)
        assert (len(self.tries(wait, answered(404))) > 5) == patient

    def test_honours_retry_after_within_limits(self):
        wait, _ = self.ended(with_stream=True)
        tried = self.tries(wait, answered(429, 7.0))
        assert all(later - earlier >= 7 for earlier, later in itertools.pairwise(tried))
        assert len(tried) > 3
        wait, _ = self.ended(with_stream=True)
        assert self.tries(wait, answered(429, 3600.0)) == [0]

    @pytest.mark.parametrize("silent", [True, False])
    def test_ends_when_a_stream_brings_no_new_line(self, silent):
        wait, records = self.ended(with_stream=True)
        how_it_ends = (LOG_DRAIN_IDLE_TIMEOUT, LOST) if silent else (0.0, None)
        for at, new in ((START, "two"), (START + 20, "three")):
            assert isinstance(wait.next(at), Follow)
            wait.on_event(line("one"), at + 1)
            wait.on_event(line(new), at + 1)
            wait.on_stream_end(at + 1 + how_it_ends[0], how_it_ends[1])
        assert isinstance(wait.next(START + 40), Follow)
        wait.on_event(line("one"), START + 41)
        wait.on_stream_end(START + 41 + how_it_ends[0], how_it_ends[1])
        assert isinstance(wait.next(START + 50), Ended)
        assert records == ["one", "two", "three"]

    def test_continues_when_a_stream_brings_no_event(self):
        wait, _ = self.ended(with_stream=True)
        wait.next(START)
        wait.on_stream_end(START + LOG_DRAIN_IDLE_TIMEOUT, LOST)
        assert isinstance(wait.next(START + 60), Follow)

    def test_gives_up_when_every_stream_ends_early(self):
        wait, records = self.ended(with_stream=True)
        now = START
        for number in itertools.count():
            while isinstance(step := wait.next(now), Sleep):
                now += step.seconds
            if isinstance(step, Ended):
                break
            wait.on_event(line(f"{number}"), now)
            wait.on_stream_end(now)
        assert records[-1] == "… the rest of the log could not be read: its streams end early"
        assert now - START <= LOG_DRAIN_SECONDS


@pytest.mark.parametrize("back", [1.0, 3600.0])
def test_wait_is_not_longer_when_the_clock_is_set_back(back):
    wait = waiting(deadline=START + 600)
    wait.next(START)
    wait.on_stream_end(START + 40, LOST)
    wait.on_error(LOST, START + 41)
    step = wait.next(START + 41 - back)
    assert isinstance(step, Sleep)
    assert step.seconds <= 1
    assert wait.next(START + 42 - back) == Poll(mock.ANY)
    wait.on_invocation(Invocation("i1", "paused"), START + 42 - back)
    assert isinstance(wait.next(START + 42 - back), Sleep)
    assert wait.next(START + 44 - back) == Poll(mock.ANY)
    wait.on_invocation(RUNNING, START + 44 - back)
    assert isinstance(wait.next(START + 45 - back), Follow)
    wait.on_stream_end(START + 599 - back)
    wait.on_invocation(RUNNING, START + 599 - back)
    assert isinstance(wait.next(START + 599 - back), Follow), "nor shortens anything"
    wait.on_stream_end(START + 601 - back)
    wait.on_invocation(RUNNING, START + 601 - back)
    assert wait.next(START + 601 - back) == GaveUp(None)


def test_wait_does_not_give_up_after_one_error_when_the_process_was_suspended():
    wait = waiting()
    wait.on_error(LOST, START)
    for number in range(1, 4):
        wait.on_error(LOST, START + 10 * MAX_OUTAGE + number)
        assert not isinstance(wait.next(START + 10 * MAX_OUTAGE + number), GaveUp)
    wait.on_error(LOST, START + 10 * MAX_OUTAGE + 5)
    assert wait.next(START + 10 * MAX_OUTAGE + 5) == GaveUp(LOST)


def test_wait_stays_on_the_stream_when_an_event_is_of_another_invocation():
    wait = waiting(on_log=[].append)
    assert isinstance(wait.next(START), Follow)
    assert wait.on_event(StateEvent("", Invocation("i2", "failed")), START + 1)
    wait.on_stream_end(START + 60)
    wait.on_invocation(SUCCEEDED, START + 60)
    assert isinstance(wait.next(START + 60), Follow), "the log was not read to its end"


def test_line_delay_is_measured_by_the_wall_clock_when_it_is_set_back(monkeypatch):
    monkeypatch.setattr(log_buffer, "MAX_DELAY", 1.0)
    records, at = [], format_timestamp(int(START) * 10**9)
    wait = waiting(on_log=records.append)
    wait.next(START)
    wait.on_event(LogEvent(at, "one"), START + 5)
    wait.on_event(LogEvent(at, "two"), START)
    assert records == ["2027-01-15T08:00:00.000Z one", "two"]


def test_log_is_not_complete_when_kernel_retracts_an_end():
    wait = waiting(on_log=[].append)
    wait.next(START)
    wait.on_event(StateEvent("", SUCCEEDED), START + 60)
    wait.on_stream_end(START + 60)
    wait.on_invocation(RUNNING, START + 60)
    assert isinstance(wait.next(START + 60), Follow)
    wait.on_event(line("one"), START + 61)
    wait.on_stream_end(START + 120, LOST)
    wait.on_invocation(SUCCEEDED, START + 125)
    assert isinstance(wait.next(START + 125), Follow), "the rest of the second stream"


def test_wait_writes_held_lines_at_the_end():
    records = []
    wait = waiting(on_log=records.append)
    wait.next(START)
    for number in range(BURST_RECORDS + 5):
        wait.on_event(line(str(number)), START)
    assert len(records) == BURST_RECORDS
    wait.on_event(StateEvent("", SUCCEEDED), START)
    wait.on_stream_end(START)
    wait.on_invocation(SUCCEEDED, START)
    wait.next(START)
    assert records[-1] == "\n".join(str(BURST_RECORDS + n) for n in range(5))


EVENT = {"invocation_id": "i1", "status": "failed"}
LONG = KernelApiError("x" * 5_000, status_code=500)
OUTCOMES = {
    "ended": WaitResult.of(Invocation("i1", "succeeded", raw_output="x" * 9_999)),
    "timeout, cancelled": WaitResult.of_giving_up(gave_up("i1", None), Cancellation(FAILED, True)),
    "timeout, not cancelled": WaitResult.of_giving_up(gave_up("i1", None), LONG),
    "timeout, had ended": WaitResult.of_giving_up(gave_up("i1", None), Cancellation(SUCCEEDED, False)),
    "unknown, cancelled": WaitResult.of_giving_up(gave_up("i1", LONG), Cancellation(FAILED, True)),
    "unknown, not cancelled": WaitResult.of_giving_up(gave_up("i1", LONG), LONG),
}


@pytest.mark.parametrize(
    ("name", "status", "possibly_running", "words"),
    [
        ("ended", "succeeded", False, ""),
        ("timeout, cancelled", "timeout", False, "It was cancelled"),
        ("timeout, not cancelled", "timeout", True, "may be running"),
        ("timeout, had ended", "succeeded", False, ""),
        ("unknown, cancelled", "unknown", False, "could not be determined"),
        ("unknown, not cancelled", "unknown", True, "could not be determined"),
    ],
)
def test_wait_result_round_trips_through_a_small_event(name, status, possibly_running, words):
    outcome = OUTCOMES[name]
    assert (outcome.invocation_id, outcome.status, outcome.possibly_running) == (
        "i1",
        status,
        possibly_running,
    )
    assert words in outcome.message
    event = outcome.to_event()
    assert WaitResult.from_event(json.loads(json.dumps(event))) == outcome
    assert len(json.dumps(event)) < 1_000
    assert type(event["status"]) is str
    assert isinstance(outcome.error(), KernelInvocationTimeoutError) is (status == "timeout")


@pytest.mark.parametrize(
    "event",
    [None, {}, [], "ended", 7, {"status": "succeeded"}, {"invocation_id": "i1"}, {1: 2}, ["i1", "succeeded"]]
    + [{**EVENT, "invocation_id": value} for value in (None, "", 7, ["i1"])]
    + [{**EVENT, "status": value} for value in (None, "", True, {})]
    + [
        {**EVENT, **fields}
        for fields in (
            {"message": None},
            {"possibly_running": "no"},
            {"possibly_running": None},
            {"confirmed": 1},
        )
    ],
)
def test_wait_result_raises_when_the_event_is_malformed(event):
    with pytest.raises(KernelError, match="not one of KernelInvocationTrigger"):
        WaitResult.from_event(event)


def test_wait_result_ignores_unknown_fields_of_a_later_version():
    assert WaitResult.from_event({**EVENT, "since": 1}) == WaitResult("i1", "failed")


class TestStatusLookup:
    def test_ends_with_the_first_usable_reply(self):
        for status in ("queued", "running", "succeeded", "failed"):
            find = StatusLookup("i1", START)
            assert isinstance(find.next(START), Poll)
            find.on_invocation(Invocation("i1", status), START)
            assert find.next(START) == Ended(Invocation("i1", status))

    def test_retries_as_long_as_a_wait(self):
        find, now, looks = StatusLookup("i1", START), START, 0
        while not isinstance(step := find.next(now), GaveUp):
            if isinstance(step, Sleep):
                now += step.seconds
            else:
                looks += 1
                find.on_error(answered(503), now)
        assert now - START >= MAX_OUTAGE
        assert looks > 10

    def test_retries_a_404_of_a_proxy(self):
        find, now = StatusLookup("i1", START), START
        for _ in range(5):
            find.on_error(KernelApiError("nginx", status_code=404), now)
            step = find.next(now)
            assert isinstance(step, Sleep)
            now += 60
        find.on_invocation(Invocation("i1", "running"), now)
        assert isinstance(find.next(now), Ended)


@pytest.mark.parametrize("error", [LOST, answered(500), answered(429)])
def test_wait_retries_a_refusal_once_after_other_errors(error):
    wait = waiting()
    for number in range(5):
        wait.on_error(error, START + 60 + number)
    wait.on_error(answered(401), START + 66)
    assert not isinstance(wait.next(START + 100), GaveUp)
    wait.on_error(answered(401), START + 100)
    assert wait.next(START + 100) == GaveUp(wait.next(START + 100).error)


def test_wait_gives_up_after_the_maximum_outage_when_refusals_and_errors_alternate():
    wait = waiting()
    for second in range(60, 3000, 30):
        wait.on_error(answered(401) if second % 60 else LOST, START + second)
        assert isinstance(wait.next(START + second), GaveUp) is (second >= 60 + MAX_OUTAGE)


def test_wait_continues_when_streams_fail_for_weeks():
    wait = waiting()
    for number in range(1, 3_000):
        wait.on_stream_end(START + number * 300.0, LOST)
        wait.on_invocation(RUNNING, START + number * 300.0 + 2)
    assert not isinstance(wait.next(START + 3_001 * 300.0), GaveUp)


def test_stream_is_not_broken_when_it_sends_only_comments():
    wait = waiting()
    for number in range(10):
        now = START + number * STREAM_MAX_LIFETIME
        assert isinstance(wait.next(now), Follow)
        wait.on_stream_end(now + STREAM_MAX_LIFETIME)  # left at the end of its life, not for silence
        assert wait.next(now + STREAM_MAX_LIFETIME) == Poll(mock.ANY)
        wait.on_invocation(RUNNING, now + STREAM_MAX_LIFETIME)


@pytest.mark.parametrize("poll_interval", [0, -5, 1e-9])
@pytest.mark.parametrize("how", [("ok", "closes"), (LOST, LOST)])
def test_wait_is_no_busy_loop_with_any_poll_interval(poll_interval, how):
    world = World(weather=[(0.0, *how)], latency=0.001)
    assert world.run(waiting(poll_interval=poll_interval, deadline=START + 60)) == GaveUp(None)
    assert len(world.requests) < 60 / 0.04


def test_wait_gives_up_at_once_when_the_connection_cannot_be_used():
    wait, error = waiting(), KernelConfigurationError("no token")
    wait.next(START)
    wait.on_stream_end(START + 1, error)
    assert not isinstance(wait.next(START + 5), GaveUp), "a stream says nothing"
    wait.on_error(error, START + 5)
    assert wait.next(START + 5) == GaveUp(error)


@pytest.mark.parametrize(
    ("weather", "reconnects"),
    [
        ([(0, "ok", "heartbeats")], 0),  # which are left now and then, to look
        ([(0, "ok", "breaks"), (10, "ok", "heartbeats")], 1),
        ([(0, "ok", "cuts"), (10, "ok", "heartbeats")], 1),
        ([(0, "ok", "silent"), (10, "ok", "heartbeats")], 1),
        ([(0, "ok", answered(503)), (1, "ok", "heartbeats")], 1),
        ([(0, LOST, "breaks"), (100, "ok", "heartbeats")], 1),
    ],
)
def test_wait_reports_a_reconnect_only_when_the_stream_before_failed(weather, reconnects):
    world, told = World(ends_at=1000, weather=weather), []
    assert isinstance(world.run(waiting(on_reconnect=told.append)), Ended)
    assert told == [RUNNING] * reconnects
