"""The minimum length of a deferral, so that Airflow does not fail the task."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import airflow
import pytest

from airflow_provider_kernel.triggers import min_deferral
from airflow_provider_kernel.triggers.capacity import KernelCapacityTrigger
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger
from tests.integration.task import first_event

pytestmark = pytest.mark.usefixtures("emulator_env")
TI = SimpleNamespace(id="ti-1", task_id="t")
real_min_deferral_seconds = min_deferral.min_deferral_seconds


@pytest.fixture(autouse=True)
def min_deferral_of_1_5_seconds(monkeypatch):
    monkeypatch.setattr(min_deferral, "min_deferral_seconds", lambda: 1.5)


def fire(trigger, ti=TI):
    """Return the seconds until the trigger fires."""
    began = time.time()
    trigger.task_instance = ti
    asyncio.run(first_event(trigger))
    return time.time() - began


def ended(submit, until, client):
    invocation_id = submit("echo", 1)
    until(lambda: client.invocations.retrieve(invocation_id).status == "succeeded")
    return invocation_id


def test_invocation_trigger_waits_when_the_deferral_is_short(submit, until, client):
    invocation_id = ended(submit, until, client)
    assert fire(KernelInvocationTrigger(invocation_id, deferred_at=time.time())) >= 1.4


def test_capacity_trigger_waits_when_the_deferral_is_short():
    assert fire(KernelCapacityTrigger(refused_at=time.time(), deadline=time.time() + 0.1)) >= 1.4


@pytest.mark.parametrize(
    ("deferred_before", "ti"),
    [(60, TI), (0, None), (None, TI)],
    ids=["deferred long enough", "in dag.test()", "unknown"],
)
def test_trigger_fires_at_once_when_no_minimum_applies(
    submit, until, client, monkeypatch, deferred_before, ti
):
    monkeypatch.setattr(min_deferral, "min_deferral_seconds", lambda: 60.0)
    deferred_at = None if deferred_before is None else time.time() - deferred_before
    assert fire(KernelInvocationTrigger(ended(submit, until, client), deferred_at=deferred_at), ti) < 60


def test_trigger_waits_no_longer_than_the_minimum_when_a_clock_is_wrong(submit, until, client):
    in_a_year = time.time() + 365 * 24 * 3600
    assert 1.4 <= fire(KernelInvocationTrigger(ended(submit, until, client), deferred_at=in_a_year)) < 300


@pytest.mark.parametrize(
    ("version", "executor", "interval", "seconds"),
    [
        ("3.3.2", "LocalExecutor", "5", 8),
        ("3.0.6", "LocalExecutor", "1", 4),
        ("3.4.0b2", "LocalExecutor", "5", 0),
        ("3.3.2", "CeleryExecutor", "5", 0),
        ("3.3.2", "airflow.providers.celery.executors.celery_executor.CeleryExecutor", "5", 0),
        ("3.3.2", "CeleryExecutor, LocalExecutor", "5", 8),
        ("3.3.2", "airflow.providers.celery…CeleryKubernetesExecutor", "5", 8),
    ],
)
def test_min_deferral_seconds_depends_on_airflow_executor_and_heartbeat_interval(
    monkeypatch, version, executor, interval, seconds
):
    monkeypatch.setattr(airflow, "__version__", version)
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", interval)
    assert real_min_deferral_seconds() == seconds
