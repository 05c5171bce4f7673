"""The operator on a real Airflow: scheduler, triggerer, workers, and what a user sees in the API; see also test_main_path."""

from __future__ import annotations

import pytest

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun
from dev.airflow_stack import AirflowStack
from dev.wait import wait_until
from tests.system.dags.scenarios import SAFE, TALK
from tests.system.test_main_path import (
    TIMEOUT,
    check_that_the_token_is_nowhere_in_the_clear,
    finished,
    invocation,
)

pytestmark = pytest.mark.system

DAGS = (
    "example_kernel_mapped",
    "fire_and_forget",
    "success_deferrable",
    "success_in_one_call",
    "success_on_worker",
    "templated",
    "timeout_deferrable",
    "timeout_on_worker",
    "wrong_token",
)


def test_every_dag_is_imported(airflow: AirflowStack, runs: dict[str, DagRun]) -> None:
    assert airflow.api.import_errors() == {}
    assert {"example_kernel_invoke", "example_kernel_mapped"} <= airflow.api.dag_ids()


@pytest.mark.parametrize("dag_id", ["success_deferrable", "success_on_worker", "success_in_one_call"])
def test_success_returns_the_output(runs: dict[str, DagRun], emulator: KernelEmulator, dag_id: str) -> None:
    task = finished(runs[dag_id])

    assert task.state() == "success", task.log()
    assert task.xcom() == TALK
    assert invocation(emulator, task)["status"] == "succeeded"


@pytest.mark.parametrize("dag_id", ["success_deferrable", "success_on_worker"])
def test_each_line_of_the_app_is_in_the_log_once(runs: dict[str, DagRun], dag_id: str) -> None:
    lines = finished(runs[dag_id]).app_lines()

    assert lines == [f"line {number + 1}" for number in range(TALK["lines"])]


@pytest.mark.parametrize("dag_id", ["timeout_deferrable", "timeout_on_worker"])
def test_timeout_fails_the_task_and_cancels_the_invocation(
    runs: dict[str, DagRun], emulator: KernelEmulator, dag_id: str
) -> None:
    task = finished(runs[dag_id])

    assert task.state() == "failed"
    assert "KernelInvocationTimeoutError" in task.error()
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


def test_the_token_is_nowhere_in_plain_text(airflow: AirflowStack, runs: dict[str, DagRun]) -> None:
    check_that_the_token_is_nowhere_in_the_clear(airflow, runs)
