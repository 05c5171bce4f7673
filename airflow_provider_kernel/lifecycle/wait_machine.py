"""
The decisions of waiting for an invocation: given an event, a look, an error and the time, what next?

One pure state machine. The synchronous and the asynchronous wait ask it for the next :data:`Step`, do that, and
tell it what came of it; so the two cannot differ. The rules:

- ``GET`` is the authority. A stream's end, silence, an event or an unknown status only make it look.
- The stream is followed because it costs one request, however long the invocation runs. A stream that breaks
  early or falls silent is opened again after a growing pause; meanwhile the invocation is looked at.
- Errors are waited out, with backoff and jitter, for :data:`MAX_OUTAGE` seconds; a refusal is asked once more.
- The deadline is a wall-clock time, and is judged only after a last look. A clock that is set back lengthens nothing.
- What the app logged is read to its end: if the last stream was not, another is opened after the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.backoff import exponential, with_jitter
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelError,
    KernelInvocationError,
    KernelInvocationTimeoutError,
    KernelInvocationUnknownError,
    KernelResponseTooLargeError,
    KernelTransportError,
    is_kernels_refusal,
    retry_after,
    should_log_failure,
)
from airflow_provider_kernel.api.events import Event, StateEvent
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.lifecycle.conversation import Conversation, Follow, Sleep
from airflow_provider_kernel.lifecycle.log_buffer import LogBuffer

#: Seconds without a single good answer from Kernel after which the wait is given up.
MAX_OUTAGE = 900.0
#: So many failed looks in a row are the least to give up for: a process that slept for long learns from one nothing.
MIN_ERRORS = 5
#: Seconds for which a 404 is taken for an invocation that is not listed yet, or not there where was asked.
NOT_FOUND_GRACE = 30.0
#: Seconds without an event after which a stream counts as dead. Kernel's heartbeat has an unknown period; one
#: that keeps connections alive is shorter than the 60 s after which load balancers cut.
STREAM_IDLE_TIMEOUT = 75.0
#: A stream that lived for less, in seconds, counts as broken.
SHORT_LIFE = 30.0
#: Longest life of a stream, in seconds: even one that seems well is left now and then, to look.
STREAM_MAX_LIFETIME = 300.0
#: For how long, in seconds, and with what silence, the rest of the log is read once the invocation has ended.
LOG_DRAIN_MAX_LIFETIME, LOG_DRAIN_IDLE_TIMEOUT = 60.0, 5.0
#: For how many seconds that is tried again while streams break: not for long where none ever worked.
LOG_DRAIN_SECONDS, LOG_DRAIN_SECONDS_WITHOUT_STREAM = 90.0, 2.0
#: Seconds over which waits spread their looks when their streams broke: many may have at the same moment.
RECONNECT_SPREAD = 1.0
#: Seconds beyond the deadline that the last look may take.
LAST_LOOK = 3.0
#: A shorter ``poll_interval`` is taken for this, in seconds.
MIN_POLL_INTERVAL = 0.1
#: Longest pause before a broken stream is tried again, in seconds.
MAX_STREAM_PAUSE = 300.0


@dataclass(frozen=True)
class Poll:
    """Ask ``GET /invocations/{id}``; give up after ``within`` seconds (None: as after any request)."""

    within: float | None = None


@dataclass(frozen=True)
class Ended:
    """The invocation has ended: Kernel said so."""

    invocation: Invocation


@dataclass(frozen=True)
class GaveUp:
    """The wait is over without an end: at the deadline (``error`` is None), or for ``error``."""

    error: KernelError | None


Step = Follow | Poll | Sleep | Ended | GaveUp


class WaitMachine:
    """
    The wait for one invocation.

    :param invocation_id: what an event must be about to be believed.
    :param now: the time at the start, in seconds since 1970 (as in all methods).
    :param deadline: the time after which the wait is given up; None for never.
    :param poll_interval: longest time in seconds between two looks when there is no stream.
    :param on_log: called with each record of the app's log (see :class:`LogBuffer`); None: not of interest.
    :param replayed_before: lines from before this time were shown by an earlier wait; they are marked as such.
    :param on_transient_error: called with errors that are waited out, but not with every one of a series.
    :param on_reconnect: called with the invocation as last seen when a stream is opened again because the one before
        broke, fell silent or was refused; not where it had come to the end of its planned life.
    :param jitter: returns a number from 0 to 1.
    """

    def __init__(
        self,
        invocation_id: str,
        now: float,
        *,
        deadline: float | None = None,
        poll_interval: float = 30.0,
        on_log: Callable[[str], None] | None = None,
        replayed_before: float | None = None,
        on_transient_error: Callable[[KernelError], None] = lambda error: None,
        on_reconnect: Callable[[Invocation], None] = lambda invocation: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.invocation_id = invocation_id
        self._time = self._clock = now
        self._deadline = deadline
        self._poll_interval = max(poll_interval, MIN_POLL_INTERVAL)
        self._on_log = on_log
        self._on_trouble = on_transient_error
        self._on_reconnect = on_reconnect
        self._jitter = jitter
        self._log = LogBuffer(replayed_before)
        self._log_complete = on_log is None
        self._outcome: Ended | GaveUp | None = None
        self._look_due = False
        self._wake = now
        self._looks = 0
        self._errors = self._refusals = 0
        self._failing_since = now
        self._stream_opened = self._stream_heard = now
        self._stream_failures = self._stream_lines = 0
        self._stream_after = now
        self._stream_life = 0.0
        self._stream_worked = self._stream_broke = False
        self._seen: Invocation | None = None
        self._log_drain_tries = 0
        self._ended_at = now

    def next(self, now: float) -> Step:
        """Return what to do now."""
        now = self._elapsed(now)
        if self._outcome:
            if isinstance(self._outcome, Ended) and not self._log_complete:
                left = inf if self._deadline is None else self._deadline + LAST_LOOK - now
                if left > 0 and now < self._wake:
                    return Sleep(min(self._wake - now, left))
                if left > 0:
                    return self._follow(LOG_DRAIN_IDLE_TIMEOUT, min(LOG_DRAIN_MAX_LIFETIME, left), now)
                self._end_log("the time of the wait is over")
            self._write(self._log.flush(self._clock))
            return self._outcome
        if self._is_overdue(now):
            return self._look(now)
        if now < self._wake:
            return Sleep(min(self._wake, self._deadline or self._wake) - now)
        if self._look_due or now < self._stream_after:
            return self._look(now)
        self._log_complete = self._on_log is None
        max_lifetime = (
            STREAM_MAX_LIFETIME if self._deadline is None else min(STREAM_MAX_LIFETIME, self._deadline - now)
        )
        return self._follow(STREAM_IDLE_TIMEOUT, max_lifetime, now)

    def _look(self, now: float) -> Poll:
        return Poll(None if self._deadline is None else max(0.0, self._deadline - now) + LAST_LOOK)

    def _follow(self, idle_timeout: float, max_lifetime: float, now: float) -> Follow:
        self._stream_opened = self._stream_heard = now
        self._stream_life = max_lifetime
        self._stream_lines = self._log.lines
        if self._stream_broke and self._seen:  # there was a look since
            self._on_reconnect(self._seen)
        return Follow(idle_timeout, max_lifetime, self._log.open_stream(), self.invocation_id)

    def on_event(self, event: Event, now: float) -> bool:
        """Take an event of the stream; return False if the stream is to be left."""
        now = self._elapsed(now)
        self._stream_heard = now
        self._stream_worked = True
        self._write(self._log.add(event, self._clock))
        if (
            not isinstance(event, StateEvent)
            or event.invocation.is_active
            or event.invocation.id != self.invocation_id
        ):
            return True
        self._log_complete = True
        return False

    def on_stream_end(self, now: float, error: KernelError | None = None) -> None:
        """Take that the stream ended, was left, or could not be opened (``error``)."""
        now = self._elapsed(now)
        self._stream_broke = error is not None or now - self._stream_opened < self._stream_life
        if self._outcome:
            self._on_log_drain_end(now, error)
            return
        # Comments are no events, but keep a stream alive: silence is judged by whoever sees the bytes.
        silent = error is not None and now - self._stream_heard >= STREAM_IDLE_TIMEOUT
        if silent or now - self._stream_opened < SHORT_LIFE:
            self._stream_failures += 1
            self._stream_after = now + exponential(self._stream_failures, MAX_STREAM_PAUSE, initial=2.0)
        else:
            self._stream_failures = self._looks = 0
            self._stream_after = now
        self._look_due = True
        self._wake = now
        if error is not None:
            self._wake += max(self._jitter() * RECONNECT_SPREAD, retry_after(error))

    def _on_log_drain_end(self, now: float, error: KernelError | None) -> None:
        """Take that a stream opened after the invocation's end ended; decide whether the log was read to its end."""
        self._log_drain_tries += 1
        patience = LOG_DRAIN_SECONDS if self._stream_worked else LOG_DRAIN_SECONDS_WITHOUT_STREAM
        fell_silent = (
            self._stream_heard > self._stream_opened and now - self._stream_heard >= LOG_DRAIN_IDLE_TIMEOUT
        )
        # A log that was there a moment ago is not gone.
        refused = is_kernels_refusal(error) and not (error.status_code == 404 and self._stream_worked)
        self._wake = now + max(self._pause(self._log_drain_tries), retry_after(error))
        if (error is None or fell_silent) and self._log.lines == self._stream_lines:
            self._log_complete = True  # nothing is left, though Kernel did not say so
        elif self._wake > self._ended_at + patience or (refused and self._log_drain_tries > 1):
            self._end_log(str(error or "its streams are cut short"))

    def _end_log(self, why: str) -> None:
        self._log_complete = True
        self._write([*self._log.flush(self._clock), f"… the rest of the log could not be read: {why}"])

    def on_invocation(self, invocation: Invocation, now: float) -> None:
        """Take the answer to a look."""
        now = self._elapsed(now)
        self._seen = invocation
        if invocation.is_ended:
            self._outcome = Ended(invocation)
            self._wake = self._ended_at = now
        elif not invocation.is_active:
            self._failed(
                KernelTransportError(
                    f"Kernel says that the status is {invocation.status!r}, which this provider does not know."
                ),
                now,
            )
        elif self._is_overdue(now):
            self._outcome = GaveUp(None)
        else:
            self._errors = self._refusals = 0
            self._look_due = False
            self._looks += 1
            self._wake = now
            if now < self._stream_after:
                self._wake += self._pause(self._looks)

    def on_error(self, error: KernelError, now: float) -> None:
        """Take that a look failed."""
        self._failed(error, self._elapsed(now))

    def _failed(self, error: KernelError, now: float) -> None:
        self._errors += 1
        if self._errors == 1:
            self._failing_since = now
        if self._is_hopeless(error, now):
            self._outcome = GaveUp(error)
        elif self._is_overdue(now):
            self._outcome = GaveUp(None)
        else:
            self._look_due = True
            self._wake = now + max(self._pause(self._errors), retry_after(error))
        if should_log_failure(self._errors):
            self._on_trouble(error)

    def _elapsed(self, now: float) -> float:
        """Return the time by a clock that is never set back."""
        self._time += max(0.0, now - self._clock)
        self._clock = now
        return self._time

    def _is_overdue(self, now: float) -> bool:
        return self._deadline is not None and now >= self._deadline

    def _is_hopeless(self, error: KernelError, now: float) -> bool:
        if isinstance(error, KernelConfigurationError):
            return True
        if isinstance(error, KernelResponseTooLargeError) or is_kernels_refusal(error):
            self._refusals += 1
            early = getattr(error, "status_code", None) == 404 and now - self._failing_since < NOT_FOUND_GRACE
            if self._refusals > 1 and not early:
                return True
        else:
            self._refusals = 0
        if isinstance(error, KernelApiError) and error.status_code == 429:
            self._failing_since = now  # Kernel is there, and will answer again
        return now - self._failing_since >= MAX_OUTAGE and self._errors >= MIN_ERRORS

    def _write(self, records: list[str]) -> None:
        for record in records if self._on_log else ():
            self._on_log(record)  # type: ignore[misc]

    def _pause(self, count: int) -> float:
        return with_jitter(exponential(count, self._poll_interval), self._jitter())


class StatusLookup(WaitMachine):
    """The question how an invocation is: as patient as a wait, and over (:class:`Ended`) with the first good answer."""

    def __init__(
        self,
        invocation_id: str,
        now: float,
        on_transient_error: Callable[[KernelError], None] = lambda error: None,
        deadline: float | None = None,
    ) -> None:
        super().__init__(invocation_id, now, on_transient_error=on_transient_error, deadline=deadline)
        self._look_due = True

    def _look(self, now: float) -> Poll:
        return Poll()  # it is all that there is

    def on_invocation(self, invocation: Invocation, now: float) -> None:
        """Take the answer."""
        super().on_invocation(invocation, now)
        if invocation.is_active:
            self._outcome = Ended(invocation)


def wait_for_end(
    machine: WaitMachine, clock: Callable[[], float], *, skim: bool = False
) -> Conversation[Invocation]:
    """
    Wait for the end of an invocation.

    :param machine: decides.
    :param clock: returns the time, in seconds since 1970.
    :param skim: whether payload and output may be missing in what is returned.
    :return: the invocation, succeeded or failed.
    :raises KernelInvocationTimeoutError: it had not ended by the deadline.
    :raises KernelInvocationUnknownError: its state could not be found out.
    """
    while True:
        match machine.next(clock()):
            case Follow() as follow:
                stream_error = None
                try:
                    yield replace(follow, on_event=lambda event: machine.on_event(event, clock()))
                except KernelError as error:
                    stream_error = error
                machine.on_stream_end(clock(), stream_error)
            case Poll(within):
                try:
                    found = yield endpoints.get_invocation(machine.invocation_id, skim=skim).once(within)
                except KernelError as error:
                    machine.on_error(error, clock())
                else:
                    machine.on_invocation(found, clock())
            case Sleep() as pause:
                yield pause
            case Ended(invocation):
                return invocation
            case GaveUp(reason):
                raise gave_up(machine.invocation_id, reason) from reason


def gave_up(invocation_id: str, error: KernelError | None) -> KernelInvocationError:
    """Return the exception for a wait that ended with :class:`GaveUp`."""
    if error is None:
        return KernelInvocationTimeoutError(
            f"Kernel invocation {invocation_id} had not ended by its deadline.", invocation_id=invocation_id
        )
    return KernelInvocationUnknownError(
        f"What became of Kernel invocation {invocation_id} could not be learned: {error}",
        invocation_id=invocation_id,
    )
