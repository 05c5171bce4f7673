"""Outputs through a real worker, the API server and PostgreSQL: what is said to be carried is, and nothing else."""

from __future__ import annotations

import pytest

from dev.airflow_api import DagRun
from dev.airflow_stack import AirflowStack
from dev.wait import wait_until
from tests.system.once import TIMEOUT

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def run(airflow: AirflowStack) -> DagRun:
    wait_until(lambda: "carried" in airflow.api.dag_ids(), TIMEOUT, "the Dag is read")
    run = airflow.api.trigger("carried", seed=20261126)
    wait_until(run.finished, TIMEOUT, "the outputs have been tried")
    return run


@pytest.mark.parametrize("task_id", ["values", "keys"])
def test_airflow_stores_exactly_the_outputs_that_the_provider_accepts(run: DagRun, task_id: str) -> None:
    told = run.task(task_id).xcom()
    assert told["lost"] == []
    assert told["needlessly_refused"] == []
    assert told["carried"] > 50
    assert told["refused"] > 5


def test_a_nul_is_replaced_and_the_task_succeeds(run: DagRun) -> None:
    task = run.task("invoke", 0)
    assert task.state() == "success"
    assert task.xcom() == {"page": ["Foo?bar"]}
    assert any("has characters that Airflow cannot store" in line for line in task.log())


@pytest.mark.parametrize(
    ("map_index", "told"),
    [
        (1, "output['wei'][0] is a number beyond 64 bits"),
        (2, "output[0] is a number beyond 64 bits"),
        (3, "output['a'] has the key '__classname__'"),
    ],
)
def test_an_output_that_cannot_be_stored_fails_the_first_attempt_with_its_path(
    run: DagRun, map_index: int, told: str
) -> None:
    task = run.task("invoke", map_index)
    assert task.state() == "failed"
    assert task.details()["try_number"] == 1
    assert told in task.error()
