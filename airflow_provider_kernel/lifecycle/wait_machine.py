"""
The wait for an invocation as a state machine: given an event, a poll, an error and the time, what is next? No I/O.

:func:`wait_for_end` asks :class:`WaitMachine` for the next :data:`WaitStep`, and reports what came of it. Both HTTP clients run
the same conversation, so their waits cannot differ. The rules:

- ``GET`` is the authority. The end of a stream, silence, an event or an unknown status only leads to a poll. In the
  triggerer, the stream's word that the invocation has ended is enough (``confirm_end=False``): the worker asks ``GET`` next.
- The event stream costs one request, however long the invocation runs. A stream that breaks early or falls silent is
  opened again after a growing pause; meanwhile the invocation is polled.
- Errors are waited out, with backoff and jitter, for :data:`MAX_OUTAGE` seconds; a refusal is asked once more.
- The deadline is a wall-clock time. It is judged only after a last poll. A clock that is set back does not extend it.
- The log is read to its end: if the last stream was not, another one is opened after the invocation has ended.
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
    KernelResultTooLargeError,
    KernelTransportError,
    is_kernels_refusal,
    retry_after,
    should_log_failure,
)
from airflow_provider_kernel.api.events import Event, StateEvent
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.lifecycle.conversation import Conversation, Follow, Sleep
from airflow_provider_kernel.lifecycle.log_buffer import LogBuffer, LogPosition

#: Seconds without a single good answer from Kernel after which the wait gives up.
MAX_OUTAGE = 900.0
#: Minimum consecutive failures before giving up; one failure after the process was suspended proves nothing.
MIN_ERRORS = 5
#: Seconds for which a 404 may mean that the invocation is not known yet, or not to the server that answered.
NOT_FOUND_GRACE = 30.0
#: Seconds without an event after which a stream counts as dead. The period of Kernel's heartbeat is unknown; to keep
#: connections alive, it must be shorter than the 60 s after which load balancers cut them.
STREAM_IDLE_TIMEOUT = 75.0
#: Seconds before which the end of a stream counts as a failure.
MIN_STREAM_LIFETIME = 30.0
#: Maximum lifetime of a stream, in seconds: from time to time, the invocation is polled even if the stream seems fine.
STREAM_MAX_LIFETIME = 300.0
#: Maximum lifetime and idle time-out, in seconds, of a stream that reads the rest of the log after the end.
LOG_DRAIN_MAX_LIFETIME, LOG_DRAIN_IDLE_TIMEOUT = 60.0, 5.0
#: Seconds for which such streams are opened again after errors; the second one if no stream has ever worked.
LOG_DRAIN_SECONDS, LOG_DRAIN_SECONDS_WITHOUT_STREAM = 90.0, 2.0
#: Maximum jitter in seconds before the poll after a broken stream: the streams of many waits may break at once.
RECONNECT_SPREAD = 1.0
#: Seconds after the deadline that the last poll may take.
FINAL_POLL_GRACE = 3.0
#: Minimum ``poll_interval`` in seconds; a shorter one is raised to it.
MIN_POLL_INTERVAL = 0.1
#: Maximum pause in seconds before a broken stream is opened again.
MAX_STREAM_PAUSE = 300.0


@dataclass(frozen=True)
class Poll:
    """
    Ask ``GET /invocations/{id}``.

    :param within: seconds after which to give up; None for the request's own limit.
    """

    within: float | None = None


@dataclass(frozen=True)
class Ended:
    """
    ``GET`` has reported the end of the invocation; with ``confirm_end=False``, ``GET`` or the stream.

    :param invocation: the invocation, succeeded or failed.
    """

    invocation: Invocation


@dataclass(frozen=True)
class GaveUp:
    """
    The wait is over, and the invocation has not ended as far as is known.

    :param error: the reason; None for the deadline.
    """

    error: KernelError | None


WaitStep = Follow | Poll | Sleep | Ended | GaveUp


class WaitMachine:
    """
    The wait for one invocation. All times are seconds since 1970.

    :param invocation_id: Kernel's id; events about another invocation are ignored.
    :param now: the time at the start.
    :param deadline: the time after which the wait gives up; None for never.
    :param poll_interval: longest time in seconds between two polls while there is no stream.
    :param on_log: called with each record of the app's log (see :class:`LogBuffer`); None if the log is not wanted.
    :param replayed_before: lines from before this time were shown by an earlier wait, and are marked. None: no line was.
    :param on_transient_error: called with errors after which the wait continues, but not with each of a series.
    :param on_reconnect: called with the invocation as last seen when a stream is opened again because the previous one
        broke, fell silent or was refused; not when that had reached its maximum lifetime.
    :param log_position: how far an earlier wait has shown the log.
    :param confirm_end: whether an end that the stream reports must be confirmed by ``GET``. Default True.
    :param poll_at_deadline: whether the deadline is judged only after a last poll. Default True.
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
        log_position: LogPosition | None = None,
        confirm_end: bool = True,
        poll_at_deadline: bool = True,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.invocation_id = invocation_id
        self._time = self._clock = now
        self._deadline = deadline
        self._poll_interval = max(poll_interval, MIN_POLL_INTERVAL)
        self._on_log = on_log
        self._on_transient_error = on_transient_error
        self._on_reconnect = on_reconnect
        self._confirm_end = confirm_end
        self._poll_at_deadline = poll_at_deadline
        self._end_reported = False
        self._jitter = jitter
        self._log = LogBuffer(replayed_before, log_position)
        self._log_complete = on_log is None
        self._outcome: Ended | GaveUp | None = None
        self._poll_due = False
        self._wake = now
        self._polls = 0
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

    def next(self, now: float) -> WaitStep:
        """Return the next step."""
        now = self._elapsed(now)
        if self._is_overdue(now) and not (self._poll_at_deadline or self._end_reported):
            self._outcome = self._outcome or GaveUp(None)
        if self._outcome:
            if isinstance(self._outcome, Ended) and not self._log_complete:
                left = inf if self._deadline is None else self._deadline + FINAL_POLL_GRACE - now
                if left > 0 and now < self._wake:
                    return Sleep(min(self._wake - now, left))
                if left > 0:
                    return self._follow(LOG_DRAIN_IDLE_TIMEOUT, min(LOG_DRAIN_MAX_LIFETIME, left), now)
                self._end_log("the time of the wait has passed")
            self._write(self._log.flush(self._clock))
            return self._outcome
        if self._is_overdue(now):
            return self._poll(now)
        if now < self._wake:
            return Sleep(min(self._wake, self._deadline or self._wake) - now)
        if self._poll_due or now < self._stream_after:
            return self._poll(now)
        self._log_complete = self._on_log is None
        max_lifetime = (
            STREAM_MAX_LIFETIME if self._deadline is None else min(STREAM_MAX_LIFETIME, self._deadline - now)
        )
        return self._follow(STREAM_IDLE_TIMEOUT, max_lifetime, now)

    def _poll(self, now: float) -> Poll:
        return Poll(None if self._deadline is None else max(0.0, self._deadline - now) + FINAL_POLL_GRACE)

    def _follow(self, idle_timeout: float, max_lifetime: float, now: float) -> Follow:
        self._stream_opened = self._stream_heard = now
        self._stream_life = max_lifetime
        self._stream_lines = self._log.lines
        if self._stream_broke and self._seen:  # there was a poll since
            self._on_reconnect(self._seen)
        return Follow(idle_timeout, max_lifetime, self._log.open_stream(), self.invocation_id)

    @property
    def log_position(self) -> LogPosition:
        """How far the log was shown."""
        return self._log.position

    def on_event(self, event: Event, now: float) -> bool:
        """Handle an event of the stream; return False to leave the stream."""
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
        self._log_complete = self._end_reported = True
        if event.invocation.is_ended and not self._confirm_end:
            self._outcome = self._outcome or Ended(event.invocation)
        return False

    def on_stream_end(self, now: float, error: KernelError | None = None) -> None:
        """Handle the end of the stream: it ended, was left, or broke or could not be opened (``error``)."""
        now = self._elapsed(now)
        self._stream_broke = error is not None or now - self._stream_opened < self._stream_life
        if self._outcome:
            if not self._log_complete:
                self._on_log_drain_end(now, error)
            return
        # Comments are not events, but keep a stream alive: the transport, which sees the bytes, judges silence.
        silent = error is not None and now - self._stream_heard >= STREAM_IDLE_TIMEOUT
        if silent or now - self._stream_opened < MIN_STREAM_LIFETIME:
            self._stream_failures += 1
            self._stream_after = now + exponential(self._stream_failures, MAX_STREAM_PAUSE, initial=2.0)
        else:
            self._stream_failures = self._polls = 0
            self._stream_after = now
        self._poll_due = True
        self._wake = now
        if error is not None:
            self._wake += max(self._jitter() * RECONNECT_SPREAD, retry_after(error))

    def _on_log_drain_end(self, now: float, error: KernelError | None) -> None:
        """Handle the end of a stream that was opened after the end; decide whether the log is complete."""
        self._log_drain_tries += 1
        patience = LOG_DRAIN_SECONDS if self._stream_worked else LOG_DRAIN_SECONDS_WITHOUT_STREAM
        fell_silent = (
            self._stream_heard > self._stream_opened and now - self._stream_heard >= LOG_DRAIN_IDLE_TIMEOUT
        )
        # A log that existed a moment ago still exists.
        refused = is_kernels_refusal(error) and not (error.status_code == 404 and self._stream_worked)
        self._wake = now + max(self._pause(self._log_drain_tries), retry_after(error))
        if (error is None or fell_silent) and self._log.lines == self._stream_lines:
            self._log_complete = True  # no line is left, although Kernel did not say so
        elif self._wake > self._ended_at + patience or (refused and self._log_drain_tries > 1):
            self._end_log(str(error or "its streams end early"))

    def _end_log(self, why: str) -> None:
        self._log_complete = True
        self._write([*self._log.flush(self._clock), f"… the rest of the log could not be read: {why}"])

    def on_invocation(self, invocation: Invocation, now: float) -> None:
        """Handle the answer to a poll."""
        now = self._elapsed(now)
        self._seen = invocation
        if invocation.is_ended:
            self._outcome = Ended(invocation)
            self._wake = self._ended_at = now
        elif not invocation.is_active:
            self._failed(
                KernelTransportError(
                    f"Kernel reports the status {invocation.status!r}, which this provider does not know."
                ),
                now,
            )
        elif self._is_overdue(now):
            self._outcome = GaveUp(None)
        else:
            self._errors = self._refusals = 0
            self._poll_due = False
            self._polls += 1
            self._wake = now
            if now < self._stream_after:
                self._wake += self._pause(self._polls)

    def on_error(self, error: KernelError, now: float) -> None:
        """Handle a failed poll."""
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
            self._poll_due = True
            self._wake = now + max(self._pause(self._errors), retry_after(error))
        if should_log_failure(self._errors):
            self._on_transient_error(error)

    def _elapsed(self, now: float) -> float:
        """Return the time of a clock that never goes back."""
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
            self._failing_since = now  # Kernel is up, and throttles
        return now - self._failing_since >= MAX_OUTAGE and self._errors >= MIN_ERRORS

    def _write(self, records: list[str]) -> None:
        for record in records if self._on_log else ():
            self._on_log(record)  # type: ignore[misc]

    def _pause(self, count: int) -> float:
        return with_jitter(exponential(count, self._poll_interval), self._jitter())


class StatusLookup(WaitMachine):
    """A wait for the first good answer, whatever the status; :class:`Ended` then has the invocation."""

    def __init__(
        self,
        invocation_id: str,
        now: float,
        on_transient_error: Callable[[KernelError], None] = lambda error: None,
        deadline: float | None = None,
    ) -> None:
        super().__init__(invocation_id, now, on_transient_error=on_transient_error, deadline=deadline)
        self._poll_due = True

    def _poll(self, now: float) -> Poll:
        return Poll()

    def on_invocation(self, invocation: Invocation, now: float) -> None:
        """Handle the answer."""
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
    :raises KernelInvocationUnknownError: its state could not be determined.
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
    """Return the exception for :class:`GaveUp`."""
    if error is None:
        return KernelInvocationTimeoutError(
            f"Kernel invocation {invocation_id} had not ended by its deadline.", invocation_id=invocation_id
        )
    if isinstance(error, KernelResponseTooLargeError):
        return KernelResultTooLargeError(
            f"The result of Kernel invocation {invocation_id} could not be read: {error}",
            invocation_id=invocation_id,
        )
    return KernelInvocationUnknownError(
        f"The state of Kernel invocation {invocation_id} could not be determined: {error}",
        invocation_id=invocation_id,
    )
