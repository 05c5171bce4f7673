"""What KernelInvokeOperator says when the Dag is parsed, before anything runs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator


def operator(**kwargs):
    return KernelInvokeOperator(**{"task_id": "t", "app_name": "shop", "action_name": "price", **kwargs})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"app_name": ""}, "app_name is empty"),
        ({"action_name": "  "}, "action_name is empty"),
        ({"version": ""}, "version is empty.*'latest'"),
        ({"version": 1.0}, "version must be a string.*not float"),
        ({"kernel_conn_id": ""}, "kernel_conn_id is empty.*id of an Airflow connection"),
        ({"payload": {"a": {"b": float("nan")}}}, r"payload\['a'\]\['b'\] is nan"),
        ({"payload": {"ids": {1, 2}}}, r"payload\['ids'\] is a set.*a set to a list"),
        ({"payload": "not json"}, "is not JSON text.*json.dumps"),
        ({"payload": ["x" * 5_000_000]}, "4.5 MB at most"),
        ({"async_timeout_seconds": 9}, "outside Kernel's range, 10 to 3600"),
        ({"async_timeout_seconds": "60"}, "a whole number from 10 to 3600"),
        ({"async_": False, "async_timeout_seconds": 60}, "Leave one of the two out"),
        ({"async_": False, "wait_for_completion": False}, "Leave one of the two out"),
        ({"async_": "yes"}, "async_ must be True or False"),
        ({"timeout": 0}, "timeout must be seconds"),
        ({"timeout": -1}, "timeout must be seconds"),
        ({"timeout": float("inf")}, "timeout must be seconds"),
        ({"timeout": True}, "timeout must be seconds"),
        ({"poll_interval": 0}, "poll_interval must be seconds"),
        ({"poll_interval": None}, "poll_interval must be seconds"),
    ],
)
def test_a_bad_argument_is_refused_when_the_dag_is_parsed(arguments, says):
    with pytest.raises(ValueError, match=says) as refused:
        operator(**arguments)
    assert len(str(refused.value)) < 400, "the sentence does not quote the payload"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"payload": None},
        {"payload": '{"sku": 1}'},
        {"payload": {"sku": ("a", 1, 1.5, None, True)}},
        {"async_timeout_seconds": 10},
        {"async_timeout_seconds": 3600},
        {"async_": False},
        {"wait_for_completion": False},
        {"timeout": 0.5, "poll_interval": 1},
    ],
)
def test_a_good_argument_is_taken(arguments):
    operator(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"app_name": "{{ var.value.app }}", "action_name": "{% if 1 %}a{% endif %}"},
        {"version": "{{ params.version }}", "kernel_conn_id": "{{ params.conn }}"},
        {"payload": "{{ ti.xcom_pull('upstream') }}"},
        {"payload": {"day": "{{ ds }}"}},
    ],
)
def test_a_template_is_left_for_when_it_is_rendered(arguments):
    assert operator(**arguments)


def test_a_reference_to_another_tasks_output_is_left_for_when_it_is_known():
    @task
    def make():
        return {"sku": 1}

    with DAG("d", schedule=None):
        output = make()
        assert operator(payload=output)
        assert operator(task_id="u", payload={"nested": [output]})


def test_what_is_literal_beside_a_template_is_checked_all_the_same():
    with pytest.raises(ValueError, match=r"payload\['when'\] is a datetime"):
        operator(payload={"day": "{{ ds }}", "when": datetime(2026, 1, 1, tzinfo=UTC)})


def test_every_argument_that_names_what_runs_is_templated():
    assert set(KernelInvokeOperator.template_fields) == {
        "app_name",
        "action_name",
        "payload",
        "version",
        "kernel_conn_id",
    }
    assert KernelInvokeOperator.template_fields_renderers == {"payload": "json"}
