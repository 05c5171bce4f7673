"""The arguments of KernelInvocationFinishedTrigger: their checks, and their serialization, which identifies a trigger."""

from __future__ import annotations

import json

import pytest
from airflow.triggers import base

from airflow_provider_kernel.triggers import finished as triggers
from airflow_provider_kernel.triggers.finished import KernelInvocationFinishedTrigger

needs_watchers = pytest.mark.skipif(not triggers.HAS_WATCHERS, reason="Airflow 2 has no watchers of assets")


@needs_watchers
def test_serialize_returns_equal_arguments_for_equal_triggers():
    from airflow.models.trigger import Trigger

    for arguments in ({}, {"action_name": "a", "version": "v", "poll_interval": 60}):
        path, kwargs = KernelInvocationFinishedTrigger("shop", **arguments).serialize()
        row = Trigger(path, kwargs)
        again = KernelInvocationFinishedTrigger(**row.kwargs)
        assert again.serialize() == (path, kwargs)
        assert base.BaseEventTrigger.hash(path, row.kwargs) == base.BaseEventTrigger.hash(path, kwargs)
    whole, broken = (KernelInvocationFinishedTrigger("s", poll_interval=n).serialize()[1] for n in (60, 60.0))
    assert json.dumps(whole) == json.dumps(broken)


@needs_watchers
@pytest.mark.parametrize("poll_interval", [0, 9, 3601, True, "60", None])
def test_trigger_raises_when_poll_interval_is_invalid(poll_interval):
    with pytest.raises(ValueError, match="a number from 10 to 3600"):
        KernelInvocationFinishedTrigger("shop", poll_interval=poll_interval)


@needs_watchers
def test_trigger_raises_when_an_argument_is_a_template():
    with pytest.raises(ValueError, match="kernel_conn_id is a template, but Airflow renders no templates"):
        KernelInvocationFinishedTrigger("shop", kernel_conn_id="{{ var.value.connection }}")


@needs_watchers
def test_queue_is_serialized_only_when_it_is_set():
    path, plain = KernelInvocationFinishedTrigger("shop").serialize()
    assert "queue" not in plain, "Airflow would treat every stored trigger as a new one"
    if not triggers.HAS_QUEUES:
        return
    from airflow.serialization.encoders import encode_trigger

    trigger = KernelInvocationFinishedTrigger("shop", queue="eu")
    assert trigger.serialize() == (path, {**plain, "queue": "eu"})
    assert KernelInvocationFinishedTrigger(**trigger.serialize()[1]).queue == "eu"
    assert encode_trigger(trigger)["queue"] == "eu"


@needs_watchers
@pytest.mark.parametrize("queue", ["", 7, "{{ var.value.queue }}"])
def test_trigger_raises_when_queue_is_invalid(monkeypatch, queue):
    monkeypatch.setattr(triggers, "HAS_QUEUES", True)
    with pytest.raises(ValueError, match=r"^queue "):
        KernelInvocationFinishedTrigger("shop", queue=queue)


@needs_watchers
def test_queue_raises_before_airflow_3_4(monkeypatch):
    monkeypatch.setattr(triggers, "HAS_QUEUES", False)
    with pytest.raises(TypeError, match=r"queue needs Airflow 3\.4 or later.* Leave queue out"):
        KernelInvocationFinishedTrigger("shop", queue="eu")


def test_trigger_raises_in_airflow_2(monkeypatch):
    if triggers.HAS_WATCHERS:
        monkeypatch.setattr(triggers, "HAS_WATCHERS", False)
    with pytest.raises(RuntimeError, match=r"needs Airflow 3\.0 or later"):
        KernelInvocationFinishedTrigger("shop")
