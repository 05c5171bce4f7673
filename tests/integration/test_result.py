"""What the operator tells Airflow beside the output: the version that ran, the asset events, a warning of the size."""

from __future__ import annotations

import logging
import re

import pytest
from airflow.providers.common.compat.sdk import Asset, AssetAlias

from airflow_provider_kernel.operators import result
from tests import faults
from tests.faulty import Fault
from tests.integration.task import Task, both_waits

try:
    from airflow.sdk.execution_time.context import OutletEventAccessors
except ImportError:  # Airflow 2
    from airflow.utils.context import OutletEventAccessors

pytestmark = pytest.mark.usefixtures("proxy")

ASSET = Asset("s3://shop/prices")
ALIAS = AssetAlias("prices")
three_ways = pytest.mark.parametrize(
    "wait", [{}, {"deferrable": False}, {"async_": False}], ids=["deferred", "on the worker", "in one call"]
)


class Outlets(Task):
    """A task with outlets; ``events`` are those of its last leg, for Airflow takes no other."""

    def legs(self, leg):
        def with_new_events(leg):
            def run():
                self.context["outlet_events"] = self.events = OutletEventAccessors()
                return leg()

            return run

        self.wrap = with_new_events
        return super().legs(with_new_events(leg))

    def resume(self, deferral):
        return self.wrap(super().resume(deferral))


@three_ways
def test_the_asset_event_names_the_invocation_and_the_version_that_ran(wait):
    task = Outlets("echo", 1, outlets=[ASSET], **wait)
    task.run()
    assert task.events[ASSET].extra == {"invocation_id": task.invocation_id, "app_version": "emulator"}


@both_waits
def test_the_version_that_ran_is_in_xcom_and_in_the_log(deferrable, told):
    task = Task("echo", 1, deferrable=deferrable)
    task.run()
    assert task.xcom["app_version"] == "emulator"
    assert f"invocation {task.invocation_id} ran version emulator of the app." in told()


def test_the_version_of_a_failed_invocation_is_in_xcom_and_in_the_log():
    task = Task("fail", {"message": "no"}, outlets=[ASSET])
    task.context["outlet_events"] = OutletEventAccessors()
    with pytest.raises(Exception, match="no"):
        task.run()
    assert task.xcom["app_version"] == "emulator"


def test_a_version_that_kernel_does_not_tell_is_not_guessed(proxy, told):
    proxy.on("GET /invocations/{id}", faults.answer(503))
    task = Outlets("echo", 1, async_=False, outlets=[ASSET])
    assert task.run() == 1
    assert task.events[ASSET].extra == {"invocation_id": task.invocation_id}
    assert "app_version" not in task.xcom
    assert "ran is unknown" in told()


def test_latest_is_not_taken_for_the_version_that_ran(proxy, told):
    def say_latest(ends):
        reply = ends.forward().read()
        ends.answer(200, {"Content-Type": "application/json"}, reply.replace(b'"emulator"', b'"latest"'))

    proxy.on("GET /invocations/{id}", Fault("say_latest", say_latest))
    task = Outlets("echo", 1, async_=False, outlets=[ASSET])
    assert task.run() == 1
    assert task.events[ASSET].extra == {"invocation_id": task.invocation_id}
    assert "app_version" not in task.xcom
    assert "ran version" not in told()


def test_a_synchronous_call_without_outlets_is_one_request(proxy):
    task = Task("echo", 1, async_=False)
    assert task.run() == 1
    assert len(proxy.exchanges) == 1


def test_a_retry_that_finds_the_result_names_it_in_the_asset_events():
    task = Outlets("echo", 1, outlets=[ASSET], retries=1)
    task.run_until_it_dies_at("before:ended")
    first = task.invocation_id
    task.retry().run()
    assert task.events[ASSET].extra["invocation_id"] == first


@pytest.mark.parametrize("dies", [False, True])
def test_a_task_that_does_not_wait_names_the_id_in_the_asset_events(dies):
    task = Outlets("echo", 1, outlets=[ASSET], wait_for_completion=False, retries=1)
    if dies:
        task.run_until_it_dies_at("after:ended")
        task.retry()
    assert task.run() == task.events[ASSET].extra["invocation_id"]


def test_what_the_dag_author_wrote_into_an_event_wins():
    task = Task("echo", 1, deferrable=False, outlets=[ASSET, ALIAS])
    events = task.context["outlet_events"] = OutletEventAccessors()
    events[ASSET].extra = {"invocation_id": "mine", "rows": 3}
    events[ALIAS].add(ASSET, extra={"rows": 4})
    task.run()
    ours = {"invocation_id": task.invocation_id, "app_version": "emulator"}
    assert events[ASSET].extra == {"invocation_id": "mine", "rows": 3, "app_version": "emulator"}
    try:
        [added] = [event.extra for event in events[ALIAS].asset_alias_events]
    except AttributeError:  # Airflow 2
        [added] = [event["extra"] for event in events[ALIAS].dataset_alias_events]
    assert added == {"rows": 4, **ours}
    assert events[ALIAS].extra == ours


def test_a_failing_convenience_is_a_warning(told):
    task = Task("echo", 1, deferrable=False, outlets=[ASSET])  # there are no outlet_events in this context

    def refuse(key, value):
        if key == "app_version":
            raise RuntimeError

    task.ti.xcom_push = refuse
    assert task.run() == 1
    said = told()
    assert re.search(r"asset event does not name Kernel invocation \w+: KeyError", said)
    assert re.search(r"version of Kernel invocation \w+ could not be pushed to XCom: RuntimeError", said)


@pytest.mark.parametrize(
    ("size", "arguments", "warns"),
    [
        (result.LARGE_OUTPUT_BYTES, {}, True),
        (result.LARGE_OUTPUT_BYTES - 2, {}, False),  # with its two quotes, just as much as is good
        (result.LARGE_OUTPUT_BYTES, {"do_xcom_push": False}, False),
    ],
)
def test_a_large_output_logs_a_warning_with_the_alternatives(size, arguments, warns, caplog):
    assert len(Task("big", {"n": size}, deferrable=False, **arguments).run()) == size
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("XComObjectStorageBackend" in text and "1.0 MB" in text for text in warnings) == warns


def test_the_output_of_a_failed_invocation_logs_no_warning(monkeypatch, caplog):
    monkeypatch.setattr(result, "LARGE_OUTPUT_BYTES", 1_000)  # Kernel cuts it far below the real one
    with pytest.raises(Exception, match="xxx"):
        Task("fail", {"message": "x" * 10_000}, deferrable=False).run()
    assert "XComObjectStorageBackend" not in caplog.text


@pytest.mark.parametrize(
    ("backend", "threshold", "warns"),
    [
        ("airflow.providers.common.io.xcom.backend.XComObjectStorageBackend", "1000000", False),
        # By default it keeps everything in the database.
        ("airflow.providers.common.io.xcom.backend.XComObjectStorageBackend", None, True),
        ("shop.xcom.Backend", None, False),
    ],
)
def test_a_backend_for_large_outputs_logs_no_warning(monkeypatch, caplog, backend, threshold, warns):
    monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", backend)
    if threshold:
        monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD", threshold)
    Task("big", {"n": result.LARGE_OUTPUT_BYTES}, deferrable=False).run()
    assert ("xcom_objectstorage_threshold" in caplog.text) == warns
