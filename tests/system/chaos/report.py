"""Prints what came of a chaos run: a table, and the story of every task that something is wrong with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from math import isinf

from tests.system.chaos.history import Done, History, Task
from tests.system.chaos.judge import KINDS, STUCK, Finding

#: Lines of a log that say nothing.
NOISE = re.compile(r"DAG bundles loaded|Filling up the DagBag|\[app\] (\S+Z )?working|::(end)?group::")


def table(history: History, findings: Iterable[Finding]) -> str:
    """Return a line for each Dag, and one for all; a finding with an excuse is counted in brackets."""
    findings = list(findings)
    heads = [
        "Dag",
        "tasks",
        "success",
        "failed",
        "tries",
        "invocations",
        "succeeded",
        *(k if k == STUCK else f"{k}s" for k in KINDS),
    ]
    names = sorted({name.partition("/")[0] for name in history.tasks})
    rows = [
        _row(name, [t for n, t in history.tasks.items() if n.startswith(f"{name}/")], findings)
        for name in names
    ]
    rows.append(_row("all", list(history.tasks.values()), findings))
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in [heads, *rows]
    ]
    lines.append("In brackets: what nobody could have prevented, with the proof below.")
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, tasks: list[Task], findings: list[Finding]) -> list[str]:
    runs = [run for task in tasks for run in task.runs]
    counts = [
        len(tasks),
        sum(task.state == "success" for task in tasks),
        sum(task.state == "failed" for task in tasks),
        sum(len({change.ti_id for change in task.changes if change.new == "running"}) for task in tasks),
        len(runs),
        sum(run.succeeded for run in runs),
    ]
    cells = [name, *map(str, counts)]
    names = {task.name for task in tasks}
    for kind in KINDS:
        found = [f for f in findings if f.kind == kind and f.task.name in names]
        excused = sum(f.excuse is not None for f in found)
        cells.append(f"{len(found) - excused}" + (f" ({excused})" if excused else ""))
    return cells


def deeds(done: Iterable[Done]) -> str:
    """Return how often each deed was done."""
    counts = Counter(one.kind for one in done)
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))


def story(
    task: Task, findings: Iterable[Finding], outages: Iterable[Done], log: Iterable[tuple[float, str]]
) -> str:
    """Return all that happened to a task, in order."""
    lines: list[tuple[float, str]] = [(at, f"log     {text}") for at, text in log if not _is_noise(text)]
    for change in task.changes:
        tries = f"try {change.try_number}, max_tries {change.max_tries}, {change.ti_id[-6:]}"
        hand = " by hand" if task.is_by_hand(change) else ""
        lines.append((change.at, f"state   {change.old} -> {change.new}{hand} ({tries})"))
    for deed in task.deeds:
        lines += _of_deed("deed", deed)
    for run in task.runs:
        lines.append((run.started, f"kernel  {run.id} started"))
        if not isinf(run.finished):
            lines.append((run.finished, f"kernel  {run.id} {run.status} {run.reason}"))
    for key in [task.name, *(run.id for run in task.runs)]:
        for r in task.requests.get(key, ()):
            what = f"{r.what} {key[-6:] if key != task.name else ''}"
            lines.append(
                (r.at, f"request {what}: {r.did}, Kernel {r.upstream_status}, told {r.answered_status}")
            )
    for held in task.holdings:
        lines.append((held.at, f"trigger {held.trigger_id} -> {held.component}"))
    if lines:
        first, last = min(at for at, _ in lines), max(at for at, _ in lines)
        for outage in outages:
            if outage.touches(first, last):
                lines += _of_deed("deed", outage)
    heads = [f"=== {task.name}: {task.state}, result {task.xcom}"]
    heads += [f"!!! {f.kind}: {f.what}" + (f" [excused: {f.excuse}]" if f.excuse else "") for f in findings]
    return "\n".join([*heads, *(f"{_clock(at)} {text[:400]}" for at, text in sorted(lines))])


def stories(
    history: History,
    findings: Iterable[Finding],
    log_of: Callable[[str], list[tuple[float, str]]],
    *,
    of_all: bool = False,
) -> list[str]:
    """Return the story of each task with a finding; or of every task."""
    by_task: dict[str, list[Finding]] = {name: [] for name in history.tasks}
    for finding in findings:
        by_task[finding.task.name].append(finding)
    return [
        story(history.tasks[name], found, history.outages, log_of(name))
        for name, found in by_task.items()
        if found or of_all
    ]


def _of_deed(word: str, deed: Done) -> list[tuple[float, str]]:
    what = f"{word}    *** {deed.kind} {deed.component or ''} {[t[-6:] for t in deed.ti_ids]} {deed.note}"
    lines = [(deed.at, what)]
    if deed.until - deed.at > 1:
        lines.append((deed.until, f"{word}    ... {deed.kind} {deed.component or ''} is over"))
    return lines


def _is_noise(text: str) -> bool:
    return NOISE.search(text) is not None


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%H:%M:%S.%f")[:-3]
