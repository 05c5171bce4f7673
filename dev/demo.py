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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun
from dev.airflow_stack import AirflowStack
from dev.processes import REPOSITORY, RunFolder
from dev.wait import wait_until

APPS = REPOSITORY / "example_dags/apps"
APP_LINE = "[app] "

started = time.monotonic()


class Demo:
    """What a demo runs and shows; :mod:`dev.demo_browser` has another one."""

    name = "demo"
    app, dag_id, task_id = "bookshop", "example_kernel_invoke", "price_report"

    def check(self) -> None:
        """Raise RuntimeError if something is missing on this machine."""

    def begin(
        self, stack: ExitStack, folder: Path, emulator: KernelEmulator, *, is_open: bool
    ) -> dict[str, Any]:
        """
        Start what else the demo needs; return the run's configuration.

        :param stack: ends it.
        :param folder: where it may write.
        :param is_open: whether a person watches, after the first run too.
        """
        return {}

    def look(self) -> None:
        """Show what has changed; called several times a second."""

    def end(self) -> list[str]:
        """Show what the run has left; return what went wrong."""
        return []


def say(text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)


def follow(demo: Demo, run: DagRun) -> list[str]:
    """Show the task's states, and the app's lines as they arrive; return what went wrong."""
    task = run.task(demo.task_id)
    shown: list[str | None] = [None]
    lines: list[str] = []
    lines_while_deferred = 0

    def finished() -> bool:
        nonlocal lines_while_deferred
        finished = run.finished()
        state = task.state()
        if state != shown[-1]:
            say(f"{demo.task_id}: {state}")
            shown.append(state)
        demo.look()
        if state in ("deferred", "success", "failed"):
            new_lines = [line for line in task.log() if line.startswith(APP_LINE)][len(lines) :]
            for line in new_lines:
                say(f"    {line}")
            lines.extend(new_lines)
            if state == "deferred":
                lines_while_deferred += len(new_lines)
        return finished

    wait_until(finished, 300, f"{demo.dag_id} has ended", interval=0.3)
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
        problems += demo.end()
    return problems


def run(demo: Demo, description: str | None) -> int:
    """Run the demo; return its exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--ui", action="store_true", help="keep Airflow and its UI open until Ctrl-C")
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / ".run" / demo.name, help="where it all happens"
    )
    options = parser.parse_args()
    # The exits of the context managers end what was started, after a SIGTERM, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    demo.check()
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(options.folder))
        emulator = stack.enter_context(KernelEmulator([APPS / demo.app / "main.py"]))
        say(f"a Kernel on this machine, with the app {demo.app}, is at {emulator.base_url}")
        conf = demo.begin(stack, folder.path, emulator, is_open=options.ui)
        say("starting Airflow: api-server, scheduler, dag-processor, triggerer")
        airflow = AirflowStack(
            folder.path / "airflow",
            dags=[REPOSITORY / "example_dags"],
            # A triggerer takes seconds to read its first stored connection, in which no line could arrive.
            env={} if options.ui else {"AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json},
            # Where a person looks for it. The example's watcher would find none if it were made later, and tell other
            # triggers so for a while.
            connections={"kernel_default": emulator.connection_json} if options.ui else None,
            port=8080 if options.ui else 0,
        )
        stack.enter_context(airflow)
        wait_until(lambda: demo.dag_id in airflow.api.dag_ids(), 60, f"Airflow has read {demo.dag_id}")
        say(f"Airflow is ready; running the Dag {demo.dag_id}")
        problems = follow(demo, airflow.api.trigger(demo.dag_id, **conf))
        for problem in problems:
            say(f"FAILED: {problem}")
        if options.ui:
            print(
                f"\nAirflow's UI: {airflow.url}\nlog in as {airflow.username} with {airflow.password}\n"
                "Ctrl-C ends it.",
                flush=True,
            )
            wait_for_ctrl_c(demo)
    if not problems:
        say("done")
    return len(problems)


def wait_for_ctrl_c(demo: Demo) -> None:
    """Wait for the user, who may run the Dag again."""
    try:
        while not threading.Event().wait(0.5):
            demo.look()
    except KeyboardInterrupt:
        print()


def main(demo: Demo, description: str | None) -> None:
    """Run the demo, and end this process with its exit status."""
    try:
        sys.exit(run(demo, description))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (RuntimeError, OSError) as error:
        sys.exit(f"FAILED: {error}")


if __name__ == "__main__":
    main(Demo(), __doc__)
