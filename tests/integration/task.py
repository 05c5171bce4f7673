"""
A task instance over its tries, in this process: what Airflow does around the operator, played.

The trigger is made anew from its serialized arguments between the legs, and its event passed on as JSON; the task
state store keeps JSON over the tries, and refuses a try that another has superseded. What happens to processes,
and what Airflow really does, is in the system tests.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from tests.system.stepped import stage_of

both_waits = pytest.mark.parametrize("deferrable", [True, False], ids=["deferred", "on the worker"])


class Died(BaseException):
    """The worker was killed here: nothing of it goes on."""


class StoreError(Exception):
    """As Airflow's own, which is known by its ``error.detail`` alone."""

    def __init__(self, status_code: int) -> None:
        super().__init__("API_SERVER_ERROR")
        self.error = SimpleNamespace(detail={"status_code": status_code})


class Store:
    """The task state store as one try sees it."""

    def __init__(self, task: Task, ti: TaskInstance) -> None:
        self.task, self.ti = task, ti

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.task.stored.get(key, "null")) or default

    def set(self, key: str, value: Any) -> None:
        stage = stage_of(value)
        self.task.reach(f"before:{stage}")
        self._refuse_if_superseded()
        self.task.stored[key] = json.dumps(value)
        self.task.reach(f"after:{stage}")

    def delete(self, key: str) -> None:
        self._refuse_if_superseded()
        if self.task.fails_to_delete:
            self.task.fails_to_delete -= 1
            raise StoreError(500)
        self.task.stored.pop(key, None)

    def _refuse_if_superseded(self) -> None:
        if self.task.ti is not self.ti:
            raise StoreError(404)


class TaskInstance:
    """One try."""

    def __init__(self, task: Task, try_number: int, max_tries: int, map_index: int) -> None:
        self._of = task
        self.id = uuid4()
        self.dag_id, self.run_id, self.task_id = "shop", "manual__2026-11-24", "t"
        self.map_index = map_index
        self.try_number, self.max_tries = try_number, max_tries
        self.start_date = datetime.now(UTC)

    def xcom_push(self, key: str, value: Any) -> None:
        self._of.xcom[key] = value

    def xcom_pull(self, task_ids: str, key: str, map_indexes: int) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self._of.xcom.get(key)

    def get_task_states(self, dag_id: str, task_ids: Any, run_ids: Any, map_index: int) -> Any:
        assert (dag_id, task_ids, run_ids, map_index) == (
            self.dag_id,
            [self.task_id],
            [self.run_id],
            self.map_index,
        )
        return {self.run_id: {self.task_id: self._of.state}}


class Task:
    """
    A task of an action of the app ``tests``.

    :param retries: how often Airflow runs it again when it fails.
    :param map_index: its number, if it is mapped.
    :param kwargs: of the operator.
    """

    def __init__(
        self, action_name: str = "echo", payload: Any = None, *, map_index: int = -1, **kwargs: Any
    ) -> None:
        self.arguments = {"task_id": "t", "app_name": "tests", "action_name": action_name, "payload": payload}
        self.arguments |= {"defer_after": 0, **kwargs}
        self.map_index = map_index
        self.retries = kwargs.get("retries", 0)
        self.stored: dict[str, str] = {}
        self.steps: dict[str, Callable[[], Any]] = {}
        self.state = "running"
        self.fails_to_delete = 0
        self._begin(1, self.retries)

    def make(self) -> KernelInvokeOperator:
        """Make the operator, as every process does."""
        return KernelInvokeOperator(**self.arguments)

    def _begin(self, try_number: int, max_tries: int) -> None:
        self.operator = self.make()
        self.xcom: dict[str, Any] = {}
        self.ti = TaskInstance(self, try_number, max_tries, self.map_index)
        self.context: Any = {"ti": self.ti, "task_state_store": Store(self, self.ti)}
        self.event: Any = None
        self.deferred = False

    def retry(self) -> Task:
        """Begin the next try, as Airflow does after a crash or a failure."""
        self._begin(self.ti.try_number + 1, self.ti.max_tries)
        return self

    def clear(self) -> Task:
        """Begin the next try, as a user's clear does."""
        self._begin(self.ti.try_number + 1, self.ti.try_number + self.retries)
        return self

    def at(self, step: str, do: Callable[[], Any]) -> None:
        """Do something, once, before or after a record is stored: ``before:intent``, ``after:ended`` and so on."""
        self.steps[step] = do

    def die_at(self, step: str) -> None:
        """Have the worker die at that step."""

        def die() -> None:
            self.operator.cancel_on_kill = False  # or Died would cancel the invocation, as Ctrl-C does
            raise Died

        self.at(step, die)

    def run_until_it_dies_at(self, step: str) -> None:
        """Run the try, whose worker dies at that step."""
        self.die_at(step)
        with pytest.raises(Died):
            self.run()

    @contextmanager
    def killed(self, state: str = "running", when: Callable[[], Any] | None = None) -> Iterator[None]:
        """
        Have Airflow kill the process meanwhile.

        :param state: that Airflow has the task in by then; ``running``: nobody wants it to end.
        :param when: at which moment; default: as soon as the task knows its invocation.
        """

        def kill() -> None:
            self.state = state
            self.operator.on_kill()

        with signalled(when or (lambda: "invocation_id" in self.xcom), kill):
            yield

    def reach(self, step: str) -> None:
        self.steps.pop(step, lambda: None)()

    def change_record(self, **fields: Any) -> None:
        """Have the record say something else."""
        self.stored["kernel_invocation"] = json.dumps({**(self.record or {}), **fields})

    @property
    def record(self) -> dict[str, Any] | None:
        """What is stored for the next try."""
        found: dict[str, Any] | None = json.loads(self.stored.get("kernel_invocation", "null"))
        return found

    @property
    def invocation_id(self) -> str:
        found: str = self.xcom["invocation_id"]
        return found

    @property
    def found(self) -> Any:
        """The invocation, as Kernel has it."""
        with KernelHook() as hook:
            return hook.get_invocation(self.invocation_id)

    def run(self) -> Any:
        """Run the try through all its legs."""
        return self.legs(lambda: self.operator.execute(self.context))

    def defer(self) -> TaskDeferred:
        """Run the first leg, which must end in a deferral; return that."""
        try:
            self.operator.execute(self.context)
        except TaskDeferred as deferral:
            return deferral
        raise AssertionError("the task did not defer")

    def legs(self, leg: Callable[[], Any]) -> Any:
        """Run one leg, and all that follow."""
        while True:
            try:
                return leg()
            except TaskDeferred as deferral:
                self.deferred = True
                leg = self.resume(deferral)

    def resume(self, deferral: TaskDeferred) -> Callable[[], Any]:
        """Run the trigger of a deferral; return the leg that follows its event."""
        self.event = json.loads(json.dumps(asyncio.run(first_event(again(deferral.trigger, self.ti)))))
        arguments = {**(deferral.kwargs or {}), "event": self.event}
        return lambda: self.operator.resume_execution(deferral.method_name, arguments, self.context)


@contextmanager
def signalled(when: Callable[[], Any], do: Callable[[], None]) -> Iterator[None]:
    """Call ``do()`` once, as soon as ``when()`` is true, in a signal handler, as Airflow does."""

    def handler(*_: Any) -> None:
        if when():
            signal.setitimer(signal.ITIMER_REAL, 0)
            do()

    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def again(trigger: Any, ti: Any = None) -> Any:
    """Make the trigger anew, as another process does."""
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    made = getattr(import_module(module), name)(**json.loads(json.dumps(arguments)))
    made.task_instance = ti
    return made


async def first_event(trigger: Any) -> Any:
    """Return the event of a trigger that fires once."""
    [event] = [event async for event in trigger.run()]
    return event.payload


async def started(trigger: Any) -> asyncio.Task[Any]:
    """Run the trigger in an asyncio task; return that once the app's first line has come."""
    logged = asyncio.Event()
    trigger._write = lambda record: logged.set()
    run = asyncio.create_task(first_event(trigger))
    await asyncio.wait_for(logged.wait(), 10)
    return run


def tell_states(mocker: Any, ti: Any, get_task_states: Callable[..., Any]) -> None:
    """Have Airflow tell a trigger of the task instance ``ti`` what ``get_task_states`` returns or raises."""
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:  # Airflow 2, where a trigger reads the database

        def refresh_from_db() -> None:
            found = get_task_states(
                dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
            )
            ti.state = next(iter(found[ti.run_id].values()))

        ti.refresh_from_db = refresh_from_db
    else:
        mocker.patch.object(RuntimeTaskInstance, "get_task_states", get_task_states)
