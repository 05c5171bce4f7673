"""The link from a task to its invocation: when it is there, and what it holds."""

from __future__ import annotations

import json

import pytest

from airflow_provider_kernel.links.kernel import KernelInvocationLink
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.sensors.kernel import KernelInvocationSensor
from tests.integration.task import Task

LINK = "_link_KernelInvocationLink"
TOKEN = "sk_canary_token"


@pytest.fixture(autouse=True)
def lead_to(emulator, connect):
    """Have the connection lead to this dashboard."""

    def lead_to(dashboard_url):
        connect(
            host=emulator.base_url,
            password=TOKEN,
            extra={"dashboard_url": dashboard_url, "project": "shop"},
        )

    lead_to("https://d.example/{project}/{invocation_id}")
    return lead_to


@pytest.mark.parametrize("operator", [KernelInvokeOperator, KernelInvocationSensor])
def test_airflow_finds_the_link_where_it_is_left(operator):
    [link] = operator.operator_extra_links
    assert isinstance(link, KernelInvocationLink)
    assert getattr(link, "xcom_key", LINK) == LINK  # Airflow 3's own name of it


def test_the_link_is_there_while_the_task_is_deferred_and_after_its_end():
    task = Task("echo", 7)
    deferral = task.defer()
    url = f"https://d.example/shop/{task.invocation_id}"
    assert task.xcom[LINK] == url
    assert task.legs(task.resume(deferral)) == 7
    assert task.xcom[LINK] == url
    assert TOKEN not in json.dumps(task.xcom)


@pytest.mark.parametrize(
    "arguments", [{"wait_for_completion": False}, {"deferrable": False}, {"async_": False}]
)
def test_every_way_to_run_leaves_the_link(arguments):
    task = Task("echo", 7, **arguments)
    task.run()
    assert task.xcom[LINK] == f"https://d.example/shop/{task.invocation_id}"


def test_a_retry_that_takes_the_invocation_up_has_its_link():
    task = Task("echo", 7, retries=1)
    task.run_until_it_dies_at("after:handed_over")
    before = task.xcom[LINK]
    assert task.retry().run() == 7
    assert task.xcom[LINK] == before


def test_a_wrong_address_is_a_warning_and_not_the_tasks_failure(lead_to, told):
    lead_to("https://me:secret@d.example")
    task = Task("echo", 7)
    assert task.run() == 7
    assert LINK not in task.xcom
    log = told()
    assert "There is no link to the invocation: The connection's extra 'dashboard_url' must be" in log
    assert "secret" not in log


def test_an_airflow_that_takes_no_xcom_is_a_warning(told, mocker):
    task = Task("echo", 7, deferrable=False)
    push = task.ti.xcom_push

    def refuse(key, value):
        if key == LINK:
            raise ConnectionError("https://api.example/secret")
        push(key, value)

    mocker.patch.object(task.ti, "xcom_push", refuse)
    assert task.run() == 7
    log = told()
    assert "There is no link to the invocation: ConnectionError" in log
    assert "secret" not in log
