"""The decorator, mapped tasks, asset events and their examples on a real Airflow, as its API shows them."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun
from dev.airflow_stack import AirflowStack
from dev.wait import wait_until

pytestmark = pytest.mark.system

TIMEOUT = 400


EXAMPLES = (
    "example_kernel_batch",
    "example_kernel_decorator",
    "example_kernel_many",
    "example_kernel_tolerant",
)


@pytest.fixture(scope="module")
def started(airflow: AirflowStack) -> dict[str, DagRun]:
    """One run of each, started together."""
    dag_ids = {"decorated_mapped", "decorated_names", "decorated_outlets", *EXAMPLES}
    wait_until(lambda: dag_ids <= airflow.api.dag_ids(), TIMEOUT, "the Dags are read")
    return {dag_id: airflow.api.trigger(dag_id, sku="b-17") for dag_id in sorted(dag_ids)}


def finished(run: DagRun) -> DagRun:
    wait_until(run.finished, TIMEOUT, f"{run.dag_id} has ended")
    assert run.state() == "success", {task.task_id: task.log()[-5:] for task in run.tasks()}
    return run


def test_mapped_task_has_its_rendered_name_while_deferred_and_afterwards(started: dict[str, DagRun]) -> None:
    run = started["decorated_names"]
    names = ["first, 20 lines", f"second of {run.run_id}, 20 lines"]
    for index in range(2):
        wait_until(lambda index=index: run.task("invoke", index).state() == "deferred", TIMEOUT, "deferred")

    assert [run.task("invoke", index).details()["rendered_map_index"] for index in range(2)] == names

    finished(run)
    assert [run.task("invoke", index).details()["rendered_map_index"] for index in range(2)] == names


def test_mapped_decorated_task_runs_once_for_each_item_and_returns_all_outputs(
    started: dict[str, DagRun],
) -> None:
    run = finished(started["decorated_mapped"])

    assert run.task("collect").xcom() == [[n, "b-17", run.run_id, "{{ ds }}"] for n in (1, 2, 3)]
    assert run.task("talk", 1).xcom("lines") == 2  # multiple_outputs
    assert [run.task("talk", n).details()["rendered_map_index"] for n in range(3)] == [
        "number 1",
        "number 2",
        "number 3",
    ]


@pytest.mark.parametrize(
    ("task_id", "uri"),
    [
        ("deferred", "x-kernel://talk/deferred"),
        ("in_one_call", "x-kernel://talk/in-one-call"),
        ("by_alias", "x-kernel://talk/by-alias"),
    ],
)
def test_an_asset_event_names_the_invocation_and_its_version(
    started: dict[str, DagRun], emulator: KernelEmulator, task_id: str, uri: str
) -> None:
    task = finished(started["decorated_outlets"]).task(task_id)

    events: list[dict[str, Any]] = task.api.call("GET", "assets/events", limit=100)["asset_events"]
    [event] = [event for event in events if event["uri"] == uri]
    assert event["source_task_id"] == task_id
    extra = {"invocation_id": task.xcom("invocation_id"), "app_version": "emulator"}
    assert event["extra"].items() >= extra.items()


@pytest.mark.parametrize(
    ("example", "task_id", "returned"),
    [
        ("decorator", "cheapest", "The Little Mountain, vol. 2223"),
        ("many", "add_up", {"books": 6, "price": 202.48}),
        ("batch", "prices", [23.88, 21.15, 37.11]),
        (
            "tolerant",
            "summary",
            {
                "average_prices": {"Art": 32.91, "Cooking": 31.4, "Poetry": 32.3},
                "failed": ["Astrology", "Heraldry", "Pottery"],
            },
        ),
    ],
)
def test_example_returns_entries_of_the_catalogue(
    started: dict[str, DagRun], example: str, task_id: str, returned: Any
) -> None:
    assert finished(started[f"example_kernel_{example}"]).task(task_id).xcom() == returned
