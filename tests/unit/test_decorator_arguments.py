"""What @task.kernel makes of a function when the Dag is parsed."""

from __future__ import annotations

import inspect

import pytest
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_kernel.decorators.kernel import kernel_task
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

NAMES = {"app_name": "shop", "action_name": "price"}
OPERATORS = inspect.signature(KernelInvokeOperator).parameters
#: The parameters that it shares with the operator.
SHARED = [name for name in OPERATORS if name not in ("payload", "kwargs")]


def made(dag_arguments=None, **arguments):
    """The operator of a decorated function."""
    with DAG("d", schedule=None, default_args=dag_arguments or {}):

        @task.kernel(**arguments)
        def price(sku, ds=None) -> dict:
            return {"sku": sku, "day": ds}

        return price("A-100").operator


def test_airflow_resolves_the_decorator_to_the_function_that_can_be_imported():
    assert task.kernel is kernel_task


def test_editors_see_the_operators_own_parameters_with_its_types():
    ours = inspect.signature(kernel_task).parameters
    assert list(ours) == ["python_callable", *SHARED, "multiple_outputs", "kwargs"]
    assert all(ours[name].annotation == OPERATORS[name].annotation for name in SHARED)


def test_it_is_the_operator_with_all_of_its_parameters_and_defaults():
    operator = made(**NAMES, deferrable=False, retries=2, metadata_field="airflow", poll_interval=5)
    assert isinstance(operator, KernelInvokeOperator)
    assert (operator.task_id, operator.app_name, operator.retries) == ("price", "shop", 2)
    assert (operator.deferrable, operator.poll_interval, operator.metadata_field) == (False, 5, "airflow")
    plain = KernelInvokeOperator(task_id="t", **NAMES)
    untold = made(**NAMES)
    assert [getattr(untold, name) for name in SHARED] == [getattr(plain, name) for name in SHARED]


def test_default_args_of_the_dag_reach_what_is_left_out():
    operator = made({**NAMES, "kernel_conn_id": "kernel_test"}, version="2.0")
    assert (operator.app_name, operator.kernel_conn_id, operator.version) == ("shop", "kernel_test", "2.0")


def test_the_function_is_not_called_when_the_dag_is_parsed():
    with DAG("d", schedule=None):

        @task.kernel(**NAMES)
        def price():
            raise AssertionError

        price()


def test_the_annotation_of_the_function_is_of_the_payload_and_does_not_split_the_output():
    assert not made(**NAMES).multiple_outputs
    assert made(**NAMES, multiple_outputs=True).multiple_outputs


def test_a_callable_is_left_for_airflow_to_call():
    def name(context, jinja_env):
        return context["ds"]

    operator = made(app_name=name, action_name="price", version=name)
    operator.render_template_fields({"ds": "2026"})
    assert (operator.app_name, operator.version) == ("2026", "2026")


def test_a_function_that_returns_none_asks_for_no_payload():
    with DAG("d", schedule=None):

        @task.kernel(**NAMES)
        def price():
            return None

        operator = price().operator
    assert operator.request({}).payload is None


def test_what_the_function_returns_is_no_template():
    assert "payload" not in made(**NAMES).template_fields
    assert {"op_args", "op_kwargs", "app_name", "kernel_conn_id"} <= set(made(**NAMES).template_fields)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"payload": {"sku": 1}}, "Leave payload= out, and return it"),
        ({"app_name": ""}, "app_name is empty"),
        ({"async_timeout_seconds": 9}, "outside Kernel's range"),
        ({"metadata_field": ""}, "metadata_field is empty"),
        ({"on_lost_reply": "again"}, "'fail' or 'resubmit'"),
        ({"async_": False, "wait_for_completion": False}, "Leave one of the two out"),
        (
            {"multiple_outputs": True, "wait_for_completion": False},
            "multiple_outputs=True takes the output apart",
        ),
    ],
)
def test_a_bad_argument_is_refused_when_the_dag_is_parsed_mapped_or_not(arguments, says):
    with pytest.raises(ValueError, match=says):

        @task.kernel(**{**NAMES, **arguments})
        def price():
            return {}


def test_bad_default_args_are_refused_when_the_dag_is_parsed():
    with pytest.raises(ValueError, match="capacity_timeout must be seconds"):
        made({"capacity_timeout": -1}, **NAMES)


def test_what_cannot_return_a_payload_is_refused_when_the_dag_is_parsed():
    async def later():
        return {}

    def one_by_one():
        yield {}

    async def both():
        yield {}

    for function in (later, one_by_one, both):
        with pytest.raises(TypeError, match=r"needs a plain function.*Write 'def' and 'return'"):
            task.kernel(**NAMES)(function)
    with pytest.raises(TypeError, match="takes named arguments only"):
        task.kernel("shop", **NAMES)


def test_an_argument_that_airflows_database_cannot_store_is_refused_when_the_dag_is_parsed():
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
        with pytest.raises(ValueError, match=r"Item 1 of what is expanded: op_kwargs\['day'\] holds a NUL"):
            price.override(task_id="other").expand(day=["a", "b\0"])
        with pytest.raises(ValueError, match=r"Item 0 of what is expanded: op_kwargs\['day'\] holds a NUL"):
            price.expand_kwargs([{"day": "\0"}])


def test_the_function_may_be_mapped_and_its_task_renamed():
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
