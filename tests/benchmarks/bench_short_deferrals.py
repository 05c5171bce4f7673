"""
How often Airflow fails a task whose deferral is short (apache/airflow#66374), by the length of the invocation.

Run by hand; ``--hold=0`` has the trigger fire its event at once::

    python -m tests.benchmarks.bench_short_deferrals --seconds 0 1 2 3 4 5 6 8 10 12 --hold=0
    python -m tests.benchmarks.bench_short_deferrals --seconds 0 2 4
    .run/envs/*-celery/bin/python -m tests.benchmarks.bench_short_deferrals --celery

Airflow has its default settings, with LocalExecutor; with ``--celery`` it is CeleryExecutor, for which ``make scale`` makes
the environment. It fails if a task does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import AirflowStack
from dev.celery import Redis, celery_settings, start_worker
from dev.postgres import Postgres
from dev.processes import REPOSITORY, RunFolder
from dev.wait import wait_until

#: What the tests' Airflow has otherwise, as it is by default.
DEFAULT_SETTINGS = {
    "AIRFLOW__CORE__PARALLELISM": "32",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
}
#: Sets the minimum length of a deferral; Python runs it at the triggerer's start.
MIN_DEFERRAL = """
from airflow_provider_kernel.triggers import min_deferral

min_deferral.min_deferral_seconds = lambda: {}
"""


def main() -> int:
    """Run the Dag once for each length, print what became of the tasks, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[0, 2, 4], help="lengths of the invocations"
    )
    parser.add_argument("--tasks", type=int, default=99, help="how many of each length; 99 at most")
    parser.add_argument("--celery", action="store_true", help="CeleryExecutor; default: LocalExecutor")
    parser.add_argument("--hold", type=float, help="shortest deferral in seconds; default: the provider's")
    options = parser.parse_args()
    failed = 0
    with (
        RunFolder(REPOSITORY / ".run" / "short-deferrals") as folder,
        KernelEmulator([REPOSITORY / "tests/integration/apps/app.py"]) as emulator,
        Postgres(folder.path / "postgres") as postgres,
        Redis(folder.path / "redis") if options.celery else nullcontext() as redis,
        AirflowStack(
            folder.path / "airflow",
            [Path(__file__).parent / "dags"],
            env={
                "AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json,
                **DEFAULT_SETTINGS,
                **(celery_settings(redis, postgres.url) if redis else {}),
            },
            database_url=postgres.url,
        ) as stack,
    ):
        if redis:
            start_worker(stack, "worker")
        wait_until(lambda: "short_deferrals" in stack.api.dag_ids(), 60, "the Dag is read")
        if options.hold is not None:
            customization = folder.path / "hold" / "sitecustomize.py"
            customization.parent.mkdir()
            customization.write_text(MIN_DEFERRAL.format(options.hold))
            triggerer = stack.components["triggerer"]
            triggerer.stop()
            triggerer.env["PYTHONPATH"] = str(customization.parent)
            triggerer.start()
        for seconds in options.seconds:
            began = time.monotonic()
            run = stack.api.trigger("short_deferrals", seconds=seconds, tasks=options.tasks)
            wait_until(run.finished, 3600, "the tasks have ended")
            states = Counter(task.state() for task in run.tasks() if task.task_id == "invoke")
            failed += states["failed"]
            print(f"{seconds:4.1f} s: {dict(states)}, in {time.monotonic() - began:.0f} s", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
