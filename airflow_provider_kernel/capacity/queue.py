"""
The queue of the tasks that wait for capacity in a full account. No I/O.

Kernel has no queue: it answers 429 or 529 to an invocation over the limit. :class:`CapacityQueue` is the queue of all
waiters of one connection in one process. Its driver polls Kernel for the active invocations, and the queue answers
which waiters to release: these submit again. The rules:

- No waiter submits within :data:`MIN_PAUSE` after its refusal, or before ``Retry-After`` has passed.
- After each poll, the queue releases as many waiters as places are free, or become free until these submit,
  :data:`MAX_BATCH` at most. A released waiter occupies a place until it arrives or is refused.
  :class:`~airflow_provider_kernel.capacity.limit.LimitEstimate` estimates the limit, and sometimes adds a probe.
- Where Kernel refuses the poll alone (a token may be allowed to submit only), the queue releases one waiter per poll,
  with growing pauses.
- While Kernel may be down, the queue releases no waiter for :data:`FAILURES_BEFORE_RELEASE` polls: a submission
  would fail, or its reply would be lost. A refusal that a submission would meet, too, ends the wait.

Two triggerers have two queues, which may both release a waiter for the same place. Kernel refuses one of the two
submissions, and its task waits again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf

from airflow_provider_kernel.api.backoff import exponential, with_jitter
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelError,
    is_kernels_refusal,
    retry_after,
)
from airflow_provider_kernel.capacity.limit import MAX_BATCH, LimitEstimate

#: Minimum time in seconds from a refusal to the next submission.
MIN_PAUSE = 10.0
#: Maximum jitter in seconds, so that many waiters or several triggerers do not act at the same moment.
SPREAD = 2.0
#: Seconds between two polls: for the shortest invocations, for those of 40 s or more, and while no place becomes free.
MIN_POLL_PAUSE, POLL_PAUSE, MAX_POLL_PAUSE = 2.0, 10.0, 30.0
#: The share of the active invocations that may end between two polls.
ENDED_SHARE = 0.25
#: The pause between two polls, as a share of the time since a place was free.
POLL_SHARE = 0.1
#: Minimum seconds between two polls for each active invocation: 2 s for each page of 20.
PAUSE_PER_ACTIVE = 0.1
#: Ignore older refusals, in seconds, when estimating the limit: for example after a triggerer took over the wait.
MAX_REFUSAL_AGE = 30.0
#: Seconds without a poll after which the estimate of the limit is discarded.
MAX_ESTIMATE_AGE = 300.0
#: Maximum pause in seconds after a failed poll, unless Kernel asks for a longer one.
MAX_FAILURE_PAUSE = 60.0
#: Minimum consecutive failed polls before the queue releases a waiter while Kernel may be down.
FAILURES_BEFORE_RELEASE = 3
#: Seconds after its deadline for which a waiter waits for one last poll.
DEADLINE_GRACE = 15.0
#: A waiter without a deadline has the priority of one whose deadline is this many seconds after its refusal.
PRIORITY_WITHOUT_DEADLINE = 86_400.0
#: Maximum pause in seconds of a task that waits on a worker.
MAX_WORKER_PAUSE = 60.0


def worker_pause(
    refusals: int, retry_after: float = 0.0, jitter: Callable[[], float] = random.random
) -> float:
    """
    Return the seconds that a task on a worker waits before it submits again; a worker has no queue.

    The pause grows from 10-20 s to 30-60 s, and is never shorter than ``Retry-After``.

    :param refusals: the number of consecutive refusals, from 1.
    :param retry_after: the seconds that the last refusal asked to wait. Default 0: none.
    :param jitter: returns a number from 0 to 1.
    """
    spread = jitter()
    pause = with_jitter(exponential(refusals, MAX_WORKER_PAUSE, initial=2 * MIN_PAUSE), spread)
    return max(pause, retry_after + SPREAD * spread) if retry_after else pause


def is_worth_waiting(error: KernelError) -> bool:
    """
    Return whether to keep waiting after a poll failed with ``error``.

    Return False where Kernel would refuse a submission for the same reason: the token, the project, the plan or the
    spending cap. Return True where a submission may succeed all the same: for example if a proxy refused the poll, or
    if the token's scope allows submitting only.
    """
    if isinstance(error, KernelConfigurationError):
        return False
    return not (
        is_kernels_refusal(error)
        and (
            error.status_code == 401
            or error.refusal in ("spending cap", "plan", "other project", "no project")
        )
    )


@dataclass(frozen=True, eq=False)
class Waiter:
    """
    One task that waits for capacity. All times are seconds since 1970.

    :param not_before: the earliest time at which the task may submit again.
    :param deadline: the time at which the wait ends; None for never.
    :param priority: the waiter with the lowest priority is released first.
    """

    not_before: float
    deadline: float | None
    priority: float


class CapacityQueue:
    """
    The queue of all waiters of one connection in one process. All times are seconds since 1970.

    The waiter with the earliest deadline is released first. With the same ``capacity_timeout`` for all tasks that is
    first come, first served, and a task that is refused again keeps its place.

    :param jitter: returns a number from 0 to 1.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        #: The number of consecutive failed polls.
        self.failures = 0
        self._jitter = jitter
        self._waiters: list[Waiter] = []
        self._estimate = LimitEstimate()
        self._polled_at = self._free_at = -inf
        self._next_poll_at = 0.0
        # Consecutive failed polls that lengthen the pause; self.failures counts the others, too.
        self._slowing_failures = 0

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def limit(self) -> int | None:
        """The estimated number of invocations that may be active at a time; None while it is unknown."""
        return self._estimate.limit

    def join(
        self, now: float, refused_at: float, retry_after: float = 0.0, deadline: float | None = None
    ) -> Waiter:
        """
        Add a waiter, and return it.

        :param now: the current time.
        :param refused_at: the time at which Kernel refused the submission.
        :param retry_after: the seconds that the refusal asked to wait. Default 0: none.
        :param deadline: the time at which the wait ends. Default None: never.
        """
        refused_at = min(refused_at, now)  # another machine's clock may be ahead
        if now - refused_at < MAX_REFUSAL_AGE:
            self._estimate.on_refusal(now)
        if not self._waiters:
            if now - self._polled_at > MAX_ESTIMATE_AGE:
                self._estimate.reset()
                self._free_at = now
            self._next_poll_at = max(self._next_poll_at, now + SPREAD * self._jitter())
        waiter = Waiter(
            not_before=refused_at + max(MIN_PAUSE, retry_after) + SPREAD * self._jitter(),
            deadline=deadline,
            priority=refused_at + PRIORITY_WITHOUT_DEADLINE if deadline is None else deadline,
        )
        self._waiters.append(waiter)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Remove ``waiter`` if it is in the queue."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def position(self, waiter: Waiter) -> int:
        """Return the place of ``waiter`` in the queue, from 1."""
        return 1 + sum(other.priority < waiter.priority for other in self._waiters)

    def next_poll_at(self) -> float:
        """Return the time of the next poll."""
        if self._estimate.limit is None or self._estimate.has_refusals:
            return self._next_poll_at  # learn the limit while the account is full
        return max(self._next_poll_at, min((waiter.not_before for waiter in self._waiters), default=inf))

    def wake_at(self) -> float:
        """Return the time of the next poll or of the next call of :meth:`expired`; :meth:`join` may change it."""
        deadlines = (waiter.deadline for waiter in self._waiters if waiter.deadline is not None)
        return min(self.next_poll_at(), min(deadlines, default=inf) + DEADLINE_GRACE)

    def on_listed(self, active: Collection[str], now: float) -> list[Waiter]:
        """
        Record a successful poll, and return the waiters to release; the queue no longer contains them.

        :param active: the ids of the active invocations.
        :param now: the time at which the poll ended.
        """
        free = self._estimate.on_listed(frozenset(active), now)
        self.failures = self._slowing_failures = 0
        eligible = self._eligible(now)
        if free:
            self._free_at = now
        shortest = min(max(MIN_POLL_PAUSE, ENDED_SHARE * self._estimate.mean_seconds), POLL_PAUSE)
        pause = min(max(shortest, POLL_SHARE * (now - self._free_at)), MAX_POLL_PAUSE)
        self._schedule_poll(now, max(pause, PAUSE_PER_ACTIVE * len(active)))
        if len(eligible) > free:
            free += self._estimate.probe(now)
        return self._release(eligible[: min(free, MAX_BATCH)], now)

    def on_failed(self, error: KernelError, now: float) -> list[Waiter]:
        """
        Record a failed poll, and return the waiters to release: one or none.

        :param error: the error of the poll.
        :param now: the time at which the poll ended.
        """
        self.failures += 1
        is_refusal = isinstance(error, KernelApiError) and error.is_refusal
        if is_refusal and not self._estimate.has_refusals:
            self._slowing_failures = 0
        else:
            self._slowing_failures += 1
        self._estimate.discard_refusals()
        pause = exponential(self._slowing_failures + 1, MAX_FAILURE_PAUSE, initial=POLL_PAUSE)
        self._schedule_poll(now, max(pause, retry_after(error)))
        count = 1 if is_refusal or self.failures >= FAILURES_BEFORE_RELEASE else 0
        return self._release(self._eligible(now)[:count], now)

    def expired(self, now: float) -> list[Waiter]:
        """
        Return the waiters whose wait is over; the queue no longer contains them.

        A wait is over after the first poll that ends after the deadline, or :data:`DEADLINE_GRACE` after the
        deadline if no poll ends before.
        """
        over = [
            waiter
            for waiter in self._waiters
            if waiter.deadline is not None
            and (waiter.deadline <= self._polled_at or waiter.deadline + DEADLINE_GRACE <= now)
        ]
        for waiter in over:
            self.leave(waiter)
        return over

    def _eligible(self, now: float) -> list[Waiter]:
        return sorted((w for w in self._waiters if w.not_before <= now), key=lambda waiter: waiter.priority)

    def _release(self, waiters: list[Waiter], now: float) -> list[Waiter]:
        for waiter in waiters:
            self.leave(waiter)
        self._estimate.on_released(len(waiters), now)
        return waiters

    def _schedule_poll(self, now: float, pause: float) -> None:
        self._polled_at = now
        self._next_poll_at = now + pause + SPREAD * self._jitter()
