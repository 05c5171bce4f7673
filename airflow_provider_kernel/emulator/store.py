"""
The invocations in memory: their data, states and logs, and which of them are kept. Pure; the time is an argument.

Choices where Kernel's behaviour is unknown: ``started_at`` is the time of acceptance and never changes. The version of
an invocation is the resolved label, so the filter ``version=latest`` finds nothing. Payloads are stored byte for byte,
unless ``--reserialize-payloads`` is set.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.api.timestamps import format_timestamp

#: Maximum log text of an invocation, in characters. Beyond it, the oldest lines are dropped.
MAX_LOG_SIZE = 8 * 2**20
#: Characters that each line counts besides its text, so that endless empty lines are bounded too.
LINE_OVERHEAD = 128
#: Maximum number of ended invocations. Beyond it, those that ended first are forgotten.
MAX_ENDED = 1_000
#: Maximum payloads, outputs and logs of all ended invocations, in characters. Beyond it, those that ended first are
#: forgotten; the last one is always kept.
MAX_ENDED_SIZE = 256 * 2**20


@dataclass(frozen=True)
class InvocationResult:
    """How an invocation ended. ``reason`` is None exactly if the invocation succeeded."""

    status: InvocationStatus
    output: str | None
    reason: str | None


def failed(reason: str, output: str | None = None) -> InvocationResult:
    """Return the result of a failed invocation."""
    return InvocationResult(InvocationStatus.FAILED, output, reason)


@dataclass(eq=False)
class StoredInvocation:
    """
    One invocation. Times are in nanoseconds since 1970.

    :param version_note: what follows the action's name for people: the version, if the app has several.
    :param logs: the kept lines: time and message.
    :param log_size: characters of the kept lines, with :data:`LINE_OVERHEAD`.
    :param dropped: number of lines that were dropped from ``logs``.
    :param listeners: functions that are called after every change, in this order; none after the end.
    """

    id: str
    app_name: str
    action_name: str
    version: str
    deployment_id: str
    payload: str | None
    started: int
    version_note: str = ""
    status: InvocationStatus = InvocationStatus.QUEUED
    output: str | None = None
    reason: str | None = None
    finished: int | None = None
    logs: list[tuple[int, str]] = field(default_factory=list)
    log_size: int = 0
    dropped: int = 0
    listeners: list[Callable[[], None]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The name of app and action for people."""
        return f"{self.app_name}.{self.action_name}{self.version_note}"

    @property
    def is_ended(self) -> bool:
        """Whether the invocation has succeeded or failed."""
        return self.finished is not None

    @property
    def size(self) -> int:
        """The size of payload, output and log in memory, in characters."""
        return len(self.payload or "") + len(self.output or "") + self.log_size

    def mark_running(self) -> None:
        """Set the status to running."""
        self.status = InvocationStatus.RUNNING
        self._notify()

    def add_line(self, message: str, now: int) -> None:
        """Add a line to the log. Each line gets a later time than the line before, so that a time names one line."""
        if self.logs:
            now = max(now, self.logs[-1][0] + 1)
        self.logs.append((now, message))
        self.log_size += len(message) + LINE_OVERHEAD
        if self.log_size > MAX_LOG_SIZE:
            self._drop_lines()
        self._notify()

    def finish(self, result: InvocationResult, now: int) -> None:
        """Set the result. No line may be added afterwards."""
        self.status, self.output, self.reason = result.status, result.output, result.reason
        self.finished = now
        self._notify()
        self.listeners.clear()  # They refer to the invocation, so only garbage collection would free both.

    def line_number(self, since: int | None) -> int:
        """Return the number of the first line at or after ``since``; 0 if ``since`` is None."""
        return 0 if since is None else self.dropped + bisect_left(self.logs, (since, ""))

    def lines(self, start: int, count: int, size: int | None = None) -> list[tuple[int, str]]:
        """
        Return up to ``count`` lines from line number ``start``, which must not be below ``dropped``.

        :param size: characters after which no further line is returned; None: no limit.
        """
        index = start - self.dropped
        lines = self.logs[index : index + count]
        if size is None:
            return lines
        sizes = accumulate(len(text) for _, text in lines)
        return lines[: sum(it < size for it in sizes) + 1]

    def as_json(self, *, with_reason: bool = True) -> dict[str, Any]:
        """Return the invocation as the API describes it. Fields without a value are left out."""
        data = {
            "id": self.id,
            "app_name": self.app_name,
            "version": self.version,
            "action_name": self.action_name,
            "payload": self.payload,
            "output": self.output,
            "started_at": format_timestamp(self.started),
            "finished_at": None if self.finished is None else format_timestamp(self.finished),
            "status": self.status.value,
            "status_reason": self.reason if with_reason else None,
        }
        return {name: value for name, value in data.items() if value is not None}

    def _drop_lines(self) -> None:
        """Drop a quarter of the log, so that dropping is rare."""
        count = 0
        while self.log_size > MAX_LOG_SIZE * 3 // 4:
            self.log_size -= len(self.logs[count][1]) + LINE_OVERHEAD
            count += 1
        del self.logs[:count]
        self.dropped += count

    def _notify(self) -> None:
        for listener in list(self.listeners):
            listener()


@dataclass(frozen=True)
class ListFilter:
    """
    The filters of ``GET /invocations``. None matches any invocation.

    :param since: least time of acceptance, in nanoseconds since 1970.
    :param query: text that the id, the app's name or the action's name contains, in any case.
    """

    app_name: str | None = None
    action_name: str | None = None
    version: str | None = None
    deployment_id: str | None = None
    status: InvocationStatus | None = None
    since: int | None = None
    query: str | None = None

    def matches(self, invocation: StoredInvocation) -> bool:
        """Return whether the list contains the invocation."""
        exact = ("app_name", "action_name", "version", "deployment_id", "status")
        if any(getattr(self, name) not in (None, getattr(invocation, name)) for name in exact):
            return False
        if self.since is not None and invocation.started < self.since:
            return False
        texts = (invocation.id, invocation.app_name, invocation.action_name)
        return self.query is None or any(self.query.lower() in text.lower() for text in texts)


class Store:
    """All invocations, oldest first."""

    def __init__(self) -> None:
        self._invocations: dict[str, StoredInvocation] = {}
        #: Those that have ended, in the order of their ends, and their total size.
        self._ended: deque[StoredInvocation] = deque()
        self._ended_size = 0

    def add(self, invocation: StoredInvocation) -> None:
        """Add a new invocation."""
        self._invocations[invocation.id] = invocation

    def get(self, invocation_id: str) -> StoredInvocation | None:
        """Return an invocation; None if the id is unknown or the invocation was forgotten."""
        return self._invocations.get(invocation_id)

    def list(self, wanted: ListFilter) -> list[StoredInvocation]:
        """Return the invocations that the filter matches, newest first."""
        return [
            invocation for invocation in reversed(self._invocations.values()) if wanted.matches(invocation)
        ]

    def finish(self, invocation: StoredInvocation, result: InvocationResult, now: int) -> None:
        """Set the result of an invocation, and forget the invocations beyond the limits that ended first."""
        invocation.finish(result, now)
        self._ended.append(invocation)
        self._ended_size += invocation.size
        while len(self._ended) > 1 and (len(self._ended) > MAX_ENDED or self._ended_size > MAX_ENDED_SIZE):
            forgotten = self._ended.popleft()
            self._ended_size -= forgotten.size
            del self._invocations[forgotten.id]
