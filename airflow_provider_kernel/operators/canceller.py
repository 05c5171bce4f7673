"""Cancel an invocation from a worker."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_provider_kernel.api.errors import KernelError

if TYPE_CHECKING:
    from airflow_provider_kernel.api.endpoints import Cancellation
    from airflow_provider_kernel.hooks.kernel import KernelHook
    from airflow_provider_kernel.operators.attempt import TaskAttempt

log = logging.getLogger(__name__)


class Canceller:
    """
    Cancels invocations in the name of an attempt.

    :param hook: on the task's connection.
    :param attempt: what Airflow knows of the attempt.
    """

    def __init__(self, hook: KernelHook, attempt: TaskAttempt) -> None:
        self._hook = hook
        self._attempt = attempt

    def cancel(self, invocation_id: str, reason: str) -> Cancellation:
        """
        Cancel the invocation, unless another attempt has the task.

        :param invocation_id: Kernel's id.
        :param reason: becomes the invocation's output, for people.
        :raises KernelSupersededError: another attempt has the task, and may wait for the invocation.
        :raises KernelError: the invocation could not be cancelled.
        """
        self._attempt.check_not_superseded()
        return self.cancel_even_if_superseded(invocation_id, reason)

    def cancel_even_if_superseded(self, invocation_id: str, reason: str) -> Cancellation:
        """
        Cancel the invocation.

        :param invocation_id: Kernel's id.
        :param reason: becomes the invocation's output, for people.
        :raises KernelError: the invocation could not be cancelled.
        """
        # A session of its own: an interrupted wait may be in the middle of a request.
        with self._hook.clone() as hook:
            try:
                cancellation = hook.cancel_invocation(
                    invocation_id, f"Airflow: {reason}", self._attempt.canceller_identity
                )
            except KernelError as error:
                log.error(
                    "Kernel invocation %s could not be cancelled and may be running: %s", invocation_id, error
                )
                raise
        log.log(logging.WARNING if cancellation.browsers_error else logging.INFO, "%s", cancellation)
        return cancellation
