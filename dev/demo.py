"""
Runs the first example Dag on a real Airflow, against the emulator, and shows what happens: ``make demo``.

With ``--ui`` it keeps Airflow and its UI open afterwards: ``make ui``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from pathlib import Path

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun
from dev.airflow_stack import AirflowStack
from dev.processes import REPOSITORY, RunFolder
from dev.wait import wait_until

APP = REPOSITORY / "example_dags/apps/bookshop/main.py"
DAG_ID, TASK_ID = "example_kernel_invoke", "price_report"
APP_LINE = "[app] "

started = time.monotonic()


def say(text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)


def follow(run: DagRun) -> list[str]:
    """Show the task's states, and the app's lines as they arrive; return what went wrong."""
    task = run.task(TASK_ID)
    shown: list[str | None] = [None]
    lines: list[str] = []
    lines_while_deferred = 0

    def finished() -> bool:
        nonlocal lines_while_deferred
        finished = run.finished()
        state = task.state()
        if state != shown[-1]:
            say(f"{TASK_ID}: {state}")
            shown.append(state)
        if state in ("deferred", "success", "failed"):
            new_lines = [line for line in task.log() if line.startswith(APP_LINE)][len(lines) :]
            for line in new_lines:
                say(f"    {line}")
            lines.extend(new_lines)
            if state == "deferred":
                lines_while_deferred += len(new_lines)
        return finished

    wait_until(finished, 300, f"{DAG_ID} has ended", interval=0.3)
    problems = []
    if shown[-1] != "success":
        problems.append(f"the task ended as {shown[-1]}: {task.error()}")
    elif not lines_while_deferred:
        problems.append("no line of the app arrived while the task was deferred")
    elif (output := task.xcom()) is None:
        problems.append("there is no output in XCom")
    else:
        say(f"invocation {task.xcom('invocation_id')} returned, in XCom:")
        print(json.dumps(output, indent=2, ensure_ascii=False), flush=True)
    return problems


def main() -> int:
    """Run the demo; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ui", action="store_true", help="keep Airflow and its UI open until Ctrl-C")
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / ".run" / "demo", help="where it all happens"
    )
    options = parser.parse_args()
    # The exits of the context managers end what was started, after a SIGTERM, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    with RunFolder(options.folder) as folder, KernelEmulator([APP]) as emulator:
        say(f"a Kernel on this machine, with the app bookshop, is at {emulator.base_url}")
        say("starting Airflow: api-server, scheduler, dag-processor, triggerer")
        stack = AirflowStack(
            folder.path / "airflow",
            dags=[REPOSITORY / "example_dags"],
            # A triggerer takes seconds to read its first stored connection, in which no line could arrive.
            env={} if options.ui else {"AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json},
            port=8080 if options.ui else 0,
        )
        with stack:
            if options.ui:  # where a person looks for it
                stack.api.add_kernel_connection("kernel_default", emulator.base_url, emulator.api_key)
            wait_until(lambda: DAG_ID in stack.api.dag_ids(), 60, f"Airflow has read {DAG_ID}")
            say(f"Airflow is ready; running the Dag {DAG_ID}")
            problems = follow(stack.api.trigger(DAG_ID))
            for problem in problems:
                say(f"FAILED: {problem}")
            if options.ui:
                print(
                    f"\nAirflow's UI: {stack.url}\nlog in as {stack.username} with {stack.password}\n"
                    "Ctrl-C ends it.",
                    flush=True,
                )
                wait_for_ctrl_c()
    if not problems:
        say("done")
    return len(problems)


def wait_for_ctrl_c() -> None:
    """Wait for the user."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (RuntimeError, OSError) as error:
        sys.exit(f"FAILED: {error}")
