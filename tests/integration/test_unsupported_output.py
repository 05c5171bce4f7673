"""Outputs that Airflow cannot store as XCom, or that have the names of a task's own XComs."""

from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException

from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.links.kernel import KernelInvocationLink
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from tests.integration.task import Task

pytestmark = pytest.mark.usefixtures("emulator_env")

three_ways = pytest.mark.parametrize(
    "wait", [{}, {"deferrable": False}, {"async_": False}], ids=["deferred", "on the worker", "in one call"]
)
TOO_LARGE = '{"wei": [1, 1180591620717411303424]}'


def decoding(text, **arguments):
    """Return a task whose output is ``text``."""
    return Task("decode", json.dumps(text), **arguments)


@three_ways
def test_number_beyond_64_bits_fails_without_retry_and_stays_readable_at_kernel(wait):
    task = decoding(TOO_LARGE, retries=2, **wait)
    with pytest.raises(AirflowFailException) as failed:
        task.run()
    said = str(failed.value)
    assert f"Kernel invocation {task.invocation_id} succeeded, but Airflow cannot store its output" in said
    assert "output['wei'][1] is a number beyond 64 bits. Have the action return it as a string." in said
    assert "118059" not in said
    with KernelHook() as hook:  # as the message says
        assert f"KernelHook('kernel_default').get_invocation({task.invocation_id!r}).output" in said
        assert hook.get_invocation(task.invocation_id).output == json.loads(TOO_LARGE)


@three_ways
def test_nul_is_replaced_with_a_warning(wait, told):
    task = decoding(r'{"pa\u0000ge": ["Foo\u0000bar"]}', **wait)
    assert task.run() == {"pa?ge": ["Foo?bar"]}
    assert (
        f"output of Kernel invocation {task.invocation_id} has characters that Airflow cannot store" in told()
    )


def test_output_without_xcom_push_is_not_checked():
    assert decoding(TOO_LARGE, do_xcom_push=False).run() == json.loads(TOO_LARGE)


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("deferrable", [True, False])
def test_result_beyond_max_response_mb_fails_without_retry_and_is_returned_after_a_clear(
    emulator_env, monkeypatch, deferrable, retries
):
    usual = json.loads(emulator_env.connection_json)
    limited = {**usual, "extra": {**usual.get("extra", {}), "max_response_mb": 1}}
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", json.dumps(limited))
    payload = {"text": "x" * 600_000}  # the reply has the output, too
    task = Task("echo", payload, retries=retries, deferrable=deferrable)
    with pytest.raises(AirflowFailException) as failed:
        task.run()
    said = str(failed.value)
    assert f"The result of Kernel invocation {task.invocation_id} could not be read" in said
    assert "set the extra 'max_response_mb'" in said
    assert "could not be cancelled" not in said
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", emulator_env.connection_json)
    invocation_id = task.invocation_id
    assert task.clear().run() == payload
    assert task.invocation_id == invocation_id  # it did not run again


class TestMultipleOutputs:
    def test_entries_named_like_the_tasks_own_xcoms_are_left_out_with_a_warning(self, told):
        names = ["invocation_id", "app_version", KernelInvocationLink.key, "return_value", "skipmixin_key"]
        task = decoding(
            json.dumps({"price": 1, **dict.fromkeys(names, "javascript:alert(1)")}), multiple_outputs=True
        )
        assert task.run() == {"price": 1}
        assert f"entries named {', '.join(sorted(names))}, like this task's own XComs" in told()

    @pytest.mark.parametrize("text", ["[1]", '"a"', "1", "true"])
    def test_output_that_is_not_an_object_fails_without_retry(self, text):
        with pytest.raises(
            AirflowFailException, match="with multiple_outputs it must be an object, and it is"
        ):
            decoding(text, multiple_outputs=True, retries=2).run()

    def test_missing_output_is_no_xcom(self):
        assert decoding("null", multiple_outputs=True).run() is None

    def test_unsupported_key_fails_without_retry(self):
        with pytest.raises(AirflowFailException, match=r"output\['a\?b'\] cannot"):
            decoding('{"a?b": 1}', multiple_outputs=True, retries=2).run()


class TestMapping:
    """Tasks that are mapped over the output."""

    @pytest.fixture(autouse=True)
    def mapped_over(self, monkeypatch):
        def mapped_over(text, **arguments):
            task = decoding(text, retries=2, **arguments)
            with DAG("shop", schedule=None):
                task.operator = task.make()
                KernelInvokeOperator.partial(task_id="each", app_name="tests", action_name="echo").expand(
                    payload=task.operator.output
                )
            return task

        return mapped_over

    @pytest.mark.parametrize("text", ["[1, 2]", '{"a": 1}', "[]"])
    def test_list_or_object_passes(self, mapped_over, text):
        assert mapped_over(text).run() == json.loads(text)

    @pytest.mark.parametrize(("text", "kind"), [("null", "null"), ('"ab"', "a string"), ("7", "a number")])
    def test_other_output_fails_without_retry(self, mapped_over, text, kind):
        with pytest.raises(AirflowFailException, match=f"a task is mapped over it, and it is {kind}"):
            mapped_over(text).run()

    def test_more_entries_than_max_map_length_fail_without_retry(self, mapped_over, monkeypatch):
        monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")
        with pytest.raises(AirflowFailException, match=r"3 entries, and \[core\] max_map_length is 2"):
            mapped_over("[1, 2, 3]").run()

    def test_task_that_is_itself_mapped_may_return_any_output(self, mapped_over):
        assert mapped_over("7", map_index=0).run() == 7
