"""
The table of the operator's options: what each does, it does in the deferred wait and in the one on the worker.

A row is an option, what the task runs, and what comes of it: one expectation for both waits. An option
that has no row, and is none of those that only say what is submitted, fails the last test.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any
from unittest.mock import ANY

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_kernel.api.errors import (
    KernelCapacityTimeoutError,
    KernelError,
    KernelInvocationFailedError,
    KernelInvocationTimeoutError,
)
from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.testing import KernelEmulator
from tests import faults
from tests.faulty import Fault, FaultyProxy
from tests.integration.conftest import APP
from tests.integration.task import Task, again, both_waits, started, tell_states

POST = "POST /invocations"
LOOK = "GET /invocations/{id}"
STREAM = "GET /invocations/{id}/events"

ANEW = r"A retry of the task runs the action again\."
LATE = rf"Kernel invocation ID had not ended by its deadline\. It was cancelled\. {ANEW}"


@pytest.fixture(scope="module")
def emulator() -> Iterator[KernelEmulator]:
    """One of this module's own: other tests' invocations without payload could be taken for one whose reply was lost."""
    with KernelEmulator([APP], heartbeat=0.5) as emulator:
        yield emulator


def killed(task: Task) -> None:
    """Run the task until a user kills it, as soon as its invocation is known."""
    if task.operator.deferrable:
        asyncio.run(_killed_in_the_triggerer(task))
    else:
        with task.killed("failed"), suppress(KernelError):
            task.run()


async def _killed_in_the_triggerer(task: Task) -> None:
    trigger = again(task.defer().trigger, task.ti)
    task.deferred = True
    running = await started(trigger)
    task.state = "failed"
    running.cancel()
    await asyncio.wait([running])
    await trigger.on_kill()


@dataclass(frozen=True)
class Row:
    """
    :param option: what the row is about: a parameter of the operator, or what else both waits do alike.
    :param ways: what goes wrong on the way: route, fault, how often (None: always).
    :param run: how the task is run.
    :param also: what else is to hold of the requests.
    :param result: what the task returns; "ID" stands for the invocation's id, here and in ``says``.
    :param error: what it raises, with a message that ``says`` describes.
    :param lines: what of the app's log is in the task's log.
    :param status: of the invocation, in the end; None if there is none.
    :param accepted: how many invocations Kernel accepted.
    :param defers: False where there is nothing to wait for.
    :param leaves_record: whether a later try would find what this one did.
    """

    option: str
    action: str = "echo"
    payload: Any = None
    arguments: dict[str, Any] = field(default_factory=dict)
    ways: tuple[tuple[str, Fault, int | None], ...] = ()
    run: Callable[[Task], Any] = Task.run
    also: Callable[[FaultyProxy], bool] = lambda proxy: True
    result: Any = None
    error: type[Exception] | None = None
    says: str = ""
    lines: list[str] | None = None
    status: str | None = "succeeded"
    accepted: int = 1
    defers: bool = True
    leaves_record: bool = True

    def __str__(self) -> str:
        arguments = [f"{name}={value!r}" for name, value in self.arguments.items()]
        return " ".join([self.option, self.action, *arguments])


def failing(action: str, payload: Any, says: str, **kwargs: Any) -> Row:
    row = {
        "option": "the reason of a failure",
        "error": KernelInvocationFailedError,
        "status": "failed",
        **kwargs,
    }
    return Row(action=action, payload=payload, says=says, **row)


def looks_apart(shortest: float, longest: float, at_least: int) -> Callable[[FaultyProxy], bool]:
    """Tell whether the looks before the end came so many seconds after one another."""

    def are_apart(proxy: FaultyProxy) -> bool:
        times = [look.at for look in proxy.seen(LOOK)[: at_least + 1]]
        return len(times) > at_least and all(shortest <= b - a < longest for a, b in pairwise(times))

    return are_apart


SLEEPING = {"action": "sleep", "payload": {"seconds": 60}}
LATE_END = {
    "error": KernelInvocationTimeoutError,
    "says": LATE,
    "status": "failed",
    "also": lambda proxy: b"deadline" in proxy.seen("PATCH /invocations/{id}")[0].body,
}
NO_STREAM = ((STREAM, faults.answer(503), None),)
KEY = {"key": ANY, "dag_id": "shop", "run_id": "manual__2026-11-24", "task_id": "t", "map_index": -1}
REFUSED = ((POST, faults.answer(429), None),)
LOST = ((POST, faults.drop_request(), 1),)
OUTPUTS = [{}, [], "null", 0, 1.5, True, {"a": [1, {"b": None}]}, {"text": "čaj ☕ \u0001"}, "[1, 2]"]

ROWS = [
    *(
        Row("the output", payload=value, result=json.loads(value) if isinstance(value, str) else value)
        for value in OUTPUTS
    ),
    failing(
        "fail",
        {"message": "no such sku"},
        rf"Kernel invocation ID failed: The action raised an exception\. {ANEW}\nIts output: ValueError: no such sku",
    ),
    failing("fail", {"message": "x" * 100_000}, r".{1000,2300}"),
    failing("exit", {"code": 3}, rf"Kernel invocation ID failed: .+ {ANEW}.*"),
    failing("segfault", None, rf"Kernel invocation ID failed: .+ {ANEW}.*"),
    Row("timeout", **SLEEPING, arguments={"timeout": 0.5}, **LATE_END),
    Row("timeout", payload=1, arguments={"timeout": 60}, result=1),
    Row("execution_timeout", **SLEEPING, arguments={"execution_timeout": timedelta(seconds=0.5)}, **LATE_END),
    failing(
        "sleep",
        {"seconds": 60},
        rf"Kernel invocation ID failed: .*time.* {ANEW}.*",
        option="async_timeout_seconds",
        arguments={"async_timeout_seconds": 10},
    ),
    Row(
        "wait_for_completion",
        **SLEEPING,
        arguments={"wait_for_completion": False},
        result="ID",
        status="running",
        defers=False,
    ),
    Row("async_", payload={"a": 1}, arguments={"async_": False}, result={"a": 1}, defers=False),
    failing(
        "fail",
        {"message": "out of stock"},
        r".*out of stock.*",
        option="async_",
        arguments={"async_": False},
        defers=False,
    ),
    Row("follow_logs", "logs", {"n": 3}, result=3, lines=["line 0", "line 1", "line 2"]),
    Row("follow_logs", "logs", {"n": 3}, {"follow_logs": False}, result=3, lines=[]),
    Row(
        "poll_interval",
        "sleep",
        {"seconds": 2},
        {"poll_interval": 0.2},
        NO_STREAM,
        also=looks_apart(0.1, 1.0, at_least=3),
        result=2,
    ),
    Row(
        "poll_interval",
        "sleep",
        {"seconds": 1},
        {"poll_interval": 30},
        NO_STREAM,
        also=looks_apart(0.5, 5.0, at_least=1),
        result=1,
    ),
    Row("durable", payload=1, result=1, arguments={"durable": True}),
    Row("durable", payload=1, result=1, arguments={"durable": False}, leaves_record=False),
    Row(
        "metadata_field",
        payload={"a": 1},
        arguments={"metadata_field": "airflow"},
        result={"a": 1, "airflow": KEY},
    ),
    Row(
        "on_lost_reply",
        payload={},
        ways=LOST,
        arguments={"on_lost_reply": "fail", "metadata_field": "airflow"},
        error=AirflowFailException,
        says=r".*on_lost_reply.*",
        status=None,
        accepted=0,
        defers=False,
    ),
    Row(
        "on_lost_reply",
        payload={},
        ways=LOST,
        arguments={"on_lost_reply": "resubmit", "metadata_field": "airflow"},
        result={"airflow": KEY},
    ),
    Row("defer_after", payload=1, arguments={"defer_after": 600}, result=1, defers=False),
    Row("cancel_on_kill", **SLEEPING, run=killed, status="failed", arguments={"cancel_on_kill": True}),
    Row("cancel_on_kill", **SLEEPING, run=killed, status="running", arguments={"cancel_on_kill": False}),
    Row(
        "capacity_timeout",
        ways=REFUSED,
        arguments={"capacity_timeout": 0},
        error=KernelCapacityTimeoutError,
        says=r"Kernel's account is full, .*No invocation was started.*",
        status=None,
        accepted=0,
        defers=False,
        leaves_record=False,
    ),
]


@both_waits
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_option_has_the_same_effect_in_both_waits(row, deferrable, proxy, told, mocker):
    task = Task(row.action, row.payload, deferrable=deferrable, **row.arguments)
    tell_states(mocker, task.ti, task.ti.get_task_states)
    for route, fault, times in row.ways:
        proxy.on(route, fault, times=times)

    if row.error:
        with pytest.raises(row.error) as caught:
            row.run(task)
        said = str(caught.value).replace(task.xcom.get("invocation_id", "ID"), "ID")
        assert re.fullmatch(row.says, said, re.DOTALL), said
    else:
        result = row.run(task)
        assert ("ID" if result == task.xcom.get("invocation_id") else result) == row.result

    assert task.deferred is (deferrable and row.defers)
    assert len(proxy.accepted) == row.accepted
    assert (task.record is not None) is row.leaves_record
    assert row.also(proxy)
    if row.lines is not None:
        assert re.findall(r"\[app\] (line \d)", told()) == row.lines
    found = task.found if task.xcom else None
    assert (found and found.status.replace("queued", "running")) == row.status
    if found and found.is_active:
        with KernelHook() as hook:
            hook.cancel_invocation(found.id)


def test_table_contains_every_option():
    what_is_submitted = {"app_name", "action_name", "payload", "version", "kernel_conn_id"}
    options = set(inspect.signature(KernelInvokeOperator.__init__).parameters) - {"self", "kwargs"}
    assert options - what_is_submitted - {"deferrable"} <= {row.option for row in ROWS}
