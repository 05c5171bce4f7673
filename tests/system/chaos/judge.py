"""Finds in a history what must not be there. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.system.chaos.excuses import excuse_of_loss, excuse_of_orphan
from tests.system.chaos.history import ENDED, Done, History, Run, Task

#: Seconds for which an invocation may run on after Airflow has given its task up, until somebody asks Kernel about
#: it; and until it has ended, through heartbeats, signals and faults.
REACTION_GRACE, ORPHAN_GRACE = 5.0, 12.0
#: Seconds for which a try that a user has ended may still be in the middle of a request.
LATE_REQUEST = 15.0
DUPLICATE, OVERLAP, ORPHAN, FALSE, LOST, NEEDLESS, STUCK = KINDS = (
    "duplicate",
    "overlap",
    "orphan",
    "false result",
    "lost result",
    "needless cancel",
    "stuck",
)


@dataclass(frozen=True)
class Finding:
    """
    Something that must not be.

    :param excuse: why nobody could have prevented it, proven; None: it is a defect.
    """

    kind: str
    task: Task
    what: str
    excuse: str | None = None


def judge(history: History) -> list[Finding]:
    """Return all that must not be, in the order of the tasks."""
    found = []
    for task in history.tasks.values():
        found += [
            *_duplicates(task),
            *_overlaps(task),
            *_orphans(task, history),
            *_false_results(task),
            *_lost_results(task, history),
            *_needless_cancels(task),
        ]
        if task.runs and not task.changes:
            found.append(Finding(ORPHAN, task, f"Airflow knows no task of {len(task.runs)} invocations"))
        elif task.state not in ENDED:
            found.append(Finding(STUCK, task, f"in the end it is {task.state}"))
    return found


def _succeeded(task: Task) -> list[Run]:
    return sorted((run for run in task.runs if run.succeeded), key=lambda run: run.started)


def _duplicates(task: Task) -> Iterator[Finding]:
    """Of two successes in a row the second must have been asked for, by a clear of its own after the first began."""
    clears = list(task.clears)
    succeeded = _succeeded(task)
    for first, second in pairwise(succeeded):
        asking = [clear for clear in clears if _asks_for_another(task, clear, first, second)]
        if asking:
            clears.remove(asking[0])
        else:
            yield Finding(
                DUPLICATE, task, f"{second.id} succeeded after {first.id} had, and no clear between"
            )


def _asks_for_another(task: Task, clear: Done, first: Run, second: Run) -> bool:
    if clear.at > second.started:
        return False
    # The first may be the last request of the try that the clear has ended.
    is_of_later_try = any(c.new == "running" and clear.at <= c.at <= first.started for c in task.changes)
    return clear.until >= first.started or not is_of_later_try


def _overlaps(task: Task) -> Iterator[Finding]:
    runs = sorted(task.runs, key=lambda run: run.started)
    for number, first in enumerate(runs):
        for second in runs[number + 1 :]:
            seconds = min(first.finished, second.finished) - second.started
            if seconds > 0:
                yield Finding(OVERLAP, task, f"{first.id} and {second.id} both ran, for {seconds:.1f} s")


def _orphans(task: Task, history: History) -> Iterator[Finding]:
    for end, anew in task.ends():
        if end.old in ENDED:
            continue  # a mark of a task that has ended asks nobody to stop anything; it counts from its first end
        for run in task.runs:
            seconds = min(run.finished, anew) - max(run.started, end.at)
            reacts = task.asked(run, end.at, end.at + ORPHAN_GRACE)
            if seconds > (ORPHAN_GRACE if reacts else REACTION_GRACE):
                what = f"{run.id} ran for {seconds:.1f} s after Airflow had counted the task as {end.new}"
                yield Finding(ORPHAN, task, what, excuse_of_orphan(task, end, run, history))


def _false_results(task: Task) -> Iterator[Finding]:
    ends = [end for end, _ in task.ends()]
    own_successes = [end for end in ends if end.new == "success" and not task.is_by_hand(end)]
    succeeded = _succeeded(task)
    count = sum(not task.is_taken_back(end) for end in own_successes)
    if count > len(succeeded):
        what = f"it succeeded {count} times by itself, with {len(succeeded)} succeeded invocations"
        yield Finding(FALSE, task, what)
    if task.state != "success":
        return
    outputs = [run.output for run in succeeded]
    is_own = bool(ends) and ends[-1] in own_successes
    if task.xcom is None:
        if is_own:
            yield Finding(FALSE, task, "it is a success by itself, without a result")
    elif task.xcom not in outputs or task.xcom.get("name") != task.name:
        yield Finding(FALSE, task, f"no succeeded invocation of it has the result {task.xcom}")


def _lost_results(task: Task, history: History) -> Iterator[Finding]:
    for end, anew in task.ends():
        if end.new != "failed" or task.is_by_hand(end):
            continue
        since = max((clear.until for clear in task.clears if clear.until <= end.at), default=0.0)
        for run in _succeeded(task):
            if since < run.finished and run.started < anew:
                what = f"it failed by itself, although {run.id} succeeded"
                yield Finding(LOST, task, what, excuse_of_loss(task, end, history))


def _needless_cancels(task: Task) -> Iterator[Finding]:
    """What is cancelled must have been given up by a user, or by the last try, which no other follows."""
    for run in task.runs:
        if not run.cancelled or any(
            deed.touches(run.started - LATE_REQUEST, run.finished) for deed in task.deeds if deed.is_of_user
        ):
            continue
        before = [change for change in task.changes if change.at <= run.finished]
        if before and before[-1].is_last_try:
            continue
        what = f"{run.id} was cancelled, though no user had ended its task"
        yield Finding(NEEDLESS, task, what, None)
