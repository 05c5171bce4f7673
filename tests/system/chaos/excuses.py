"""
What nobody could have prevented, proven from the history; never by guess. No I/O.

An excuse names the deed, and when it was done. Without proof there is none, and the finding is a defect.
"""

from __future__ import annotations

from tests.system.chaos.history import Change, Done, History, Holding, Run, Task

#: States in which no process of a task exists: whoever ends it then reaches nobody.
NOBODY_STATES = frozenset({None, "none", "scheduled", "queued", "up_for_retry"})
#: Seconds after a mark within which a living process, or trigger, has turned to Kernel: 4.2 at most, measured.
REACTION = 5.0
#: Seconds after which Airflow may take a frozen process for a dead one: less than its heartbeat's time-out, 15.
LONG_FREEZE = 10.0
#: Seconds that the end of a process takes after SIGTERM.
ENDING = 10.0


def excuse_of_loss(task: Task, end: Change, history: History) -> str | None:
    """Return why a task that failed by itself could not have the result of its invocation."""
    if not end.is_last_try:
        return None
    for deed in task.deeds:
        if deed.is_of_user or end.ti_id not in deed.ti_ids or deed.at > end.at:
            continue
        if not deed.kind.startswith("freeze") or deed.until - deed.at >= LONG_FREEZE:
            return f"'{deed.kind}' hit its last try, {end.at - deed.at:.1f} s before"
    return None


def excuse_of_orphan(task: Task, end: Change, run: Run, history: History) -> str | None:
    """Return why an invocation could not be stopped when its task ended."""
    if not task.is_by_hand(end):
        return excuse_of_loss(task, end, history)
    if end.old in NOBODY_STATES:
        return f"a user ended it while it was {end.old}, when no process of it existed"
    if end.old == "running":
        return _while_running(task, end, run)
    if end.old == "deferred":
        return _while_deferred(task, end, run, history)
    return None


def _while_running(task: Task, end: Change, run: Run) -> str | None:
    for deed in task.deeds:
        if end.ti_id not in deed.ti_ids:
            continue
        if _took(deed, end) and (not deed.kind.startswith("terminate") or deed.at >= end.at - ENDING):
            return f"a user ended it while it was running, but '{deed.kind}' hit it {_apart(deed, end)}"
    begun = max((c.at for c in task.changes if c.new == "running" and c.at <= end.at), default=end.at)
    if run.started < begun and not task.asked(run, begun, end.at + REACTION):
        return f"a user ended it while its process was starting, for {end.at - begun:.1f} s, and had asked nothing"
    return None


def _while_deferred(task: Task, end: Change, run: Run, history: History) -> str | None:
    deferral = next(c for c in reversed(task.changes) if c.new == "deferred" and c.at <= end.at)
    holding = _holding(task, deferral, end)
    if holding is None or holding.component is None:
        return "a user ended it while no triggerer had its trigger"
    for outage in history.outages:
        if outage.component == holding.component and outage.until >= holding.at and _took(outage, end):
            return (
                f"a user ended it while {holding.component} had its trigger, but '{outage.kind}' hit that "
                f"{_apart(outage, end)}"
            )
    if not task.asked(run, deferral.at, end.at + REACTION):
        return f"a user ended it before its trigger began, {end.at - deferral.at:.1f} s after it was deferred"
    return None


def _took(deed: Done, end: Change) -> bool:
    """
    Tell whether a deed left nobody who could have reacted to the end of the task.

    SIGTERM after the end is no proof: who gets it is given time to end, and has to use that.
    """
    verb = deed.kind.split()[0]
    if verb == "freeze":
        return deed.touches(end.at, end.at + REACTION)
    return verb in ("kill", "terminate") and deed.at <= end.at + (REACTION if verb == "kill" else 0)


def _holding(task: Task, deferral: Change, end: Change) -> Holding | None:
    fitting = [h for h in task.holdings if h.trigger_id == deferral.trigger_id and h.at < end.at]
    return fitting[-1] if fitting else None


def _apart(deed: Done, end: Change) -> str:
    seconds = deed.at - end.at
    return f"{abs(seconds):.1f} s {'after' if seconds > 0 else 'before'}"
