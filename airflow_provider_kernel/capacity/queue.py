"""
Whose turn it is when the account is full: Kernel has no queue of its own, and says only 429 or 529.

:class:`CapacityQueue` is the queue of those who wait for one connection in one process. Whoever runs it looks now
and then which invocations are active, and is told whom to let go, to submit again. The rules:

- Nobody submits within :data:`MIN_PAUSE` of being refused, nor before ``Retry-After`` has passed.
- The limit is not known. It is first taken for what is active soon after a refusal. It rises to whatever is seen
  active, and falls by the refusals that no probe explains, but not below what the last two looks saw active.
- As many are let go as there seem to be free places, less those on their way; never more than :data:`MAX_BATCH`
  after one look.
- The limit may be too low: the plan was raised, say, or it was a mere rate limit. After a time without refusals
  some are let go beyond it, to probe: 1, then 2, 4 … while none is refused, which raises it too. That time doubles
  when one is refused.
- Where looking alone is not allowed, one is let go at a time, with growing pauses. While Kernel is down nobody is,
  at first: to submit would come to nothing, or to doubt. A refusal that would hit a submission, too, ends the wait.

Two triggerers have two queues, which know nothing of each other, and may both let somebody go for the same place.
One of the two is refused then, and waits again.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf

from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelError,
    is_kernels_refusal,
    retry_after,
)

#: Shortest time in seconds from a refusal to the next submission.
MIN_PAUSE = 10.0
#: Seconds over which is spread what might otherwise happen to many, or in several triggerers, at the same moment.
SPREAD = 2.0
#: Shortest and longest time in seconds between two looks; the longer nothing becomes free, the longer.
LOOK_PAUSE, MAX_LOOK_PAUSE = 10.0, 30.0
#: The pause between looks is this part of the time for which nothing became free.
LOOK_SHARE = 0.1
#: Seconds between two looks for each active invocation, at least: 2 s for each page of 20.
PAUSE_PER_ACTIVE = 0.1
#: How many are let go after one look, at most.
MAX_BATCH = 25
#: Seconds for which one who was let go counts as on the way, unless it is seen to have arrived.
ON_THE_WAY = 20.0
#: A refusal that is older, in seconds, says nothing of now: the wait comes from a triggerer that ended, say.
RECENT = 30.0
#: Seconds without a look after which the limit counts as unknown again.
STALE = 300.0
#: Seconds without a refusal after which some are let go beyond the limit; at first, and at most.
PROBE_PAUSE, MAX_PROBE_PAUSE = 30.0, 900.0
#: Seconds between two who are let go without a look, at most.
MAX_BLIND_PAUSE = 60.0
#: So many looks must fail before somebody is let go while Kernel may be down.
PATIENT_LOOKS = 3
#: Seconds after a deadline for which a look is waited for, as the last chance.
LAST_CHANCE = 15.0
#: A wait without a deadline has its turn as if it were to last so many seconds.
UNLIMITED = 86_400.0
#: Longest pause in seconds of a worker that waits by itself.
MAX_WORKER_PAUSE = 60.0


def worker_pause(
    refusals: int, retry_after: float = 0.0, jitter: Callable[[], float] = random.random
) -> float:
    """
    Return for how many seconds a worker that waits by itself, and sees nothing of the others, waits.

    They grow from 10-20 to 30-60; a longer ``Retry-After`` is waited for all the same.

    :param refusals: how often in a row the invocation was refused, from 1.
    :param retry_after: the seconds that the last refusal asked to wait; 0 if it did not.
    :param jitter: returns a number from 0 to 1.
    """
    spread = jitter()
    longest = min(MAX_WORKER_PAUSE, MIN_PAUSE * 2.0 ** min(refusals, 20))
    pause = longest * (1 + spread) / 2
    return max(pause, retry_after + SPREAD * spread) if retry_after else pause


def is_worth_waiting(error: KernelError) -> bool:
    """
    Return whether to keep waiting after listing the active invocations failed with ``error``.

    False where Kernel would certainly refuse a submission for the same reason: the token, the project or the spending
    cap. Whatever else refuses the look, a proxy or a scope that allows submitting only, leaves the answer to a submission.
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
    One who waits. All times are seconds since 1970.

    :param not_before: when it may submit again, at the earliest.
    :param deadline: when its wait ends; None for never.
    :param turn: whose is lower comes first.
    """

    not_before: float
    deadline: float | None
    priority: float


class CapacityQueue:
    """
    The queue of those who wait for one connection in one process. All times are seconds since 1970.

    The turn goes by deadline. With the same ``capacity_timeout`` for all that is first come, first served, and
    whoever is refused again keeps its place.

    :param jitter: returns a number from 0 to 1.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        #: How many looks in a row failed.
        self.failures = 0
        self._jitter = jitter
        self._waiters: list[Waiter] = []
        self._active: frozenset[str] = frozenset()
        self._on_the_way: deque[float] = deque()
        self._refusals = 0
        self._refused_at = self._looked_at = self._probed_at = -inf
        self._look_at = 0.0
        self._blind_pause = LOOK_PAUSE
        self._forget(-inf)

    def _forget(self, now: float) -> None:
        """Know nothing of the limit."""
        self._limit: int | None = None
        self._active_before = self._probes = 0
        self._probe_size, self._probe_pause = 1, PROBE_PAUSE
        self._free_at = now

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def limit(self) -> int | None:
        """How many invocations may be active at a time, as far as can be told; None: unknown."""
        return self._limit

    def join(
        self, now: float, refused_at: float, retry_after: float = 0.0, deadline: float | None = None
    ) -> Waiter:
        """
        Add one who was refused.

        :param refused_at: when.
        :param retry_after: the seconds that the refusal asked to wait; 0 if it did not.
        :param deadline: when its wait ends; None for never.
        """
        refused_at = min(refused_at, now)  # another machine's clock may be ahead
        if now - refused_at < RECENT:
            self._refusals += 1
            self._refused_at = now
        if not self._waiters:
            if now - self._looked_at > STALE:
                self._forget(now)
            self._look_at = max(self._look_at, now + SPREAD * self._jitter())
        waiter = Waiter(
            not_before=refused_at + max(MIN_PAUSE, retry_after) + SPREAD * self._jitter(),
            deadline=deadline,
            priority=refused_at + UNLIMITED if deadline is None else deadline,
        )
        self._waiters.append(waiter)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Remove ``waiter``, unless it has left already."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def position(self, waiter: Waiter) -> int:
        """Return the place of ``waiter``, from 1."""
        return 1 + sum(other.priority < waiter.priority for other in self._waiters)

    def next_poll_at(self) -> float:
        """Return when to look next."""
        if self._limit is None or self._refusals:
            return self._look_at  # to learn the limit, while the account is full
        return max(self._look_at, min((waiter.not_before for waiter in self._waiters), default=inf))

    def wake_at(self) -> float:
        """Return when to look, or to ask :meth:`expired`, whichever is first; another may :meth:`join` before."""
        deadlines = (waiter.deadline for waiter in self._waiters if waiter.deadline is not None)
        return min(self.next_poll_at(), min(deadlines, default=inf) + LAST_CHANCE)

    def on_listed(self, active: Collection[str], now: float) -> list[Waiter]:
        """Take the ids of the invocations that are active, and return whom to let go; they have left the queue."""
        on_the_way = self._note_arrivals(frozenset(active), now)
        limit = self._judge_limit(len(active))
        self.failures, self._blind_pause = 0, LOOK_PAUSE
        eligible = self._eligible(now)
        free = max(0, limit - len(active) - on_the_way)
        if free:
            self._free_at = now
        pause = min(max(LOOK_PAUSE, LOOK_SHARE * (now - self._free_at)), MAX_LOOK_PAUSE)
        self._look_again(now, max(pause, PAUSE_PER_ACTIVE * len(active)))
        if len(eligible) > free:
            free += self._probe(limit, now)
        return self._release(eligible[: min(free, MAX_BATCH)], now)

    def on_failed(self, error: KernelError, now: float) -> list[Waiter]:
        """Take that a look failed, and return whom to let go all the same: one, or nobody."""
        self.failures += 1
        is_refusal = isinstance(error, KernelApiError) and error.is_refusal
        if is_refusal and not self._refusals:
            self._blind_pause = LOOK_PAUSE
        else:
            self._blind_pause = min(MAX_BLIND_PAUSE, 2 * self._blind_pause)
        self._refusals = 0
        self._look_again(now, max(self._blind_pause, retry_after(error)))
        count = 1 if is_refusal or self.failures >= PATIENT_LOOKS else 0
        return self._release(self._eligible(now)[:count], now)

    def expired(self, now: float) -> list[Waiter]:
        """
        Return those whose wait is over; they have left the queue.

        It is over with the first look that ends after the deadline, or if there is none soon, without.
        """
        over = [
            waiter
            for waiter in self._waiters
            if waiter.deadline is not None
            and (waiter.deadline <= self._looked_at or waiter.deadline + LAST_CHANCE <= now)
        ]
        for waiter in over:
            self.leave(waiter)
        return over

    def _note_arrivals(self, active: frozenset[str], now: float) -> int:
        """Return how many of those who were let go have neither arrived nor been refused."""
        arrivals = len(active - self._active) + self._refusals
        self._active = active
        while self._on_the_way and now - self._on_the_way[0] > ON_THE_WAY:
            self._on_the_way.popleft()
        for _ in range(min(arrivals, len(self._on_the_way))):
            self._on_the_way.popleft()
        return len(self._on_the_way)

    def _judge_limit(self, active: int) -> int:
        limit, refusals = self._limit or 0, self._refusals
        if active > limit:
            self._limit = active
            self._probes = max(0, self._probes - (active - limit))
            self._probe_pause = PROBE_PAUSE
        elif refusals:
            explained = min(refusals, self._probes)
            if explained:
                self._probe_pause = min(MAX_PROBE_PAUSE, 2 * self._probe_pause)
            self._limit = max(active, self._active_before, limit - refusals + explained)
            if self._limit < limit:  # perhaps too far
                self._probe_pause = PROBE_PAUSE
            self._probes -= explained
            self._probe_size = 1
        self._refusals = 0
        self._active_before = active
        self._limit = max(1, self._limit or 0)
        return self._limit

    def _probe(self, limit: int, now: float) -> int:
        """Return how many to let go beyond the limit."""
        if now - max(self._refused_at, self._probed_at) < self._probe_pause:
            return 0
        self._limit = limit + self._probes  # nobody was refused
        self._probed_at, self._probes = now, self._probe_size
        self._probe_size = min(MAX_BATCH, 2 * self._probe_size)
        return self._probes

    def _eligible(self, now: float) -> list[Waiter]:
        return sorted((w for w in self._waiters if w.not_before <= now), key=lambda waiter: waiter.priority)

    def _release(self, waiters: list[Waiter], now: float) -> list[Waiter]:
        for waiter in waiters:
            self.leave(waiter)
            self._on_the_way.append(now)
        return waiters

    def _look_again(self, now: float, pause: float) -> None:
        self._looked_at = now
        self._look_at = now + pause + SPREAD * self._jitter()
