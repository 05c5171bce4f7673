"""How a task waits for room in a full account: deferred, or on the worker."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_kernel.api.errors import (
    KernelCapacityTimeoutError,
    KernelConfigurationError,
    KernelError,
    retry_after,
)
from airflow_provider_kernel.capacity.queue import MIN_PAUSE, worker_pause
from airflow_provider_kernel.operators.deferral import backstop
from airflow_provider_kernel.triggers.capacity import KernelCapacityTrigger

if TYPE_CHECKING:
    from airflow_provider_kernel.operators.attempt import TaskAttempt
    from airflow_provider_kernel.operators.interruptible import Interruptible
    from airflow_provider_kernel.operators.kernel import KernelInvokeOperator


class CapacityWait:
    """
    The wait of one leg.

    :param task: the operator.
    :param attempt: the try that waits.
    :param interruptible: by which ``on_kill`` ends the wait on the worker.
    """

    def __init__(
        self, task: KernelInvokeOperator, attempt: TaskAttempt, interruptible: Interruptible
    ) -> None:
        self._task = task
        self._this_try = attempt
        self._interruptible = interruptible
        self._deadline: float | None = None
        self._refusals = 0

    def resume(self, event: dict[str, Any]) -> None:
        """
        Go on where the trigger has fired ``event``.

        :raises KernelError: there is no room, and no use in waiting.
        """
        self._deadline = event.get("deadline")
        if event.get("capacity") == "timeout":
            raise _no_capacity()
        if event.get("capacity") != "free":
            raise KernelConfigurationError(str(event.get("message")))

    def check(self) -> None:
        """
        See that there is time left to submit.

        :raises KernelCapacityTimeoutError: there is none.
        """
        if time.time() >= self._execution_deadline():
            raise _no_capacity()

    def wait(self, error: KernelError) -> None:
        """
        Wait until it is time to submit again, where ``error`` says that the account is full.

        :raises TaskDeferred: the wait is the trigger's.
        :raises KernelCapacityTimeoutError: it has lasted long enough.
        """
        now = time.time()
        if self._deadline is None:
            self._deadline = min(now + self._task.capacity_timeout, self._execution_deadline())
        if now >= self._deadline:
            raise _no_capacity() from error
        if self._task.deferrable:
            self._task.log.info("%s Waiting for capacity, deferred.", error)
            raise TaskDeferred(
                trigger=KernelCapacityTrigger(
                    self._task.kernel_conn_id,
                    refused_at=now,
                    retry_after=retry_after(error),
                    deadline=self._deadline,
                ),
                method_name="execute_after_capacity",
                kwargs={"ti_id": self._this_try.id},
                timeout=backstop(self._deadline, now),
            )
        self._refusals += 1
        pause = worker_pause(self._refusals, retry_after(error))
        self._task.log.info("%s Waiting for capacity; asking again in %.0f s.", error, pause)
        pause = min(pause, max(self._deadline - now, MIN_PAUSE))
        self._interruptible.run(partial(time.sleep, pause))

    def _execution_deadline(self) -> float:
        return self._this_try.execution_deadline(self._task.execution_timeout)


def _no_capacity() -> KernelCapacityTimeoutError:
    return KernelCapacityTimeoutError(
        "Kernel's account was full until capacity_timeout or execution_timeout had passed, so no invocation was "
        "started. A retry of the task waits again."
    )
