"""@task.kernel when the Dag is parsed: the task that it creates, and the arguments that it refuses."""

from __future__ import annotations

import inspect

import pytest
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_kernel.decorators.kernel import kernel_task
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

NAMES = {"app_name": "shop", "action_name": "price"}
OPERATORS = inspect.signature(KernelInvokeOperator).parameters
#: The parameters that kernel_task shares with the operator.
SHARED = [name for name in OPERATORS if name not in ("payload", "kwargs")]


def made(dag_arguments=None, **arguments):
    """Return the operator of a decorated function."""
    with DAG("d", schedule=None, default_args=dag_arguments or {}):

        @task.kernel(**arguments)
        def price(sku, ds=None) -> dict:
            return {"sku": sku, "day": ds}

        return price("A-100").operator


def test_task_kernel_is_kernel_task():
    assert task.kernel is kernel_task


def test_kernel_task_has_the_operators_parameters_and_types():
    ours = inspect.signature(kernel_task).parameters
    assert list(ours) == ["python_callable", *SHARED, "multiple_outputs", "kwargs"]
    assert all(ours[name].annotation == OPERATORS[name].annotation for name in SHARED)


def test_decorated_task_is_the_operator_with_its_parameters_and_defaults():
    operator = made(**NAMES, deferrable=False, retries=2, metadata_field="airflow", poll_interval=5)
    assert isinstance(operator, KernelInvokeOperator)
    assert (operator.task_id, operator.app_name, operator.retries) == ("price", "shop", 2)
    assert (operator.deferrable, operator.poll_interval, operator.metadata_field) == (False, 5, "airflow")
    plain = KernelInvokeOperator(task_id="t", **NAMES)
    untold = made(**NAMES)
    assert [getattr(untold, name) for name in SHARED] == [getattr(plain, name) for name in SHARED]


def test_default_args_set_arguments_that_are_left_out():
    operator = made({**NAMES, "kernel_conn_id": "kernel_test"}, version="2.0")
    assert (operator.app_name, operator.kernel_conn_id, operator.version) == ("shop", "kernel_test", "2.0")


def test_function_is_not_called_at_parse():
    with DAG("d", schedule=None):

        @task.kernel(**NAMES)
        def price():
            raise AssertionError

        price()


def test_return_annotation_does_not_set_multiple_outputs():
    assert not made(**NAMES).multiple_outputs
    assert made(**NAMES, multiple_outputs=True).multiple_outputs


def test_callable_is_called_by_airflow_at_run_time():
    def name(context, jinja_env):
        return context["ds"]

    operator = made(app_name=name, action_name="price", version=name)
    operator.render_template_fields({"ds": "2026"})
    assert (operator.app_name, operator.version) == ("2026", "2026")


def test_function_that_returns_none_makes_a_request_without_payload():
    with DAG("d", schedule=None):

        @task.kernel(**NAMES)
        def price():
            return None

        operator = price().operator
    assert operator.request({}).payload is None


def test_functions_result_is_not_templated():
    assert "payload" not in made(**NAMES).template_fields
    assert {"op_args", "op_kwargs", "app_name", "kernel_conn_id"} <= set(made(**NAMES).template_fields)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"payload": {"sku": 1}}, "Leave payload out, and return it"),
        ({"app_name": ""}, "app_name is empty"),
        ({"async_timeout_seconds": 9}, "outside Kernel's range"),
        ({"metadata_field": ""}, "metadata_field is empty"),
        ({"on_lost_reply": "again"}, "'fail' or 'resubmit'"),
        ({"async_": False, "wait_for_completion": False}, "Leave one of the two out"),
        (
            {"multiple_outputs": True, "wait_for_completion": False},
            "multiple_outputs=True splits the output",
        ),
    ],
)
def test_wrong_argument_raises_at_parse(arguments, says):
    with pytest.raises(ValueError, match=says):

        @task.kernel(**{**NAMES, **arguments})
        def price():
            return {}


def test_wrong_default_args_raise_at_parse():
    with pytest.raises(ValueError, match="capacity_timeout must be seconds, as a number from 0 to"):
        made({"capacity_timeout": -1}, **NAMES)


def test_decorating_another_kind_of_function_raises_at_parse():
    async def later():
        return {}

    def one_by_one():
        yield {}

    async def both():
        yield {}

    for function in (later, one_by_one, both):
        with pytest.raises(TypeError, match=r"needs a plain function.*Write 'def' and 'return'"):
            task.kernel(**NAMES)(function)
    with pytest.raises(TypeError, match="takes keyword arguments only"):
        task.kernel("shop", **NAMES)


def test_function_argument_that_the_database_cannot_store_raises_at_parse():
    with DAG("d", schedule=None):

        @task.kernel(**NAMES)
        def price(sku="", other="", day=None):
            return {}

        @task
        def days():
            return ["a"]

        with pytest.raises(ValueError, match=r"op_kwargs\['sku'\] holds a NUL"):
            price.partial(sku="\0").expand(day=["a", "b"])
        with pytest.raises(ValueError, match=r"^op_kwargs\['sku'\] holds a NUL"):
            price.partial(sku="\0").expand(day=days())
        with pytest.raises(ValueError, match=r"^app_name is empty"):
            price.override(app_name="").expand(day=days())
        with pytest.raises(ValueError, match=r"op_args\[1\] holds a NUL"):
            price("a", "b\0")
        with pytest.raises(ValueError, match=r"op_kwargs\['day'\]\[0\] holds a NUL"):
            price(day=["\0"])
        with pytest.raises(
            ValueError, match=r"Item 1 of the expanded arguments: op_kwargs\['day'\] holds a NUL"
        ):
            price.override(task_id="other").expand(day=["a", "b\0"])
        with pytest.raises(
            ValueError, match=r"Item 0 of the expanded arguments: op_kwargs\['day'\] holds a NUL"
        ):
            price.expand_kwargs([{"day": "\0"}])


def test_function_can_be_mapped_and_its_task_renamed():
    with DAG("d", schedule=None):

        @task
        def skus():
            return ["a", "b"]

        @task.kernel(**NAMES, map_index_template="{{ task.op_kwargs['sku'] }}")
        def price(sku, day):
            return {"sku": sku, "day": day}

        mapped = price.override(task_id="prices").partial(day="{{ ds }}").expand(sku=skus()).operator
    assert mapped.task_id == "prices"
    assert mapped.upstream_task_ids == {"skus"}
