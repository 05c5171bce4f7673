"""@task.kernel over its attempts and deferrals, against the emulator, through a faulty proxy."""

from __future__ import annotations

import inspect
import itertools
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_kernel.capacity import queue as capacity_queue
from airflow_provider_kernel.decorators.kernel import kernel_task
from airflow_provider_kernel.hooks.kernel import KernelHook
from tests import faults
from tests.integration.task import Task, both_waits

pytestmark = pytest.mark.usefixtures("proxy")

POST = "POST /invocations"


class Decorated(Task):
    """A task whose payload a function makes; ``calls`` holds what each call returned or raised."""

    def __init__(self, function, op_args=(), op_kwargs=None, **kwargs):
        self.calls = []

        def counted(*args, **kwargs):
            try:
                self.calls.append(function(*args, **kwargs))
            except Exception as error:
                self.calls.append(error)
                raise
            return self.calls[-1]

        counted.__signature__ = inspect.signature(function)
        self.counted, self.op_args, self.op_kwargs = counted, op_args, op_kwargs or {}
        super().__init__(**kwargs)

    def make(self):
        arguments = {name: value for name, value in self.arguments.items() if name != "payload"}
        return kernel_task(**arguments)(self.counted)(*self.op_args, **self.op_kwargs).operator


def unlike(*_, **__):
    """Return another payload at each call."""
    return {"test": uuid4().hex}


@both_waits
def test_functions_result_is_the_payload_and_the_output_is_the_tasks_result(deferrable):
    task = Decorated(
        lambda sku, day=None: {"sku": sku, "day": day, "text": "{{ ds }}"},
        ["a"],
        {"day": 3},
        deferrable=deferrable,
    )
    assert task.run() == {"sku": "a", "day": 3, "text": "{{ ds }}"}
    assert task.deferred is deferrable


def test_function_gets_the_context_it_names():
    task = Decorated(lambda sku, run_id=None, **context: [sku, run_id, "ti" in context], op_kwargs={"sku": 1})
    task.context["run_id"] = "manual"
    assert task.run() == [1, "manual", True]


@both_waits
def test_function_is_called_once_and_not_after_the_deferral(deferrable):
    task = Decorated(unlike, deferrable=deferrable)
    assert task.run() == task.calls[0]
    assert len(task.calls) == 1


@pytest.mark.parametrize("step", ["after:accepted", "before:deferred", "before:ended"])
def test_retry_reattaches_without_calling_the_function(proxy, step, told):
    task = Decorated(unlike, retries=1)
    task.run_until_it_dies_at(step)
    assert task.retry().run() == task.calls[0]
    assert (len(task.calls), len(proxy.accepted)) == (1, 1)
    assert "arguments have changed" not in told()


def test_retry_reattaches_although_the_function_would_fail(proxy):
    results = iter([{"test": uuid4().hex}])
    task = Decorated(lambda: next(results), retries=1)
    task.run_until_it_dies_at("after:accepted")
    assert task.retry().run() == task.calls[0]


@pytest.mark.parametrize("metadata_field", [None, "key"])
def test_lost_reply_is_looked_up_by_the_mark_without_calling_the_function(proxy, metadata_field):
    """The worker dies after Kernel accepted and before it knew that."""
    task = Decorated(unlike, retries=1, metadata_field=metadata_field)
    task.run_until_it_dies_at("before:accepted")
    result = task.retry().run()
    assert result["test"] == task.calls[0]["test"]
    assert (len(task.calls), len(proxy.accepted)) == (1, 1)


def test_clear_calls_the_function_and_runs_the_action_again(proxy):
    task = Decorated(unlike)
    first, second = task.run(), task.clear().run()
    assert [first, second] == task.calls
    assert len(proxy.accepted) == 2


def test_retry_after_a_failure_calls_the_function_again(proxy):
    numbers = itertools.count()
    task = Decorated(lambda: {"message": f"no {next(numbers)}"}, action_name="fail", retries=1)
    for number in range(2):
        with pytest.raises(Exception, match=f"no {number}"):
            task.run()
        task.retry()
    assert len(proxy.accepted) == 2


def test_payload_is_made_again_after_the_wait_for_capacity(proxy, monkeypatch):
    monkeypatch.setattr(capacity_queue, "MIN_PAUSE", 0.01)
    proxy.on(POST, faults.answer(429), times=1)
    task = Decorated(unlike)
    assert task.run() == task.calls[-1]
    assert len(proxy.accepted) == 1


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ({1, 2}, r"payload is a set.*list\(…\)"),
        ("not json", "payload is a string that is not JSON text"),
        ({"when": object()}, r"payload\['when'\] is a object"),
        ([1], "metadata_field adds a field to the payload, so the payload must be a dict"),
        (None, "must be a dict .* not missing"),
        ({"key": 1}, "already has the field 'key'"),
    ],
)
def test_wrong_result_of_the_function_fails_without_retry(proxy, returned, says, retries):
    task = Decorated(lambda: returned, metadata_field="key", retries=retries)
    with pytest.raises(AirflowFailException, match=says):
        task.run()
    assert proxy.accepted == []
    assert task.record is None


def test_function_that_returns_none_sends_no_payload():
    assert Decorated(lambda: None, action_name="no_payload").run()["invocation_id"]


@pytest.mark.parametrize(
    "error", [AirflowSkipException("nothing to do"), ValueError("no stock"), KeyError("sku")]
)
def test_exception_of_the_function_ends_the_task(proxy, error):
    def refuse():
        raise error

    task = Decorated(refuse, retries=1)
    with pytest.raises(type(error)) as raised:
        task.run()
    assert raised.value is error
    assert proxy.accepted == []
    assert task.record is None


@pytest.mark.parametrize("status", [404, 429])
def test_kernel_error_in_the_function_is_not_taken_for_the_tasks_own(proxy, status):
    proxy.on("GET /invocations/{id}", faults.answer(status))

    def ask():
        with KernelHook() as kernel:
            return kernel.get_invocation("some")

    with pytest.raises(RuntimeError, match=f"The decorated function failed: .*{status}"):
        Decorated(ask, retries=1, deferrable=True).run()
    assert proxy.seen("POST /invocations") == []


def test_task_killed_while_its_function_runs_submits_nothing(proxy):
    task = Decorated(lambda: task.operator.on_kill() or {})
    task.state = "failed"
    with pytest.raises(Exception, match=r"killed\. No invocation was started"):
        task.run()
    assert proxy.accepted == []


def test_log_has_neither_payload_nor_output(told):
    assert Decorated(lambda: {"who": "canary-person"}).run() == {"who": "canary-person"}
    said = told()
    assert "succeeded" in said
    assert "canary-person" not in said


def test_metadata_field_is_added_to_the_functions_result():
    result = Decorated(lambda: {"sku": 1}, metadata_field="airflow").run()
    assert (result["sku"], result["airflow"]["task_id"]) == (1, "t")
