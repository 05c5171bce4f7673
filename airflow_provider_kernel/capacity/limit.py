"""
The estimate of how many invocations an account may have active at a time. No I/O.

Kernel does not tell the limit. :class:`LimitEstimate` learns it from the listed active invocations and from refusals:

- The first estimate is the number of active invocations listed soon after a refusal.
- The estimate rises to any higher number of active invocations listed.
- The estimate falls by the number of refusals that no probe explains, but not below what the last two lists showed.
- The estimate may be too low: the plan was raised, or the refusal came from a rate limit. So after a time without
  refusals, the queue probes: it releases more waiters than the estimate allows, first 1, then 2, 4 …. The estimate
  rises by each probe that Kernel accepts. A refused probe doubles the time to the next probe, which is 1 again.

A released waiter takes seconds to submit, and short invocations end meanwhile. So the queue also releases as many waiters
as places become free until then. Refusals that these explain do not lower the estimate.
"""

from __future__ import annotations

from collections import deque
from math import inf

#: Maximum number of waiters that the queue releases after one list of active invocations.
MAX_BATCH = 25
#: Seconds for which a released waiter counts as in flight, unless it arrives or is refused before.
IN_FLIGHT_SECONDS = 20.0
#: Seconds from the release of a waiter to its submission: Airflow resumes the task, and a worker starts its process.
RESUMING_SECONDS = 4.0
#: What each ended invocation leaves of the weight of those that ended before, in the mean of their durations.
DECAY = 0.95
#: Seconds without a refusal before the next probe: after an accepted probe, and at most.
PROBE_PAUSE, MAX_PROBE_PAUSE = 30.0, 900.0


class LimitEstimate:
    """The estimated limit of one account. All times are seconds since 1970."""

    def __init__(self) -> None:
        self._active: frozenset[str] = frozenset()
        self._listed_at = -inf
        # The number of ended invocations, and the seconds for which all were active; older ones weigh less.
        self._ended = self._active_seconds = 0.0
        self._released_at: deque[float] = deque()
        self._refusals = 0
        self._refused_at = self._probed_at = -inf
        self.reset()

    def reset(self) -> None:
        """Forget the estimate: it is too old."""
        self._limit: int | None = None
        self._active_before = self._probes = 0
        self._probe_size, self._probe_pause = 1, PROBE_PAUSE

    @property
    def limit(self) -> int | None:
        """The estimated number of invocations that may be active at a time; None while it is unknown."""
        return self._limit

    @property
    def mean_seconds(self) -> float:
        """The mean duration of the invocations, in seconds; infinite while none has ended."""
        return self._active_seconds / self._ended if self._ended else inf

    @property
    def has_refusals(self) -> bool:
        """Whether Kernel refused a submission since the last list or the last :meth:`discard_refusals`."""
        return bool(self._refusals)

    def on_refusal(self, now: float) -> None:
        """Record that Kernel refused a submission because the account is full."""
        self._refusals += 1
        self._refused_at = now

    def discard_refusals(self) -> None:
        """Leave the refusals since the last list out of the estimate: no list shows how many invocations are active."""
        self._refusals = 0

    def on_released(self, count: int, now: float) -> None:
        """Record that ``count`` waiters were released to submit."""
        self._released_at.extend([now] * count)

    def on_listed(self, active: frozenset[str], now: float) -> int:
        """
        Update the estimate, and return the number of waiters for which a place is free, or will be when they arrive.

        :param active: the ids of the active invocations.
        :param now: the time of the list.
        """
        self._learn_duration(active, now)
        beyond_limit = len(self._active) + len(self._released_at) - self._probes - (self._limit or 0)
        in_flight = self._count_in_flight(active, now)
        limit = self._update(len(active), explained=max(0, beyond_limit))
        ending = int(len(active) * RESUMING_SECONDS / max(RESUMING_SECONDS, self.mean_seconds))
        return max(0, limit - len(active) - in_flight + ending)

    def probe(self, now: float) -> int:
        """Return how many waiters to release beyond the limit; 0 if it is too early for a probe."""
        if now - max(self._refused_at, self._probed_at) < self._probe_pause:
            return 0
        self._limit = (self._limit or 0) + self._probes  # Kernel accepted the last probe
        self._probed_at, self._probes = now, self._probe_size
        self._probe_size = min(MAX_BATCH, 2 * self._probe_size)
        return self._probes

    def _learn_duration(self, active: frozenset[str], now: float) -> None:
        if self._active:
            ended = len(self._active - active)
            kept = DECAY**ended
            self._ended = kept * (self._ended + ended)
            self._active_seconds = kept * (self._active_seconds + len(self._active) * (now - self._listed_at))
        self._listed_at = now

    def _count_in_flight(self, active: frozenset[str], now: float) -> int:
        """Return the number of released waiters that have neither arrived nor been refused."""
        done = len(active - self._active) + self._refusals
        self._active = active
        while self._released_at and now - self._released_at[0] > IN_FLIGHT_SECONDS:
            self._released_at.popleft()
        for _ in range(min(done, len(self._released_at))):
            self._released_at.popleft()
        return len(self._released_at)

    def _update(self, active: int, explained: int) -> int:
        limit, refusals = self._limit or 0, max(0, self._refusals - explained)
        if active > limit:
            self._limit = active
            self._probes = max(0, self._probes - (active - limit))
            self._probe_pause = PROBE_PAUSE
        elif refusals:
            probes = min(refusals, self._probes)
            if probes:
                self._probe_pause = min(MAX_PROBE_PAUSE, 2 * self._probe_pause)
            self._limit = max(active, self._active_before, limit - refusals + probes)
            if self._limit < limit:  # the estimate may now be too low, so probe soon
                self._probe_pause = PROBE_PAUSE
            self._probes -= probes
            self._probe_size = 1
        self._refusals = 0
        self._active_before = active
        self._limit = max(1, self._limit or 0)
        return self._limit
