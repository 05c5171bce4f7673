"""The operator on a real Airflow: scheduler, triggerer, workers, and what a user sees in the API."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import requests
import sqlalchemy

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun, TaskInstance
from dev.airflow_stack import AirflowStack
from dev.wait import wait_until
from tests.system.conftest import TOKEN
from tests.system.dags.scenarios import SAFE, TALK

pytestmark = pytest.mark.system

TIMEOUT = 400


def finished(run: DagRun, task_id: str = "invoke") -> TaskInstance:
    """Wait for the end of the run; return its task."""
    wait_until(run.finished, TIMEOUT, f"{run.dag_id} has ended")
    return run.task(task_id)


def deferred(run: DagRun, task_id: str = "invoke") -> TaskInstance:
    """Wait until the run's task is deferred; return it."""
    task = run.task(task_id)
    wait_until(lambda: task.state() == "deferred", TIMEOUT, f"{run.dag_id} is deferred")
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


def test_every_dag_is_imported(airflow: AirflowStack, runs: dict[str, DagRun]) -> None:
    assert airflow.api.import_errors() == {}
    assert {"example_kernel_invoke", "example_kernel_mapped"} <= set(runs)


def test_logs_and_id_are_there_while_the_task_is_deferred(
    runs: dict[str, DagRun], emulator: KernelEmulator
) -> None:
    task = deferred(runs["long"])

    wait_until(lambda: "[app] line 2" in task.log(), TIMEOUT, "the app's lines are in the task's log")

    assert task.state() == "deferred"
    assert invocation(emulator, task)["status"] == "running"


def test_marking_a_deferred_task_failed_cancels_its_invocation(
    runs: dict[str, DagRun], emulator: KernelEmulator
) -> None:
    task = deferred(runs["killed_by_user"])
    wait_until(lambda: "[app] line 1" in task.log(), TIMEOUT, "the trigger is running")

    task.set_state("failed")

    wait_until(lambda: invocation(emulator, task)["status"] == "failed", 30, "the invocation is cancelled")
    assert task.state() == "failed"


@pytest.mark.parametrize("dag_id", ["success_deferrable", "success_on_worker", "success_in_one_call"])
def test_success_returns_the_output(runs: dict[str, DagRun], emulator: KernelEmulator, dag_id: str) -> None:
    task = finished(runs[dag_id])

    assert task.state() == "success", task.log()
    assert task.xcom() == TALK
    assert invocation(emulator, task)["status"] == "succeeded"


@pytest.mark.parametrize("dag_id", ["success_deferrable", "success_on_worker"])
def test_each_line_of_the_app_is_in_the_log_once(runs: dict[str, DagRun], dag_id: str) -> None:
    log = finished(runs[dag_id]).log()

    assert [line for line in log if "[app]" in line] == [
        f"[app] line {number + 1}" for number in range(TALK["lines"])
    ]


@pytest.mark.parametrize("dag_id", ["failure_deferrable", "failure_on_worker"])
def test_failure_carries_the_reason(runs: dict[str, DagRun], dag_id: str) -> None:
    task = finished(runs[dag_id])

    assert task.state() == "failed"
    assert task.xcom() is None
    assert "the shelf is empty" in task.error()


@pytest.mark.parametrize("dag_id", ["timeout_deferrable", "timeout_on_worker"])
def test_timeout_fails_the_task_and_cancels_the_invocation(
    runs: dict[str, DagRun], emulator: KernelEmulator, dag_id: str
) -> None:
    task = finished(runs[dag_id])

    assert task.state() == "failed"
    assert "KernelInvocationTimeout" in task.error()
    assert invocation(emulator, task)["status"] == "failed"


def test_payload_is_rendered(runs: dict[str, DagRun]) -> None:
    run = runs["templated"]

    assert finished(run).xcom() == {"lines": SAFE, "run": run.run_id, "sku": "b-17"}


def test_fire_and_forget_returns_the_id(runs: dict[str, DagRun], emulator: KernelEmulator) -> None:
    task = finished(runs["fire_and_forget"])

    assert task.state() == "success"
    assert task.xcom() == task.xcom("invocation_id")
    wait_until(lambda: invocation(emulator, task)["status"] == "succeeded", TIMEOUT, "it succeeds by itself")


def test_wrong_token_fails_without_a_retry(runs: dict[str, DagRun]) -> None:
    task = finished(runs["wrong_token"])

    assert (task.state(), task.details()["try_number"]) == ("failed", 1)
    assert "401" in task.error()


def test_first_example(runs: dict[str, DagRun]) -> None:
    task = finished(runs["example_kernel_invoke"], "price_report")

    assert task.xcom()["cheapest"] == {
        "genre": "Art",
        "title": "The Northern Letter, vol. 2021",
        "author": "J. Okafor",
        "price": 2.99,
    }


def test_mapped_example(runs: dict[str, DagRun], emulator: KernelEmulator) -> None:
    run = runs["example_kernel_mapped"]

    assert finished(run, "cheapest_genre").xcom() == "Cooking"
    tasks = [run.task("price_report", map_index) for map_index in range(4)]
    assert [list(task.xcom()["average_prices"]) for task in tasks] == [
        ["Art"],
        ["Cooking"],
        ["Poetry"],
        ["Travel"],
    ]
    assert len({invocation(emulator, task)["id"] for task in tasks}) == 4


def test_the_token_is_nowhere_in_the_clear(airflow: AirflowStack, runs: dict[str, DagRun]) -> None:
    for run in runs.values():
        wait_until(run.finished, TIMEOUT, f"{run.dag_id} has ended")

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


def test_a_dag_can_be_tried_without_a_scheduler(airflow: AirflowStack, emulator: KernelEmulator) -> None:
    """`dags test` runs the trigger in a process of its own, where connections are read in another way."""
    home = airflow.home / "alone"
    home.mkdir()
    env = {
        **airflow.env,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "airflow", *arguments]
        done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=TIMEOUT)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    connection = ["--conn-type", "kernel", "--conn-host", emulator.base_url, "--conn-password", TOKEN]
    run("db", "migrate")
    run("connections", "add", "kernel_default", *connection)
    assert "[app] line 2" in run("dags", "test", "success_deferrable")
