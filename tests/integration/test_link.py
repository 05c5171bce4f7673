"""The link from a task to its invocation: when it is pushed, and its URL."""

from __future__ import annotations

import json
import re

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_kernel.links.kernel import KernelInvocationLink
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.sensors.kernel import KernelInvocationSensor
from tests.integration.task import Task

LINK = "_link_KernelInvocationLink"
TOKEN = "sk_canary_token"


@pytest.fixture(autouse=True)
def lead_to(emulator, connect):
    """Set the connection's dashboard_url."""

    def lead_to(dashboard_url):
        connect(
            host=emulator.base_url,
            password=TOKEN,
            extra={"dashboard_url": dashboard_url, "project": "shop"},
        )

    lead_to("https://d.example/{project}/{invocation_id}")
    return lead_to


@pytest.mark.parametrize("operator", [KernelInvokeOperator, KernelInvocationSensor])
def test_link_has_the_key_that_airflow_reads(operator):
    [link] = operator.operator_extra_links
    assert isinstance(link, KernelInvocationLink)
    assert getattr(link, "xcom_key", LINK) == LINK  # the name of this attribute in Airflow 3


def test_link_is_pushed_while_the_task_is_deferred_and_kept_after_its_end():
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
def test_every_way_to_wait_pushes_the_link(arguments):
    task = Task("echo", 7, **arguments)
    task.run()
    assert task.xcom[LINK] == f"https://d.example/shop/{task.invocation_id}"


def test_retry_that_reattaches_has_the_same_link():
    task = Task("echo", 7, retries=1)
    task.run_until_it_dies_at("after:deferred")
    before = task.xcom[LINK]
    assert task.retry().run() == 7
    assert task.xcom[LINK] == before


def test_link_of_the_emulators_connection_leads_to_the_emulators_page(emulator, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", emulator.connection_json)
    task = Task("echo", 7)
    task.run()
    assert task.xcom[LINK] == f"{emulator.base_url}/#/invocations/{task.invocation_id}"


def test_the_log_begins_with_the_address_of_the_invocation_and_ends_with_the_size_of_its_output(told):
    task = Task("echo", {"price": 12.5})
    task.run()
    ours = re.findall(r"Kernel (?:accepted )?invocation .*", told())
    assert ours[0].startswith(
        f"Kernel accepted invocation {task.invocation_id}: https://d.example/shop/{task.invocation_id} "
        "(tests/echo, version latest)"
    )
    assert ours[-1].startswith(
        f"Kernel invocation {task.invocation_id} succeeded, with an output of 15 characters."
    )


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ("https://d.example/i1", "https://d.example/i1"),
        ("http://d.example/i1", "http://d.example/i1"),
        *(
            (found, "")
            for found in (None, "", "javascript:alert(1)", "data:text/html,x", "//d.example", 7, ["https://"])
        ),
    ],
)
def test_link_is_shown_only_if_it_is_a_web_address(mocker, found, shown):
    mocker.patch("airflow_provider_kernel.links.kernel.XCom.get_value", return_value=found)
    assert KernelInvocationLink().get_link(None, ti_key=None) == shown


class Asked(Exception):
    """The link's XCom was read; if there is none, Airflow logs an error."""


@pytest.fixture
def link(mocker):
    """Read the link as Airflow 3 does whenever a worker ends or defers a task."""
    found = mocker.patch("airflow_provider_kernel.links.kernel.XCom.get_value", side_effect=Asked)

    def link(operator, left=None):
        found.side_effect, found.return_value = None if left else Asked, left
        [link] = operator.operator_extra_links
        return link.get_link(operator, ti_key=None)

    return link


def test_link_that_was_not_pushed_is_not_read(link):
    task = Task(payload=lambda **_: None, retries=1)
    assert link(task.operator) == ""
    task.operator.payload = None
    with pytest.raises(AirflowFailException):
        task.run()
    assert link(task.operator) == ""
    sensor = KernelInvocationSensor(task_id="t", invocation_id="{{ x }}")
    sensor.invocation_id = None
    with pytest.raises(AirflowFailException):
        sensor.execute(task.context)
    assert link(sensor) == ""


@pytest.mark.parametrize("operator", [KernelInvokeOperator, KernelInvocationSensor])
def test_link_of_a_mapped_task_whose_rendering_failed_is_not_read(link, operator):
    class Mapped:
        operator_class = operator
        operator_extra_links = operator.operator_extra_links

    assert link(Mapped()) == ""


def test_link_that_was_pushed_is_read_before_and_after_the_deferral(link):
    task = Task("echo", 7)
    deferral = task.defer()
    assert link(task.operator, "https://d") == "https://d"
    task.operator = task.make()  # another process
    assert task.legs(task.resume(deferral)) == 7
    assert link(task.operator, "https://d") == "https://d"


def test_link_of_a_serialized_task_of_airflow_2_is_read(link):
    class Serialized:
        operator_extra_links = KernelInvokeOperator.operator_extra_links

    assert link(Serialized(), "https://d") == "https://d"


def test_wrong_dashboard_url_is_a_warning(lead_to, told):
    lead_to("https://me:hunter2@d.example")
    task = Task("echo", 7)
    assert task.run() == 7
    assert LINK not in task.xcom
    log = told()
    assert (
        f"The link to Kernel invocation {task.invocation_id} is missing in Airflow's UI: The connection's extra"
        in log
    )
    assert "hunter2" not in log
    assert "See " not in log


def test_failed_push_of_the_link_is_a_warning(told, mocker):
    task = Task("echo", 7, deferrable=False)
    push = task.ti.xcom_push

    def refuse(key, value):
        if key == LINK:
            raise ConnectionError("https://api.example/hunter2")
        push(key, value)

    mocker.patch.object(task.ti, "xcom_push", refuse)
    assert task.run() == 7
    log = told()
    assert "is missing in Airflow's UI: ConnectionError." in log
    assert "hunter2" not in log
