"""
What a deferral costs and saves, by the length of the action: on the worker, deferred at once, and ``defer_after``.

Run by hand::

    python -m tests.benchmarks.bench_short_actions --seconds 0.1 1 3 5 10 30 --rounds=3

Airflow has its default settings, with LocalExecutor. The tasks of a round run one after the other.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from itertools import pairwise

import sqlalchemy

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import AirflowStack
from dev.postgres import Postgres
from dev.processes import REPOSITORY, RunFolder
from dev.wait import wait_until
from tests.benchmarks.bench_short_deferrals import DEFAULT_SETTINGS

#: Arguments of the operator.
WAITS = {
    "on the worker": {"deferrable": False},
    "deferred at once": {"defer_after": 0},
    "defer_after 2": {"defer_after": 2},
    "defer_after 5": {"defer_after": 5},
    "defer_after 10": {"defer_after": 10},
}
DAG = """
from airflow.providers.common.compat.sdk import DAG, chain

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

with DAG("short_actions", schedule=None):
    chain(
        *(
            KernelInvokeOperator(
                task_id=f"t{{number}}_{{seconds}}".replace(".", "_"),
                app_name="tests",
                action_name="sleep",
                payload={{"seconds": seconds}},
                **arguments,
            )
            for seconds in {seconds}
            for number, arguments in enumerate({waits})
        )
    )
"""
#: A worker's part of a task begins with "running", and ends with its next event.
EVENTS = sqlalchemy.text(
    "SELECT task_id, event, dttm FROM log WHERE run_id = :run_id AND task_id IS NOT NULL ORDER BY task_id, dttm, id"
)


def main() -> None:
    """Run the Dag once for each round, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.1, 1, 3, 5, 10, 30])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with (
        RunFolder(REPOSITORY / ".run" / "short-actions") as folder,
        KernelEmulator([REPOSITORY / "tests/integration/apps/app.py"]) as emulator,
        Postgres(folder.path / "postgres") as postgres,
    ):
        dags = folder.path / "dags"
        dags.mkdir()
        waits = list(WAITS.values())
        (dags / "short_actions.py").write_text(DAG.format(waits=waits, seconds=options.seconds))
        with AirflowStack(
            folder.path / "airflow",
            [dags],
            env={"AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json, **DEFAULT_SETTINGS},
            database_url=postgres.url,
        ) as stack:
            wait_until(lambda: "short_actions" in stack.api.dag_ids(), 90, "the Dag is read")
            found: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
            for _ in range(options.rounds):
                run = stack.api.trigger("short_actions")
                wait_until(run.finished, 3600, "the tasks have ended", interval=1)
                for task_id, measured in measured_of(stack.database_url, run.run_id).items():
                    found[task_id].append(measured)
    print("Medians: seconds from the first start to success / worker-seconds / processes")
    print(f"{'action':>18}" + "".join(f"{seconds:>18} s" for seconds in options.seconds))
    for number, name in enumerate(WAITS):
        cells = []
        for seconds in options.seconds:
            rounds = found[f"t{number}_{seconds}".replace(".", "_")]
            total, held, legs = (statistics.median(column) for column in zip(*rounds, strict=True))
            cells.append(f"{total:.1f} / {held:.1f} / {legs:.0f}")
        print(f"{name:>18}" + "".join(f"{cell:>20}" for cell in cells))


def measured_of(database_url: str, run_id: str) -> dict[str, tuple[float, float, int]]:
    """Return for each task: seconds from its first start to its success, worker-seconds, processes."""
    with sqlalchemy.create_engine(database_url).connect() as connection:
        events = connection.execute(EVENTS, {"run_id": run_id}).all()
    measured = {}
    for task_id in {event.task_id for event in events}:
        own = [event for event in events if event.task_id == task_id]
        assert own[-1].event == "success", (task_id, [event.event for event in own])
        legs = [(b.dttm - a.dttm).total_seconds() for a, b in pairwise(own) if a.event == "running"]
        first = next(event.dttm for event in own if event.event == "running")
        measured[task_id] = ((own[-1].dttm - first).total_seconds(), sum(legs), len(legs))
    return measured


if __name__ == "__main__":
    main()
