"""The arguments of KernelInvocationSensor, checked when the Dag is parsed."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.sensors.kernel import KernelInvocationSensor


def sensor(**kwargs):
    return KernelInvocationSensor(**{"task_id": "wait", "invocation_id": "inv1", **kwargs})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"invocation_id": ""}, "invocation_id is empty.*output of a task with wait_for_completion=False"),
        ({"invocation_id": " "}, "invocation_id is empty"),
        ({"invocation_id": None}, "invocation_id must be a string.*NoneType"),
        ({"invocation_id": 7}, "invocation_id must be a string.*int"),
        ({"invocation_id": "i\0"}, "invocation_id holds a NUL character"),
        (
            {"invocation_id": ".."},
            r"invocation_id must be the id that Kernel gave the invocation.*not '\.\.'",
        ),
        ({"invocation_id": "a/b"}, "invocation_id must be the id"),
        ({"invocation_id": "i" * 1_000}, r"invocation_id must be the id.*more characters\)'\.$"),
        ({"invocation_id": "{{ ds }}\0"}, "invocation_id holds a NUL character"),
        ({"kernel_conn_id": "\ud83d"}, "kernel_conn_id holds half a surrogate pair"),
        ({"kernel_conn_id": ""}, "kernel_conn_id is empty.*id of an Airflow connection"),
        ({"deferrable": "yes"}, "deferrable must be True or False, not 'yes'"),
        ({"follow_logs": 1}, "follow_logs must be True or False, not 1"),
        ({"timeout": 366 * 24 * 3600}, r"31536000 seconds \(a year\) at most"),
        ({"timeout": float("inf")}, "a year"),
        ({"poke_interval": 1e300}, "a year"),
        ({"poke_interval": 366 * 24 * 3600}, "a year"),
        ({"mode": "deferred"}, "mode must be one of"),
    ],
)
def test_wrong_argument_raises_at_parse(arguments, says):
    with pytest.raises(Exception, match=says):
        sensor(**arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"deferrable": "yes"}, "deferrable must be True or False"),
        ({"kernel_conn_id": ""}, "kernel_conn_id is empty"),
    ],
)
def test_wrong_argument_of_partial_raises_at_parse(arguments, says):
    with DAG("d", schedule=None), pytest.raises(ValueError, match=says):
        KernelInvocationSensor.partial(task_id="wait", **arguments).expand(invocation_id=["a", "b"])


@pytest.mark.filterwarnings("ignore:.*never mapped")
@pytest.mark.parametrize("value", ["", None, 7, "a\0b"])
def test_wrong_literal_item_of_expand_raises_at_parse(value):
    with (
        DAG("d", schedule=None),
        pytest.raises(ValueError, match="Item 1 of the expanded arguments: invocation_id"),
    ):
        KernelInvocationSensor.partial(task_id="wait").expand(invocation_id=["a", value])


def test_valid_arguments_are_accepted():
    with DAG("d", schedule=None, default_args={"poke_interval": 7, "soft_fail": True}):
        start = KernelInvokeOperator(
            task_id="start", app_name="shop", action_name="price", wait_for_completion=False
        )
        waiting = sensor(invocation_id=start.output, timeout=timedelta(hours=1))
        templated = sensor(
            task_id="other", invocation_id="{{ params.id }}", deferrable=False, mode="reschedule"
        )
    assert waiting.upstream_task_ids == {"start"}
    assert (waiting.poke_interval, waiting.timeout, waiting.soft_fail) == (7, 3600, True)
    assert (templated.mode, templated.deferrable) == ("reschedule", False)


def test_callable_is_called_by_airflow_at_run_time():
    def build(context, jinja_env):
        return f"inv-{context['ds']}"

    with DAG("d", schedule=None):
        KernelInvocationSensor.partial(task_id="mapped", kernel_conn_id=build).expand(
            invocation_id=["a", build]
        )
        waiting = sensor(invocation_id=partial(build), kernel_conn_id=build)
    waiting.render_template_fields({"ds": "2026"})
    assert (waiting.invocation_id, waiting.kernel_conn_id) == ("inv-2026", "inv-2026")


def test_sensor_can_be_mapped():
    with DAG("d", schedule=None):
        mapped = KernelInvocationSensor.partial(task_id="wait").expand(invocation_id=["a", "b"])
    assert mapped.operator_class is KernelInvocationSensor
