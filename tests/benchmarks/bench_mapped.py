"""
What hundreds of mapped tasks take on a real Airflow: runs ``example_kernel_many`` once. Run by hand::

    python -m tests.benchmarks.bench_mapped --books=300 --seconds=60 --max-concurrency=100

It fails unless every task had exactly one invocation and one try, and the sum over all outputs is right.
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
from tests.listed import invocations_of

APP = REPOSITORY / "example_dags/apps/bookshop"
DAG_ID = "example_kernel_many"


def main() -> int:
    """Run the Dag, say what it took, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--books", type=int, default=300, help="how many tasks")
    parser.add_argument("--seconds", type=float, default=60, help="how long each invocation lasts")
    parser.add_argument("--max-concurrency", type=int, help="how many the account takes; default: any number")
    options = parser.parse_args()
    began = time.monotonic()
    most: Counter[str] = Counter()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    with (
        RunFolder(REPOSITORY / ".run" / "mapped") as folder,
        KernelEmulator([APP / "main.py"], max_concurrency=options.max_concurrency) as emulator,
        Postgres(folder.path / "postgres") as postgres,
        AirflowStack(
            folder.path / "airflow",
            [REPOSITORY / "example_dags"],
            env={"AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json},
            database_url=postgres.url,
        ) as stack,
    ):
        wait_until(lambda: DAG_ID in stack.api.dag_ids(), 60, "the Dag is read")
        run = stack.api.trigger(DAG_ID, books=options.books, pause_seconds=options.seconds)
        began = time.monotonic()
        last = 0.0

        def finished() -> bool:
            nonlocal last
            states = Counter(task["state"] for task in tasks_of(stack, run.path))
            running = sum(1 for one in invocations_of(emulator) if one["status"] in ("queued", "running"))
            for name, number in [*states.items(), ("invocations at once", running)]:
                most[str(name)] = max(most[str(name)], number)
            if time.monotonic() - last > 20:
                last = time.monotonic()
                say(f"{dict(states)}, {running} invocations run")
            return run.finished()

        wait_until(finished, 3600, "the run has ended", interval=2)
        say(f"the run is over: {run.state()}; most at once: {dict(most)}")
        tries = Counter(task["try_number"] for task in tasks_of(stack, run.path))
        found = invocations_of(emulator)
        say(
            f"tries: {dict(tries)}; {len(found)} invocations: {dict(Counter(one['status'] for one in found))}"
        )
        result = run.task("add_up").xcom()
        say(f"collected: {result}; expected: {expected(options.books)}")
        names = {
            task["rendered_map_index"] for task in tasks_of(stack, run.path) if task["task_id"] == "look_up"
        }
        is_right = (
            result == expected(options.books)
            and set(tries) == {1}
            and [one["status"] for one in found] == ["succeeded"] * options.books
            and names == {f"book {number}" for number in range(options.books)}
        )
    say("right" if is_right else "WRONG")
    return 0 if is_right else 1


def tasks_of(stack: AirflowStack, path: str) -> list[dict]:
    """Return all task instances of a run, by pages."""
    found: list[dict] = []
    while page := stack.api.call("GET", f"{path}/taskInstances", limit=100, offset=len(found))[
        "task_instances"
    ]:
        found += page
    return found


def expected(books: int) -> dict[str, float]:
    """Return what the catalogue says."""
    sys.path.insert(0, str(Path(APP)))
    from main import read_catalogue  # type: ignore[import-not-found]

    return {"books": books, "price": round(sum(book["price"] for book in read_catalogue()[:books]), 2)}


if __name__ == "__main__":
    sys.exit(main())
