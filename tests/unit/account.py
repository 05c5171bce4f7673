"""A simulated Airflow with more tasks than a Kernel account has capacity for; seeded, on a simulated clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from airflow_provider_kernel.api.errors import KernelApiError, KernelError
from airflow_provider_kernel.capacity.queue import CapacityQueue, Waiter

START = 1_800_000_000.0
#: Minimum and maximum seconds from a refusal to the trigger's start, and from the trigger's event to the submission.
DEFERRING, RESUMING = (0.5, 2.0), (2.0, 5.0)


class Account:
    """
    A Kernel account, and tasks that each submit one invocation.

    :param seed: the seed of all random numbers.
    :param tasks: the number of tasks.
    :param limit: the number of active invocations that the account allows.
    :param seconds: the mean duration of the tasks' invocations.
    :param app_limit: the number of active invocations that the account allows for the tasks' app. Default: ``limit``.
    :param requests_per_minute: the rate limit of submissions and polls. Default: none.
    :param triggerers: the number of triggerers; each has its own queue, and Airflow puts each wait in a random one.
    :param tasks_per_second: the rate at which Airflow starts the tasks.
    :param resuming: minimum and maximum seconds from an event of the trigger to the submission.
    :param timeout: seconds from its first refusal for which a task waits.
    :param outsider: mean seconds between two invocations of another user, and their mean duration. Default: none.
    :param limits: pairs of seconds after the start, and the account's limit from then on.
    :param failing: takes seconds after the start, and returns the error of a poll at that time, or None.
    """

    def __init__(
        self,
        seed: int,
        *,
        tasks: int,
        limit: int,
        seconds: float = 60.0,
        app_limit: int | None = None,
        requests_per_minute: int | None = None,
        triggerers: int = 1,
        tasks_per_second: float = 2.0,
        resuming: tuple[float, float] = RESUMING,
        timeout: float = 86_400.0,
        outsider: tuple[float, float] | None = None,
        limits: tuple[tuple[float, int], ...] = (),
        failing: Callable[[float], KernelError | None] = lambda second: None,
    ) -> None:
        self.random = random.Random(seed)
        self.tasks, self.limit, self.seconds, self.app_limit = tasks, limit, seconds, app_limit
        self.requests_per_minute, self.resuming, self.timeout = requests_per_minute, resuming, timeout
        self.outsider, self.failing = outsider, failing
        self.now = START
        self.queues = [CapacityQueue(self.random.random) for _ in range(triggerers)]
        self.active: dict[str, str] = {}
        self.submissions: list[float] = []
        self.tries: Counter[int] = Counter()
        self.accepted: list[float] = []
        self.accepted_tasks: list[int] = []
        self.timed_out: list[tuple[int, float]] = []
        self.first_refusals: dict[int, float] = {}
        self.shortest_pause = float("inf")
        self.polls: list[list[float]] = [[] for _ in range(triggerers)]
        self._refused_at: dict[int, float] = {}
        self._waiting: dict[Waiter, int] = {}
        self._requests: list[float] = []
        self._history: list[tuple[float, int, int]] = []
        self._ids = itertools.count()
        self._agenda: list[Any] = []
        for task in range(tasks):
            self._after(task / tasks_per_second + self.random.random(), self._submit, task)
        for second, other in limits:
            self._after(second, setattr, self, "limit", other)
        if outsider:
            self._after(0, self._start_outsiders_invocation)

    def run(self) -> Account:
        while self._agenda:
            self.now, _, do, arguments = heapq.heappop(self._agenda)
            do(*arguments)
        return self

    @property
    def submissions_per_task(self) -> float:
        return len(self.submissions) / self.tasks

    @property
    def end(self) -> float:
        """Seconds from the start until Kernel accepted the last task."""
        return self.accepted[-1] - START

    def use(self, app: str | None = None, since: float = 0.0) -> float:
        """Return the mean number of active invocations (of ``app``) from the first refusal to the last acceptance."""
        begin, end = max(min(self.first_refusals.values()), START + since), self.accepted[-1]
        used = 0.0
        for (at, every, ours), (until, _, _) in itertools.pairwise(self._history):
            used += (ours if app else every) * max(0.0, min(until, end) - max(at, begin))
        return used / (end - begin)

    def most_submissions_within(self, seconds: float) -> int:
        return max(
            sum(at <= other < at + seconds for other in self.submissions[index:])
            for index, at in enumerate(self.submissions)
        )

    def _after(self, seconds: float, do: Callable[..., Any], *arguments: Any) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._ids), do, arguments))

    def _start_outsiders_invocation(self) -> None:
        every, length = self.outsider
        if len(self.active) < self.limit:
            self._start("theirs", self.random.expovariate(1 / length))
        if len(self.accepted) + len(self.timed_out) < self.tasks:
            self._after(self.random.expovariate(1 / every), self._start_outsiders_invocation)

    def _start(self, app: str, seconds: float) -> None:
        invocation_id = f"i{next(self._ids)}"
        self.active[invocation_id] = app
        self._after(seconds, self._end, invocation_id)
        self._record()

    def _end(self, invocation_id: str) -> None:
        del self.active[invocation_id]
        self._record()

    def _record(self) -> None:
        self._history.append((self.now, len(self.active), self._ours()))

    def _ours(self) -> int:
        return sum(app == "ours" for app in self.active.values())

    def _throttled(self, requests: int = 1) -> float:
        """Return the Retry-After if the requests exceed the rate limit; else count them, and return 0."""
        self._requests = [at for at in self._requests if self.now - at < 60]
        if self.requests_per_minute and len(self._requests) + requests > self.requests_per_minute:
            return 60 - (self.now - self._requests[0])
        self._requests += [self.now] * requests
        return 0.0

    def _submit(self, task: int) -> None:
        self.submissions.append(self.now)
        self.tries[task] += 1
        if task in self._refused_at:
            self.shortest_pause = min(self.shortest_pause, self.now - self._refused_at[task])
        throttled = self._throttled()
        if throttled or len(self.active) >= self.limit or self._ours() >= (self.app_limit or self.limit):
            self._refused_at[task] = self.now
            self.first_refusals.setdefault(task, self.now)
            self._after(self.random.uniform(*DEFERRING), self._wait, task, throttled or 1.0)
        else:
            self.accepted.append(self.now)
            self.accepted_tasks.append(task)
            self._start("ours", self.seconds * self.random.uniform(0.9, 1.1))

    def _wait(self, task: int, retry_after: float) -> None:
        number = self.random.randrange(len(self.queues))
        deadline = self.first_refusals[task] + self.timeout
        waiter = self.queues[number].join(self.now, self._refused_at[task], retry_after, deadline)
        self._waiting[waiter] = task
        self._schedule_wake(number)

    def _schedule_wake(self, number: int) -> None:
        if len(self.queues[number]):
            wake_at = self.queues[number].wake_at()
            self._after(max(0.0, wake_at - self.now), self._wake, number, wake_at)

    def _wake(self, number: int, planned: float) -> None:
        queue = self.queues[number]
        if not len(queue) or queue.wake_at() != planned:
            return  # a waiter that joined changed the time
        released = []
        if self.now >= queue.next_poll_at():
            self.polls[number].append(self.now)
            throttled = self._throttled(2)
            error = self.failing(self.now - START)
            if throttled:
                error = KernelApiError("slowly", status_code=429, retry_after=throttled)
            released = queue.on_failed(error, self.now) if error else queue.on_listed(self.active, self.now)
        for waiter in released:
            self._after(self.random.uniform(*self.resuming), self._submit, self._waiting.pop(waiter))
        for waiter in queue.expired(self.now):
            self.timed_out.append((self._waiting.pop(waiter), self.now))
        self._schedule_wake(number)
