"""What matters most, on a real Airflow, in two minutes: all stories wait side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests
import sqlalchemy

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun, TaskInstance
from dev.airflow_stack import AirflowStack
from dev.wait import wait_until
from tests.system.conftest import TOKEN
from tests.system.once import TIMEOUT, World
from tests.system.test_exactly_once_worker import task_is_killed

pytestmark = pytest.mark.system

DAGS = ("for_ever", "failure_deferrable", "failure_on_worker", "example_kernel_invoke")


@pytest.fixture(scope="module", autouse=True)
def killed(world: World, runs: dict[str, DagRun]) -> Iterator[Future[None]]:
    """The outcome of the story of a killed worker, which happens while the other tests wait for ``runs``."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(task_is_killed, "deferred", "after:accepted", world)


def finished(run: DagRun, task_id: str = "invoke") -> TaskInstance:
    """Wait for the end of the run; return its task."""
    wait_until(run.finished, TIMEOUT, f"{run.dag_id} has ended")
    return run.task(task_id)


def deferred(run: DagRun, line: str) -> TaskInstance:
    """Wait until the run's task is deferred and its log has the app's line; return it."""
    task = run.task("invoke")
    wait_until(lambda: task.state() == "deferred", TIMEOUT, f"{run.dag_id} is deferred")
    wait_until(lambda: line in task.app_lines(), TIMEOUT, "the app's lines are in the task's log")
    return task


def invocation(emulator: KernelEmulator, task: TaskInstance) -> dict[str, Any]:
    """Return the task's invocation, as Kernel has it."""
    reply = requests.get(
        f"{emulator.base_url}/invocations/{task.xcom('invocation_id')}",
        headers={"Authorization": f"Bearer {emulator.api_key}"},
        timeout=10,
    )
    reply.raise_for_status()
    found: dict[str, Any] = reply.json()
    return found


def check_that_the_token_is_nowhere_in_the_clear(airflow: AirflowStack, runs: Mapping[str, DagRun]) -> None:
    """Look into all of Airflow's files and tables, once the runs have ended."""
    for run in runs.values():
        finished(run)

    contents = {
        str(path.relative_to(airflow.home)): path.read_text(errors="replace")
        for path in airflow.home.rglob("*")
        if path.is_file()
    }
    assert sum(name.startswith("logs/dag_id=") for name in contents) >= len(runs)
    engine = sqlalchemy.create_engine(airflow.database_url)
    with engine.connect() as database:
        for table in sqlalchemy.inspect(database).get_table_names():
            rows = database.execute(sqlalchemy.text(f'SELECT "{table}"::text FROM "{table}"'))
            contents[f"table {table}"] = "\n".join(rows.scalars())
    engine.dispose()
    assert "kernel_default" in contents["table connection"]
    assert [name for name, text in contents.items() if TOKEN in text] == []


def test_logs_and_id_are_there_while_the_task_is_deferred(
    runs: dict[str, DagRun], emulator: KernelEmulator
) -> None:
    task = deferred(runs["for_ever"], "line 2")

    assert task.state() == "deferred"
    assert invocation(emulator, task)["status"] == "running"


def test_marking_a_deferred_task_failed_cancels_its_invocation(
    runs: dict[str, DagRun], emulator: KernelEmulator
) -> None:
    task = deferred(runs["for_ever"], "line 1")

    task.set_state("failed")

    wait_until(
        lambda: invocation(emulator, task)["status"] == "failed", TIMEOUT, "the invocation is cancelled"
    )
    assert task.state() == "failed"


@pytest.mark.parametrize("dag_id", ["failure_deferrable", "failure_on_worker"])
def test_failure_carries_the_reason(runs: dict[str, DagRun], dag_id: str) -> None:
    task = finished(runs[dag_id])

    assert task.state() == "failed"
    assert task.xcom() is None
    assert "the shelf is empty" in task.error()


def test_first_example(runs: dict[str, DagRun]) -> None:
    task = finished(runs["example_kernel_invoke"], "price_report")

    assert task.state() == "success"
    assert task.xcom()["cheapest"] == {
        "genre": "Art",
        "title": "The Northern Letter, vol. 2021",
        "author": "J. Okafor",
        "price": 2.99,
    }


def test_a_retry_reattaches_to_the_invocation_of_a_killed_worker(killed: Future[None]) -> None:
    killed.result()


def test_the_token_is_nowhere_in_plain_text(airflow: AirflowStack, runs: dict[str, DagRun]) -> None:
    check_that_the_token_is_nowhere_in_the_clear(airflow, runs)
