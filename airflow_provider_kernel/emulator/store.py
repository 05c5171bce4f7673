"""
The invocations: their data, their states, their logs, and which of them are kept. Pure; time is handed in.

The stricter side of what is unknown: ``started_at`` is the time of acceptance and never changes; the version
of a record is the resolved label, so that a filter ``version=latest`` finds nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator.timestamps import format_timestamp

#: Log text kept for an invocation, in characters; the oldest lines are dropped beyond it.
MAX_LOG = 8 * 2**20
#: What a line counts besides its text, so that endless empty lines are bounded too.
LINE_COST = 128
#: Ended invocations kept; the oldest are forgotten beyond it ...
MAX_ENDED = 1_000
#: ... or beyond this many characters of payloads, outputs and logs.
MAX_ENDED_WEIGHT = 256 * 2**20


@dataclass(frozen=True)
class Outcome:
    """How an invocation ended. ``reason`` is there if, and only if, it failed."""

    status: InvocationStatus
    output: str | None
    reason: str | None


def failed(reason: str, output: str | None = None) -> Outcome:
    """Return a failure for ``reason``."""
    return Outcome(InvocationStatus.FAILED, output, reason)


@dataclass(eq=False)
class Record:
    """
    One invocation. ``logs`` holds (moment, message); ``dropped`` counts the lines that are no longer in it.

    ``followers`` are called after every change.
    """

    id: str
    app_name: str
    action_name: str
    version: str
    deployment_id: str
    payload: str | None
    started: int
    status: InvocationStatus = InvocationStatus.QUEUED
    output: str | None = None
    reason: str | None = None
    finished: int | None = None
    logs: list[tuple[int, str]] = field(default_factory=list)
    log_weight: int = 0
    dropped: int = 0
    followers: set[Callable[[], None]] = field(default_factory=set)

    @property
    def is_ended(self) -> bool:
        """True once the invocation has succeeded or failed."""
        return self.finished is not None

    @property
    def weight(self) -> int:
        """What keeping the record costs, in characters."""
        return len(self.payload or "") + len(self.output or "") + self.log_weight

    def run(self) -> None:
        """Note that the process has started."""
        self.status = InvocationStatus.RUNNING
        self._changed()

    def log(self, message: str, now: int) -> None:
        """Add a line. Its time is later than that of the line before, so that a time names one line."""
        if self.logs:
            now = max(now, self.logs[-1][0] + 1)
        self.logs.append((now, message))
        self.log_weight += len(message) + LINE_COST
        if self.log_weight > MAX_LOG:
            self._drop()
        self._changed()

    def end(self, outcome: Outcome, now: int) -> None:
        """Note the end. It comes after the last line of the log."""
        self.status, self.output, self.reason = outcome.status, outcome.output, outcome.reason
        self.finished = now
        self._changed()

    def position(self, since: int | None) -> int:
        """Return the number of the first line at or after ``since``; None means all."""
        return 0 if since is None else self.dropped + bisect_left(self.logs, (since, ""))

    def lines(self, position: int, count: int) -> list[tuple[int, str]]:
        """Return up to ``count`` lines from ``position``, which must not be below ``dropped``."""
        start = position - self.dropped
        return self.logs[start : start + count]

    def as_json(self, *, with_reason: bool = True) -> dict[str, Any]:
        """Return the API's description; what is not known is left out."""
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

    def _drop(self) -> None:
        """Drop a quarter of what is kept, so that dropping is rare."""
        count = 0
        while self.log_weight > MAX_LOG * 3 // 4:
            self.log_weight -= len(self.logs[count][1]) + LINE_COST
            count += 1
        del self.logs[:count]
        self.dropped += count

    def _changed(self) -> None:
        for follower in self.followers:
            follower()


@dataclass(frozen=True)
class Filter:
    """Which invocations to list; None takes any. ``query`` is looked for in id, app name and action name."""

    app_name: str | None = None
    action_name: str | None = None
    version: str | None = None
    deployment_id: str | None = None
    status: InvocationStatus | None = None
    since: int | None = None
    query: str | None = None

    def takes(self, record: Record) -> bool:
        """Tell whether the record is to be listed."""
        exact = ("app_name", "action_name", "version", "deployment_id", "status")
        if any(getattr(self, name) not in (None, getattr(record, name)) for name in exact):
            return False
        if self.since is not None and record.started < self.since:
            return False
        texts = (record.id, record.app_name, record.action_name)
        return self.query is None or any(self.query.lower() in text.lower() for text in texts)


class Store:
    """All invocations, oldest first."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def add(self, record: Record) -> None:
        """Keep a new record."""
        self._records[record.id] = record

    def get(self, invocation_id: str) -> Record | None:
        """Return the record; None if there is none, or none any more."""
        return self._records.get(invocation_id)

    def list(self, wanted: Filter) -> list[Record]:
        """Return what the filter takes, newest first."""
        return [record for record in reversed(self._records.values()) if wanted.takes(record)]

    def forget(self) -> None:
        """Forget the oldest ended invocations beyond the limits; the newest one is always kept."""
        weight = 0
        ended = [record for record in reversed(self._records.values()) if record.is_ended]
        for index, record in enumerate(ended):
            weight += record.weight
            if index > 0 and (index >= MAX_ENDED or weight > MAX_ENDED_WEIGHT):
                del self._records[record.id]
