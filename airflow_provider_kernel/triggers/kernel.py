"""The asynchronous wait for an invocation, in Airflow's triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_kernel.api.calls import Cancellation
from airflow_provider_kernel.api.errors import KernelError, KernelInvocationError
from airflow_provider_kernel.api.waiting import Outcome
from airflow_provider_kernel.hooks.connection import DEFAULT_CONN_ID


class KernelInvocationTrigger(BaseTrigger):
    """
    Waits until an invocation has ended, and fires one event that says how.

    The event holds the fields of :class:`~airflow_provider_kernel.api.waiting.Outcome`: ``invocation_id`` and
    ``status``, and where Kernel's own words are not to be had a ``message``; never the output. The lines that
    the app logs are written to the task's log meanwhile. When the wait is given up, the invocation is cancelled.

    When a user kills the deferred task (Airflow 3.3 or later), the invocation is cancelled. A triggerer that
    stops or restarts cancels nothing: the wait goes on elsewhere, with the same arguments.

    :param invocation_id: what to wait for.
    :param kernel_conn_id: the Airflow connection; default ``kernel_default``.
    :param deadline: when to give up and cancel, in seconds since 1970; None for never.
    :param poll_interval: longest time in seconds between two looks while there is no event stream.
    :param follow_logs: whether the lines that the app logs are written to the task's log.
    """

    def __init__(
        self,
        invocation_id: str,
        kernel_conn_id: str = DEFAULT_CONN_ID,
        deadline: float | None = None,
        poll_interval: float = 30.0,
        follow_logs: bool = True,
    ) -> None:
        super().__init__()
        self.invocation_id = invocation_id
        self.kernel_conn_id = kernel_conn_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.follow_logs = follow_logs
        self._cancelling: asyncio.Task[None] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: identifiers and numbers, nothing secret."""
        return (
            "airflow_provider_kernel.triggers.kernel.KernelInvocationTrigger",
            {
                "invocation_id": self.invocation_id,
                "kernel_conn_id": self.kernel_conn_id,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "follow_logs": self.follow_logs,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event."""
        from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

        async with KernelAsyncHook(self.kernel_conn_id) as hook:
            try:
                invocation = await hook.wait_for_invocation(
                    self.invocation_id,
                    deadline=self.deadline,
                    poll_interval=self.poll_interval,
                    on_log=self._write if self.follow_logs else None,
                )
                outcome = Outcome.of(invocation)
            except KernelInvocationError as error:
                cancellation: Cancellation | KernelError
                try:
                    cancellation = await hook.cancel_invocation(self.invocation_id, f"Airflow: {error}")
                except KernelError as cancel_error:
                    cancellation = cancel_error
                outcome = Outcome.of_giving_up(error, cancellation)
        yield TriggerEvent(outcome.to_event())

    async def on_kill(self) -> None:
        """Cancel the invocation: a user killed the task. Called by Airflow 3.3 and later."""
        # Airflow cancels this coroutine after about a second; the request must be done all the same.
        self._cancelling = asyncio.create_task(self._cancel_for_user())
        await asyncio.shield(self._cancelling)

    async def _cancel_for_user(self) -> None:
        from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

        try:
            async with KernelAsyncHook(self.kernel_conn_id) as hook:
                cancellation = await hook.cancel_invocation(
                    self.invocation_id, "The Airflow task was killed by a user."
                )
        except Exception as error:  # noqa: BLE001 - Airflow would drop it unseen
            self.log.warning("Kernel invocation %s could not be cancelled: %s", self.invocation_id, error)
        else:
            self.log.info("The task was killed. %s", cancellation)

    def _write(self, record: str) -> None:
        self.log.info("[app] %s", record)
