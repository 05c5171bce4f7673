"""The sensor, the link to an invocation, and the metrics, on a real Airflow."""

from __future__ import annotations

import pytest

from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun
from dev.airflow_stack import AirflowStack
from dev.wait import wait_until
from tests.statsd import StatsD

pytestmark = pytest.mark.system

SENSORS = ("deferred", "poking", "rescheduled")
TIMEOUT = 400


@pytest.fixture
def start(airflow: AirflowStack, emulator: KernelEmulator):
    """Run the Dag with an action that prints so many lines, one each second."""
    airflow.api.add_kernel_connection(
        "kernel_dashboard",
        emulator.base_url,
        emulator.api_key,
        dashboard_url="https://d.example/{invocation_id}",
    )
    wait_until(lambda: "once_fire_and_forget" in airflow.api.dag_ids(), TIMEOUT, "the Dag is read")
    yield lambda lines: airflow.api.trigger("once_fire_and_forget", lines=lines)
    airflow.api.session.delete(f"{airflow.api.url}/api/v2/connections/kernel_dashboard").raise_for_status()


@pytest.fixture
def status(emulator: KernelEmulator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", emulator.connection_json)

    def status(invocation_id: str) -> str:
        with KernelHook() as hook:
            return hook.get_invocation(invocation_id).status

    return status


def wait_for_states(run: DagRun, state: str, *task_ids: str) -> None:
    for task_id in task_ids:
        task = run.task(task_id)
        wait_until(lambda task=task: task.state() == state, TIMEOUT, f"{task_id} is {state}")


def test_sensors_of_all_kinds_wait_for_the_invocation_of_another_task(start, status, statsd: StatsD) -> None:
    statsd.received()
    run = start(lines=15)
    wait_for_states(run, "deferred", "deferred")
    invocation_id = run.task("start").xcom()
    url = f"https://d.example/{invocation_id}"
    for task_id in ("start", *SENSORS):
        task = run.task(task_id)
        wait_until(
            lambda task=task: task.links() == {"Kernel invocation": url}, TIMEOUT, f"{task_id} has its link"
        )
    assert status(invocation_id) == "running"

    wait_until(run.finished, TIMEOUT, "the run has ended")
    assert run.state() == "success", {task.task_id: task.log()[-5:] for task in run.tasks()}
    assert [run.task(task_id).xcom() for task_id in SENSORS] == [{"lines": 15}] * 3
    assert "line 1" in run.task("deferred").app_lines()
    assert {task_id: run.task(task_id).links() for task_id in SENSORS} == {
        task_id: {"Kernel invocation": url} for task_id in SENSORS
    }
    sent = [line.partition(":")[0] for line in statsd.received() if "action=talk" in line]
    tags = "app=system-tests,action=talk"
    assert sorted(sent) == [
        f"airflow.kernel.submitted,{tags}",
        *[f"airflow.kernel.succeeded,{tags}"] * 3,
        *[f"airflow.kernel.waited,{tags}"] * 2,  # a rescheduled sensor does not know since when
    ]


def test_killed_sensors_leave_the_invocation_running(start, status) -> None:
    run = start(lines=25)
    wait_for_states(run, "deferred", "deferred")
    wait_for_states(run, "running", "poking")
    invocation_id = run.task("start").xcom()
    for task_id in SENSORS:
        run.task(task_id).set_state("failed")
    wait_until(run.finished, TIMEOUT, "the run has ended")
    wait_until(lambda: status(invocation_id) != "running", TIMEOUT, "the invocation has ended")
    assert status(invocation_id) == "succeeded"


def test_the_example_returns_the_report_of_its_first_task(airflow: AirflowStack) -> None:
    wait_until(lambda: "example_kernel_sensor" in airflow.api.dag_ids(), TIMEOUT, "the Dag is read")
    run = airflow.api.trigger("example_kernel_sensor")
    wait_until(run.finished, TIMEOUT, "the run has ended")
    assert run.state() == "success", {task.task_id: task.log()[-5:] for task in run.tasks()}
    assert run.task("wait").xcom()["cheapest"]["title"]
    # Where one invocation is in Kernel's dashboard is not known.
    assert run.task("wait").links() == {"Kernel invocation": "https://dashboard.onkernel.com"}
