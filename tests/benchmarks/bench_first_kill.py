"""
How long the first kill on a fresh triggerer takes, with and without its first question being asked early.

Run by hand::

    python -m tests.benchmarks.bench_first_kill --kills=3
    python -m tests.benchmarks.bench_first_kill --kills=3 --stored

Each kill has a triggerer of its own. The connection is in the environment, where reading it asks Airflow nothing; or it
is stored in Airflow's database.
It fails if a first kill that was prepared takes longer than 3 s.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import kernel

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import AirflowStack
from dev.postgres import Postgres
from dev.processes import REPOSITORY, RunFolder
from dev.wait import wait_until

GOAL_SECONDS = 3.0
#: Has a triggerer believe that it has asked already; Python runs it at its start.
COLD = "import airflow_provider_kernel.triggers.kernel as trigger\n\ntrigger._warming_up.append(None)\n"


def main() -> int:
    """Kill, print the times, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3, help="how many of each kind")
    parser.add_argument("--after", type=float, default=15, help="seconds between the deferral and the kill")
    parser.add_argument("--stored", action="store_true", help="have the connection in the database")
    options = parser.parse_args()
    took: dict[str, list[float]] = {"cold": [], "prepared": []}
    with (
        RunFolder(REPOSITORY / ".run" / "first-kill") as folder,
        KernelEmulator([REPOSITORY / "tests/system/apps/system_tests.py"]) as emulator,
        Postgres(folder.path / "postgres") as postgres,
        AirflowStack(
            folder.path / "airflow",
            [Path(__file__).parent / "dags"],
            env={} if options.stored else {"AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json},
            database_url=postgres.url,
        ) as stack,
        kernel.Kernel(base_url=emulator.base_url, api_key=emulator.api_key) as client,
    ):
        if options.stored:
            stack.api.add_kernel_connection("kernel_default", emulator.base_url, emulator.api_key)
        customization = folder.path / "cold" / "sitecustomize.py"
        customization.parent.mkdir()
        customization.write_text(COLD)
        triggerer = stack.components["triggerer"]
        wait_until(lambda: "for_ever" in stack.api.dag_ids(), 60, "the Dag is read")
        for _ in range(options.kills):
            for kind, times in took.items():
                triggerer.stop()
                triggerer.env["PYTHONPATH"] = str(customization.parent) if kind == "cold" else ""
                triggerer.start()
                task = stack.api.trigger("for_ever").task("invoke")
                wait_until(lambda task=task: "line 1" in task.app_lines(), 120, "the wait has begun")
                time.sleep(options.after)
                invocation_id = task.xcom("invocation_id")
                killed = time.monotonic()
                task.set_state("failed")
                wait_until(
                    lambda id=invocation_id: client.invocations.retrieve(id).status == "failed",
                    120,
                    "cancelled",
                )
                times.append(time.monotonic() - killed)
                print(f"{kind}: {times[-1]:.1f} s", flush=True)
    for kind, times in took.items():
        print(f"{kind:>8}: {', '.join(f'{seconds:.1f}' for seconds in times)} s")
    return max(took["prepared"]) > GOAL_SECONDS


if __name__ == "__main__":
    sys.exit(main())
