"""A Dag with many mapped invocations at an account with a limit, and what its run took."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import sqlalchemy

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import AirflowStack
from dev.processes import MARK, marked
from dev.wait import wait_until
from tests.listed import invocations_of

APP = Path(__file__).parent / "apps" / "fan_out.py"
#: Two Dags: the tasks of one have a pool, which keeps its slots for deferred tasks.
DAG = """
from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

for dag_id, pool in (("fan_out", "default_pool"), ("fan_out_in_pool", "kernel")):
    with DAG(dag_id, schedule=None, max_active_tasks={tasks}):
        visits = KernelInvokeOperator.partial(
            task_id="visit",
            app_name="fan-out",
            action_name="visit",
            pool=pool,
            retries=3,
            # A worker may be killed in its submission; its task would fail, for a person to clear it.
            on_lost_reply="resubmit",
            retry_delay=timedelta(seconds=1),
        ).expand(payload=[{{"page": page, "seconds": {seconds}}} for page in range({tasks})])

        @task
        def pages(visits):
            return [visit["page"] for visit in visits]

        pages(visits.output)
"""
#: What became of each task instance, in the order of time; a worker's leg begins with "running".
EVENTS = sqlalchemy.text(
    "SELECT map_index, event, dttm FROM log WHERE run_id = :run_id AND task_id = 'visit' ORDER BY map_index, dttm, id"
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the Dag and its account."""
    parser.add_argument("--tasks", type=int, default=200, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=5, help="length of an invocation; default: %(default)s"
    )
    parser.add_argument(
        "--limit", type=int, default=10, help="most invocations at once; default: %(default)s"
    )


def write_dag(folder: Path, options: Namespace) -> Path:
    """Write the Dag's file; return its folder."""
    folder.mkdir()
    (folder / "fan_out.py").write_text(DAG.format(tasks=options.tasks, seconds=options.seconds))
    return folder


def set_pool(stack: AirflowStack, slots: int) -> None:
    """Make the pool of the Dag ``fan_out_in_pool``, or change its size."""
    pool = {"slots": slots, "include_deferred": True}
    if any(one["name"] == "kernel" for one in stack.api.call("GET", "pools")["pools"]):
        stack.api.call("PATCH", "pools/kernel", {"pool": "kernel", **pool})
    else:
        stack.api.call("POST", "pools", {"name": "kernel", **pool})


@dataclass(frozen=True)
class Measured:
    """
    What a run took.

    :param seconds: from the start of the run to the end of its last invocation's task.
    :param ideal: seconds that the account's limit allows.
    :param in_use: share of the account's limit that was in use from the first invocation's start to the last one's end.
    :param submissions: the number of ``POST /invocations``.
    :param refused: how many of these were answered with 429.
    :param polls: the number of lists of the account's invocations.
    :param legs: the number of parts of tasks that workers ran, each a process of its own.
    :param worker_seconds: the sum of their lengths, from Airflow's "running" to the task's next state.
    :param tries: the number of tasks by their tries.
    :param cpu_seconds: what all processes of the benchmark used, Airflow's and the emulator's; without those that were killed.
    :param is_right: whether each action ran once, and each task succeeded with its output.
    """

    seconds: float
    ideal: float
    in_use: float
    submissions: int
    refused: int
    polls: int
    legs: int
    worker_seconds: float
    tries: dict[int, int]
    cpu_seconds: float
    is_right: bool


def carry_out(
    stack: AirflowStack,
    emulator: KernelEmulator,
    options: Namespace,
    dag_id: str,
    look: Callable[[int], None] = lambda ended: None,
) -> Measured:
    """
    Run one of the Dags; return what it took.

    :param look: called each second with the number of invocations that have ended.
    """
    wait_until(lambda: dag_id in stack.api.dag_ids(), 90, "the Dag is read")
    with (
        emulator.isolated(),
        # Faults for what they count.
        emulator.fault(method="POST", path="/invocations", latency=0.001) as submissions,
        emulator.fault(method="GET", path="/invocations", latency=0.001) as polls,
    ):
        cpu, began = cpu_seconds(), time.time()
        run = stack.api.trigger(dag_id)

        def finished() -> bool:
            look(sum(not one.is_active for one in emulator.invocations()))
            return run.finished()

        wait_until(finished, 3600, "the run has ended", interval=1)
        cpu = cpu_seconds() - cpu
        counts = submissions.applied, polls.applied
        invocations = emulator.invocations()
        ids = {one.id for one in invocations}
        listed = [one for one in invocations_of(emulator) if one["id"] in ids]
    times = [
        [datetime.fromisoformat(one[at]).timestamp() for at in ("started_at", "finished_at")]
        for one in listed
    ]
    lasted = max(end for _, end in times) - min(start for start, _ in times)
    with sqlalchemy.create_engine(stack.database_url).connect() as connection:
        events = connection.execute(EVENTS, {"run_id": run.run_id}).all()
    legs = [
        (after.dttm - leg.dttm).total_seconds()
        for leg, after in pairwise(events)
        if leg.event == "running" and leg.map_index == after.map_index
    ]
    tasks = [task for task in tasks_of(stack, run.path) if task["task_id"] == "visit"]
    return Measured(
        seconds=max(event.dttm for event in events).timestamp() - began,
        ideal=options.tasks * options.seconds / options.limit,
        in_use=sum(end - start for start, end in times) / lasted / options.limit,
        submissions=counts[0],
        refused=counts[0] - len(ids),
        polls=counts[1],
        legs=len(legs),
        worker_seconds=sum(legs),
        tries=dict(Counter(task["try_number"] for task in tasks)),
        cpu_seconds=cpu,
        is_right=Counter(line for one in invocations for line in one.log)
        == Counter(f"page {page}" for page in range(options.tasks))
        and {one.status for one in invocations} == {"succeeded"}
        and {task["state"] for task in tasks} == {"success"}
        and run.task("pages").xcom() == list(range(options.tasks)),
    )


def cpu_seconds() -> float:
    """Return what the processes of this run have used up to now, with those of their children that have ended."""
    return sum(sum(process.cpu_times()[:4]) for process in marked(os.environ[MARK]))


def tasks_of(stack: AirflowStack, path: str) -> list[dict[str, Any]]:
    """Return all task instances of a run, by pages."""
    found: list[dict[str, Any]] = []
    while page := stack.api.call("GET", f"{path}/taskInstances", limit=100, offset=len(found))[
        "task_instances"
    ]:
        found += page
    return found


def table(rows: dict[str, Measured]) -> str:
    """Return what the runs took, a line each."""
    heads = (
        "",
        "seconds",
        "x ideal",
        "in use",
        "POST",
        "429",
        "polls",
        "legs",
        "worker s",
        "tries",
        "CPU s",
        "",
    )
    lines = [heads]
    for name, one in rows.items():
        tries = ", ".join(f"{number}: {count}" for number, count in sorted(one.tries.items()))
        lines.append(
            (
                name,
                f"{one.seconds:.0f}",
                f"{one.seconds / one.ideal:.2f}",
                f"{one.in_use:.0%}",
                *map(str, (one.submissions, one.refused, one.polls, one.legs)),
                f"{one.worker_seconds:.0f}",
                tries,
                f"{one.cpu_seconds:.0f}",
                "right" if one.is_right else "WRONG",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
