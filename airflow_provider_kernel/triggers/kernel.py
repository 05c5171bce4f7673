"""Wait for an invocation in Airflow's triggerer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from tenacity import AsyncRetrying, stop_after_delay, wait_exponential

from airflow_provider_kernel.api.arguments import DEFAULT_CONN_ID
from airflow_provider_kernel.api.errors import (
    KernelError,
    KernelInvocationError,
    KernelInvocationTimeoutError,
)
from airflow_provider_kernel.hooks.connection import ask_in_thread, is_dag_test
from airflow_provider_kernel.lifecycle.log_buffer import LogPosition, app_lines
from airflow_provider_kernel.lifecycle.wait_result import WaitResult
from airflow_provider_kernel.task_instance import canceller_identity
from airflow_provider_kernel.triggers.min_deferral import wait_for_min_deferral

if TYPE_CHECKING:
    from airflow_provider_kernel.api.settings import KernelSettings
    from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

#: What the output of a cancelled invocation says.
KILLED = "Airflow: the deferred task was killed"
#: Seconds for which Airflow is asked again for the task's state if it cannot answer.
ASKING_SECONDS = 20.0
#: Seconds after the deferral from which a start counts as a restart; the first start comes within 2 s.
RESTARTED_AFTER = 8.0

#: The first question to Airflow in this process.
_warming_up: list[asyncio.Task[None]] = []


class KernelInvocationTrigger(BaseTrigger):
    """
    Waits until an invocation has ended, and fires one event.

    The event has the fields of :class:`~airflow_provider_kernel.lifecycle.wait_result.WaitResult`: ``invocation_id`` and
    ``status``, and a ``message`` if Kernel's own words are not available; never the output. Meanwhile the trigger writes
    the lines that the app logs to the task's log. At the deadline it cancels the invocation. If the state of the
    invocation cannot be found out, the worker decides, which knows whether a retry will reattach.

    If a user kills the deferred task, the trigger cancels the invocation. A triggerer that stops, restarts or is
    superseded by another cancels nothing: the wait continues elsewhere, with the same arguments.

    Unknown arguments are ignored: a later version of the provider may have written them.

    :param invocation_id: what to wait for.
    :param kernel_conn_id: the Airflow connection; default ``kernel_default``.
    :param deadline: when to give up, in seconds since 1970; None for never.
    :param poll_interval: longest time in seconds between two polls while the event stream cannot be followed.
    :param follow_logs: whether the lines that the app logs are written to the task's log.
    :param cancel_on_kill: whether a user's kill cancels the invocation.
    :param durable: whether a retry of the task will reattach to the invocation.
    :param deferred_at: when the task was deferred, in seconds since 1970. By it a restarted trigger knows that lines of
        the log were shown before.
    :param cancel_on_timeout: whether the deadline cancels the invocation.
    :param log_position: how far the worker has shown the log, as a
        :class:`~airflow_provider_kernel.lifecycle.log_buffer.LogPosition`.
    :param confirm_end: whether ``GET`` must confirm an end that the event stream reports: it has denied such an end before.
    """

    def __init__(
        self,
        invocation_id: str,
        kernel_conn_id: str = DEFAULT_CONN_ID,
        deadline: float | None = None,
        poll_interval: float = 30.0,
        follow_logs: bool = True,
        cancel_on_kill: bool = True,
        durable: bool = False,
        deferred_at: float | None = None,
        cancel_on_timeout: bool = True,
        confirm_end: bool = False,
        log_position: Sequence[Any] = (),
        **unknown: Any,
    ) -> None:
        super().__init__()
        self.invocation_id = invocation_id
        self.kernel_conn_id = kernel_conn_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.follow_logs = follow_logs
        self.cancel_on_kill = cancel_on_kill
        self.durable = durable
        self.deferred_at = deferred_at
        self.cancel_on_timeout = cancel_on_timeout
        self.confirm_end = confirm_end
        self.log_position = LogPosition(*log_position)
        self._killing: asyncio.Task[None] | None = None
        self._settings: KernelSettings | None = None

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
                "cancel_on_kill": self.cancel_on_kill,
                "durable": self.durable,
                "deferred_at": self.deferred_at,
                "cancel_on_timeout": self.cancel_on_timeout,
                "confirm_end": self.confirm_end,
                "log_position": list(self.log_position),
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the event."""
        from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

        _warm_up(self.task_instance)
        now = time.time()
        is_restarted = self.confirm_end or (
            self.deferred_at is not None and now - self.deferred_at > RESTARTED_AFTER
        )
        try:
            async with KernelAsyncHook(self.kernel_conn_id) as hook:
                with suppress(KernelError):  # the wait reports it
                    self._settings = await hook.settings()
                try:
                    invocation = await hook.wait_for_invocation(
                        self.invocation_id,
                        deadline=self.deadline,
                        poll_interval=self.poll_interval,
                        on_log=self._write if self.follow_logs else None,
                        replayed_before=now if is_restarted else None,
                        with_output=False,
                        confirm_end=self.confirm_end,
                        log_position=self.log_position,
                    )
                    outcome = WaitResult.of(invocation)
                except KernelInvocationTimeoutError as error:
                    outcome = await self._end_at_deadline(hook, error)
                except KernelInvocationError as error:
                    outcome = WaitResult.of_open(error)
            await wait_for_min_deferral(self.task_instance, self.deferred_at)
        except asyncio.CancelledError:
            is_ctrl_c = is_dag_test()  # there, only Ctrl-C cancels a trigger
            # Before Airflow 3.3, a user's kill looks like a restart.
            if is_ctrl_c or not hasattr(BaseTrigger, "on_kill"):
                await self._run_shielded(self._end_killed(if_unknown=is_ctrl_c))
            if is_ctrl_c and not self.cancel_on_kill:
                self.log.warning(
                    "Kernel invocation %s runs on (cancel_on_kill=False) until it ends, or its async_timeout_seconds pass.",
                    self.invocation_id,
                )
            raise
        yield TriggerEvent(replace(outcome, confirmed=self.confirm_end).to_event())

    async def _end_at_deadline(
        self, hook: KernelAsyncHook, error: KernelInvocationTimeoutError
    ) -> WaitResult:
        if not self.cancel_on_timeout:
            return WaitResult.of_open(error)
        try:
            cancellation = await hook.cancel_invocation(self.invocation_id, f"Airflow: {error}", self._by())
        except KernelError as cancel_error:
            self.log.error(
                "Kernel invocation %s could not be cancelled: %s", self.invocation_id, cancel_error
            )
            return WaitResult.of_open(error)
        return WaitResult.of_giving_up(error, cancellation)

    async def on_kill(self) -> None:
        """Cancel the invocation if a user killed the task. Airflow 3.3 and later call this, in other cases too."""
        await self._run_shielded(self._end_killed(if_unknown=True))

    async def _run_shielded(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` to its end, although Airflow cancels its caller after about a second."""
        self._killing = asyncio.create_task(work)
        await asyncio.shield(self._killing)

    async def _end_killed(self, *, if_unknown: bool) -> None:
        """
        Cancel the invocation, unless another triggerer or attempt waits for it, or will.

        :param if_unknown: whether to cancel if Airflow cannot be asked.
        """
        from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

        if not self.cancel_on_kill:
            return
        asking = AsyncRetrying(
            stop=stop_after_delay(ASKING_SECONDS), wait=wait_exponential(max=5), reraise=True
        )
        is_killed = if_unknown
        try:
            try:
                if self.task_instance is not None:
                    is_killed = not await asking(ask_in_thread, self._is_still_wanted)
            except Exception as error:  # noqa: BLE001 - Airflow is away, or one that cannot be asked
                self.log.warning("Airflow could not be asked for the task's state: %s.", type(error).__name__)
            if not is_killed:
                self.log.info("Kernel invocation %s runs on: the task was not killed.", self.invocation_id)
                return
            async with KernelAsyncHook(self.kernel_conn_id) as hook:
                cancellation = await hook.cancel_invocation(self.invocation_id, KILLED, self._by())
            self.log.info("The task was killed. %s", cancellation)
        except asyncio.CancelledError:
            # The triggerer is ending, and the event loop with it.
            if is_killed:
                self._cancel_at_once()
            raise
        except Exception as error:  # noqa: BLE001 - Airflow would drop it unseen
            self.log.warning("Kernel invocation %s could not be cancelled: %s", self.invocation_id, error)

    def _cancel_at_once(self) -> None:
        """Cancel without the event loop, which is ending."""
        from airflow_provider_kernel.hooks.kernel import KernelHook

        if self._settings is None:
            return
        with suppress(KernelError), KernelHook(self.kernel_conn_id) as hook:
            hook.settings = self._settings
            cancellation = hook.cancel_invocation(self.invocation_id, KILLED, self._by())
            self.log.info("The task was killed. %s", cancellation)

    def _is_still_wanted(self) -> bool:
        """
        Return whether the task still wants the invocation: another triggerer has taken over, or Airflow will retry the task.

        Airflow may retry a task that was deferred only seconds ago. If the task waits for another invocation, it was cleared,
        and this trigger belongs to an earlier attempt.
        """
        from airflow.providers.common.compat.sdk import XCom

        ti: Any = self.task_instance
        state = _state_of(ti)
        if state != "deferred":
            return state == "up_for_retry" and self.durable
        pushed = XCom.get_one(
            key="invocation_id",
            dag_id=ti.dag_id,
            task_id=ti.task_id,
            run_id=ti.run_id,
            map_index=ti.map_index,
        )
        return pushed in (None, self.invocation_id)  # None: the push failed

    def _by(self) -> dict[str, Any] | None:
        """Return who cancels the invocation, for its output; None if Airflow does not tell."""
        ti: Any = self.task_instance
        return ti and canceller_identity(ti)

    def _write(self, record: str) -> None:
        self.log.info("%s", app_lines(record))


def _warm_up(ti: Any) -> None:
    """
    Ask Airflow a first question, once in each triggerer, so that a kill need not wait for the answer.

    With the first question, a triggerer loads Airflow's API, which takes 2 to 30 seconds.
    """
    if ti is None or _warming_up:
        return

    async def ask() -> None:
        with suppress(Exception):  # the next question reports it
            await ask_in_thread(_state_of, ti)

    _warming_up.append(asyncio.create_task(ask()))


def _state_of(ti: Any) -> str | None:
    """Ask Airflow for the state of the task of ``ti``. This blocks: never call it in the event loop."""
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:  # Airflow 2
        ti.refresh_from_db()
        return ti.state  # type: ignore[no-any-return]
    states = RuntimeTaskInstance.get_task_states(
        dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
    )
    return next(iter(states[ti.run_id].values()))  # type: ignore[no-any-return]
