"""What happened in a chaos run, as data. All times are seconds since 1970. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

#: States in which Airflow does nothing more with a task, unless a user clears it.
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
#: The state that each of a user's marks brings about.
MARKS = {"mark failed": "failed", "mark success": "success"}


@dataclass(frozen=True)
class Change:
    """
    A change of a task instance, as PostgreSQL wrote it down.

    :param ti_id: Airflow's id of the try.
    :param max_tries: the try after this many is the last one, unless a user clears the task.
    :param trigger_id: the trigger that it waits for.
    """

    at: float
    ti_id: str
    old: str | None
    new: str | None
    try_number: int = 1
    max_tries: int = 3
    trigger_id: int | None = None

    @property
    def is_last_try(self) -> bool:
        """Whether Airflow does not run the task again if this try fails."""
        return self.try_number > self.max_tries


@dataclass(frozen=True)
class Done:
    """
    A deed that was done.

    :param until: when it was over: the call returned, the process was thawed.
    :param component: whom it was done to; None: a task.
    :param ti_ids: the tries whose processes it was done to.
    """

    at: float
    until: float
    kind: str
    component: str | None = None
    ti_ids: tuple[str, ...] = ()
    note: str = ""

    @property
    def is_of_user(self) -> bool:
        """Whether a user has done it, to a task."""
        return self.kind == "clear" or self.kind in MARKS

    def touches(self, start: float, end: float) -> bool:
        """Whether it happened at some time between the two."""
        return self.at <= end and self.until >= start


@dataclass(frozen=True)
class Run:
    """An invocation, as the emulator has it."""

    id: str
    started: float
    finished: float
    status: str
    output: Any = None
    reason: str = ""
    cancelled: bool = False

    @property
    def succeeded(self) -> bool:
        return self.status == "succeeded"


@dataclass(frozen=True)
class Request:
    """A request that concerns one invocation, as the proxy saw it."""

    at: float
    what: str
    did: str
    upstream_status: int | None = None
    answered_status: int | None = None


@dataclass(frozen=True)
class Holding:
    """
    A trigger was given to a triggerer.

    :param component: its name; None: nobody has it, or it is not needed any more.
    """

    at: float
    trigger_id: int
    component: str | None


@dataclass
class Task:
    """
    A task of one Dag run, over all its tries.

    :param state: in the end, as Airflow's API has it.
    :param xcom: its result; None: it has none.
    :param requests: by the invocation's id; those for a new one by the task's name.
    """

    name: str
    state: str | None
    xcom: Any = None
    changes: list[Change] = field(default_factory=list)
    deeds: list[Done] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    requests: Mapping[str, list[Request]] = field(default_factory=dict)
    holdings: list[Holding] = field(default_factory=list)

    @property
    def clears(self) -> list[Done]:
        """The user's clears."""
        return [deed for deed in self.deeds if deed.kind == "clear"]

    def is_by_hand(self, change: Change) -> bool:
        """Tell whether a user has brought that change about."""
        return any(change is self._change_of(deed) for deed in self.deeds if deed.kind in MARKS)

    def _change_of(self, deed: Done) -> Change | None:
        # A call may wait long for a lock; what it changes, it changes last. A clear may give the task another id then.
        fitting = (
            change
            for change in reversed(self.changes)
            if change.new == MARKS[deed.kind] != change.old
            and deed.at - 0.02 <= change.at <= deed.until + 0.02
        )
        return next(fitting, None)

    def asked(self, run: Run, start: float, until: float) -> bool:
        """Tell whether anybody has asked Kernel about the invocation in that time."""
        return any(start <= request.at <= until for request in self.requests.get(run.id, ()))

    def is_taken_back(self, end: Change) -> bool:
        """Tell whether Airflow itself had the task tried again after that end, as if it had failed; no clear does."""
        later = self.changes[self.changes.index(end) + 1 :]
        return (
            end.new == "success"
            and bool(later)
            and (later[0].old, later[0].new) == ("success", "up_for_retry")
        )

    def ends(self) -> list[tuple[Change, float]]:
        """Return how the task ended, each time, and when it was begun anew (infinity: never)."""
        found = []
        for number, change in enumerate(self.changes):
            if change.new in ENDED and change.old != change.new:
                later = (other.at for other in self.changes[number + 1 :] if other.new not in ENDED)
                found.append((change, next(later, inf)))
        return found


@dataclass
class History:
    """
    All of it.

    :param outages: what was done to components.
    """

    tasks: dict[str, Task]
    outages: list[Done] = field(default_factory=list)
