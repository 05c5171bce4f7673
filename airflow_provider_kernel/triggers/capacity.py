"""The wait for capacity in a full account, in Airflow's triggerer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_kernel.api.arguments import DEFAULT_CONN_ID
from airflow_provider_kernel.api.errors import KernelConfigurationError, KernelError, should_log_failure
from airflow_provider_kernel.api.settings import shown
from airflow_provider_kernel.api.text import shorten
from airflow_provider_kernel.capacity.queue import CapacityQueue, Waiter, is_worth_waiting
from airflow_provider_kernel.lifecycle.wait_result import MAX_MESSAGE
from airflow_provider_kernel.transport.per_loop import PerLoop
from airflow_provider_kernel.triggers.min_deferral import wait_for_min_deferral

if TYPE_CHECKING:
    from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

log = logging.getLogger(__name__)


class KernelCapacityTrigger(BaseTrigger):
    """
    Waits until the account may have capacity for one more invocation, and fires one event. The trigger submits nothing.

    The event has three fields:

    - ``capacity``: ``free`` (submit again; Kernel may refuse again), ``timeout`` (the deadline has passed) or
      ``unknown`` (the connection cannot be used, or Kernel refuses to list the active invocations).
    - ``message``: the reason for ``unknown``.
    - ``deadline``: the trigger's deadline.

    All triggers of one connection in one triggerer form one queue
    (:class:`~airflow_provider_kernel.capacity.queue.CapacityQueue`). One task of the event loop polls Kernel for the
    whole queue.

    The trigger ignores unknown arguments, and every argument has a default: another version of the provider may have
    stored the trigger before an upgrade or a downgrade.

    :param kernel_conn_id: the Airflow connection. Default ``kernel_default``.
    :param refused_at: the time at which Kernel refused the submission, in seconds since 1970. Default 0: long ago.
    :param retry_after: the seconds that the refusal asked to wait. Default 0: none.
    :param deadline: the time at which the wait ends, in seconds since 1970. Default None: never.
    """

    def __init__(
        self,
        kernel_conn_id: str = DEFAULT_CONN_ID,
        refused_at: float = 0.0,
        retry_after: float = 0.0,
        deadline: float | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        self.kernel_conn_id = kernel_conn_id
        self.refused_at = refused_at
        self.retry_after = retry_after
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, which hold no secret."""
        return (
            "airflow_provider_kernel.triggers.capacity.KernelCapacityTrigger",
            {
                "kernel_conn_id": self.kernel_conn_id,
                "refused_at": self.refused_at,
                "retry_after": self.retry_after,
                "deadline": self.deadline,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait in the queue, and yield one event."""
        queue = _queues.get(self.kernel_conn_id, partial(_SharedQueue, self.kernel_conn_id))
        result = await queue.wait(
            self.refused_at, self.retry_after, self.deadline, on_joined=self._log_position
        )
        await wait_for_min_deferral(self.task_instance, self.refused_at)
        if result["capacity"] == "free":
            self.log.info("The Kernel account may have capacity. The task submits the invocation again.")
        yield TriggerEvent({**result, "deadline": self.deadline})

    def _log_position(self, position: int) -> None:
        self.log.info(
            "The Kernel account is full. The task waits for capacity%s, at position %d in this triggerer's queue.",
            "" if self.deadline is None else f" for at most {max(0.0, self.deadline - time.time()):.0f} s",
            position,
        )


class _SharedQueue:
    """The queue of all triggers of one connection in one event loop, with the asyncio task that polls Kernel."""

    def __init__(self, kernel_conn_id: str) -> None:
        self._kernel_conn_id = kernel_conn_id
        # Kept while the queue is empty: Kernel may refuse the released waiters, and they join again.
        self._queue = CapacityQueue()
        self._results: dict[Waiter, asyncio.Future[dict[str, str]]] = {}
        # Both are None while no trigger waits, because they keep the event loop alive.
        self._polling: asyncio.Task[None] | None = None
        self._joined: asyncio.Event | None = None

    async def wait(
        self, refused_at: float, retry_after: float, deadline: float | None, on_joined: Callable[[int], None]
    ) -> dict[str, str]:
        """
        Wait in the queue, and return the fields of the trigger's event.

        :param refused_at: the time at which Kernel refused the submission, in seconds since 1970.
        :param retry_after: the seconds that the refusal asked to wait; 0 for none.
        :param deadline: the time at which the wait ends, in seconds since 1970; None for never.
        :param on_joined: called once with the position in the queue.
        """
        waiter = self._queue.join(time.time(), refused_at, retry_after, deadline)
        result: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._results[waiter] = result
        if self._joined and self._polling:
            self._joined.set()
        else:
            self._joined = asyncio.Event()
            # A context of its own keeps the log lines of the poll out of the first task's log.
            self._polling = asyncio.create_task(self._poll(self._joined), context=Context())
        polling = self._polling
        try:
            on_joined(self._queue.position(waiter))
            return await result
        finally:
            self._queue.leave(waiter)
            del self._results[waiter]
            if not self._results:
                if self._polling:
                    self._polling = self._joined = None
                    polling.cancel()
                await asyncio.wait([polling])

    async def _poll(self, joined: asyncio.Event) -> None:
        from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

        try:
            async with KernelAsyncHook(self._kernel_conn_id) as hook:
                while len(self._queue):
                    await self._step(hook, joined)
                # A trigger that joins while the session closes starts another task.
                self._polling = self._joined = None
        except Exception as error:  # noqa: BLE001 - the waiting triggers must end, too
            self._polling = self._joined = None
            for waiter in list(self._results):
                if isinstance(error, KernelError):
                    self._resolve(waiter, capacity="unknown", message=shorten(str(error), MAX_MESSAGE))
                else:
                    self._resolve(waiter, error)

    async def _step(self, hook: KernelAsyncHook, joined: asyncio.Event) -> None:
        """Sleep until the queue needs something or a trigger joins, then poll if it is time."""
        joined.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._queue.wake_at() - time.time()):
                await joined.wait()
        if len(self._queue) and self._queue.next_poll_at() <= time.time():
            try:
                active = await self._active_ids(hook)
            except KernelError as error:
                if not is_worth_waiting(error):
                    raise
                released = self._queue.on_failed(error, time.time())
                if should_log_failure(self._queue.failures):
                    log.warning(
                        "The active invocations of connection %s could not be listed, so tasks wait longer for "
                        "capacity: %s",
                        shown(self._kernel_conn_id, 200),
                        error,
                    )
            else:
                released = self._queue.on_listed(active, time.time())
            for waiter in released:
                self._resolve(waiter, capacity="free")
        for waiter in self._queue.expired(time.time()):
            self._resolve(waiter, capacity="timeout")

    async def _active_ids(self, hook: KernelAsyncHook) -> frozenset[str]:
        try:
            return await hook.list_active_ids()
        except KernelError as error:
            if is_worth_waiting(error) or isinstance(error, KernelConfigurationError):
                raise
        return await hook.list_active_ids()  # the hook reads the connection anew after a 401 or 403

    def _resolve(self, waiter: Waiter, error: Exception | None = None, **result: str) -> None:
        self._queue.leave(waiter)
        future = self._results[waiter]
        if future.done():
            return  # Airflow has just cancelled the trigger
        if error:
            future.set_exception(error)
        else:
            future.set_result(result)


_queues: PerLoop[_SharedQueue] = PerLoop()
