"""
How often Airflow fails a task whose deferral is short (apache/airflow#66374), by the length of the invocation.

Run by hand; ``--hold=0`` has the trigger fire its event at once::

    python -m tests.benchmarks.bench_short_deferrals --seconds 0 1 2 3 4 5 6 8 --tasks=30 --hold=0
    python -m tests.benchmarks.bench_short_deferrals --seconds 0 2 4 --tasks=100

Airflow has its default settings: LocalExecutor, 16 tasks of a Dag at a time. It fails if a task does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import AirflowStack
from dev.postgres import Postgres
from dev.processes import REPOSITORY, RunFolder
from dev.wait import wait_until

#: Sets for how long a deferral lasts at least; Python runs it at the triggerer's start.
HOLD = "import airflow_provider_kernel.triggers.hold as hold\n\nhold.SHORTEST_DEFERRAL = {}\n"


def main() -> int:
    """Run the Dag once for each length, print what became of the tasks, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[0, 2, 4], help="lengths of the invocations"
    )
    parser.add_argument("--tasks", type=int, default=100, help="how many of each length")
    parser.add_argument("--hold", type=float, help="shortest deferral in seconds; default: the provider's")
    options = parser.parse_args()
    failed = 0
    with (
        RunFolder(REPOSITORY / ".run" / "short-deferrals") as folder,
        KernelEmulator([REPOSITORY / "tests/integration/apps/app.py"]) as emulator,
        Postgres(folder.path / "postgres") as postgres,
        AirflowStack(
            folder.path / "airflow",
            [Path(__file__).parent / "dags"],
            env={"AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json},
            database_url=postgres.url,
        ) as stack,
    ):
        wait_until(lambda: "short_deferrals" in stack.api.dag_ids(), 60, "the Dag is read")
        if options.hold is not None:
            customization = folder.path / "hold" / "sitecustomize.py"
            customization.parent.mkdir()
            customization.write_text(HOLD.format(options.hold))
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
