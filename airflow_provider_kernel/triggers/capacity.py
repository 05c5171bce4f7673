"""The wait for room in a full account, in Airflow's triggerer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_kernel.api.errors import KernelConfigurationError, KernelError, should_log_failure
from airflow_provider_kernel.api.settings import shown
from airflow_provider_kernel.api.text import shorten
from airflow_provider_kernel.capacity.queue import CapacityQueue, Waiter, is_worth_waiting
from airflow_provider_kernel.hooks.connection import DEFAULT_CONN_ID
from airflow_provider_kernel.lifecycle.wait_result import MAX_MESSAGE
from airflow_provider_kernel.triggers.min_deferral import hold

if TYPE_CHECKING:
    from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

log = logging.getLogger(__name__)


class KernelCapacityTrigger(BaseTrigger):
    """
    Waits until the account may have room for one more invocation, and fires one event; it submits nothing.

    The event's ``capacity`` is ``free``: submit, and be prepared to be refused again; ``timeout``: the deadline
    has passed; or ``unsettled``: the connection cannot be used, or Kernel refuses, as ``message`` says. Its ``deadline`` is the
    trigger's. The triggers of one connection in one triggerer form one queue
    (:class:`~airflow_provider_kernel.capacity.queue.CapacityQueue`), for which one of them looks at the account.

    Arguments that this version does not know are ignored, and all may be missing: another version of the
    provider, before an upgrade or a downgrade, may have written them.

    :param kernel_conn_id: the Airflow connection; default ``kernel_default``.
    :param refused_at: when the account refused, in seconds since 1970. Default: long ago.
    :param retry_after: the seconds that it asked to wait; default 0.
    :param deadline: when the wait ends, in seconds since 1970; None, the default, for never.
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
        """Return the class path and the arguments: a name and numbers."""
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
        """Wait, and yield the one event."""
        lines = _lines.setdefault(asyncio.get_running_loop(), {})
        if self.kernel_conn_id not in lines:
            lines[self.kernel_conn_id] = _SharedQueue(self.kernel_conn_id)
        verdict = await lines[self.kernel_conn_id].wait(
            self.refused_at, self.retry_after, self.deadline, on_joined=self._say_place
        )
        await hold(self.task_instance, self.refused_at)
        if verdict["capacity"] == "free":
            self.log.info("The account may have room: the task submits again.")
        yield TriggerEvent({**verdict, "deadline": self.deadline})

    def _say_place(self, place: int) -> None:
        self.log.info(
            "The account is full. The task waits for room%s; it is number %d of those who wait in this triggerer.",
            "" if self.deadline is None else f", for {max(0.0, self.deadline - time.time()):.0f} s at most",
            place,
        )


class _SharedQueue:
    """All who wait for one connection in one event loop, and the task that looks for them."""

    def __init__(self, kernel_conn_id: str) -> None:
        self._kernel_conn_id = kernel_conn_id
        # Kept while nobody waits: those who were let go may be refused, and come back.
        self._queue = CapacityQueue()
        self._verdicts: dict[Waiter, asyncio.Future[dict[str, str]]] = {}
        # These two are None while nobody waits: they hold on to the event loop.
        self._looking: asyncio.Task[None] | None = None
        self._joined: asyncio.Event | None = None

    async def wait(
        self, refused_at: float, retry_after: float, deadline: float | None, on_joined: Callable[[int], None]
    ) -> dict[str, str]:
        """Wait in the queue; return what the event is to say."""
        waiter = self._queue.join(time.time(), refused_at, retry_after, deadline)
        verdict: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._verdicts[waiter] = verdict
        if self._joined and self._looking:
            self._joined.set()
        else:
            self._joined = asyncio.Event()
            # In a context of its own: what it logs is not for the log of the task that happens to be first.
            self._looking = asyncio.create_task(self._look(self._joined), context=Context())
        looking = self._looking
        try:
            on_joined(self._queue.position(waiter))
            return await verdict
        finally:
            self._queue.leave(waiter)
            del self._verdicts[waiter]
            if not self._verdicts:
                if self._looking:
                    self._looking = self._joined = None
                    looking.cancel()
                await asyncio.wait([looking])

    async def _look(self, joined: asyncio.Event) -> None:
        from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

        try:
            async with KernelAsyncHook(self._kernel_conn_id) as hook:
                while len(self._queue):
                    await self._step(hook, joined)
                # Whoever joins while the session is closed starts anew.
                self._looking = self._joined = None
        except Exception as error:  # noqa: BLE001 - or they would wait for ever
            self._looking = self._joined = None
            for waiter in list(self._verdicts):
                if isinstance(error, KernelError):
                    self._tell(waiter, capacity="unsettled", message=shorten(str(error), MAX_MESSAGE))
                else:
                    self._tell(waiter, error)

    async def _step(self, hook: KernelAsyncHook, joined: asyncio.Event) -> None:
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
                let_go = self._queue.on_failed(error, time.time())
                if should_log_failure(self._queue.failures):
                    log.warning(
                        "Looking for room in the account of %s: %s", shown(self._kernel_conn_id, 200), error
                    )
            else:
                let_go = self._queue.on_listed(active, time.time())
            for waiter in let_go:
                self._tell(waiter, capacity="free")
        for waiter in self._queue.expired(time.time()):
            self._tell(waiter, capacity="timeout")

    async def _active_ids(self, hook: KernelAsyncHook) -> frozenset[str]:
        try:
            return await hook.list_active_ids()
        except KernelError as error:
            if is_worth_waiting(error) or isinstance(error, KernelConfigurationError):
                raise
        return await hook.list_active_ids()  # after a 401 or 403 with the connection read anew

    def _tell(self, waiter: Waiter, error: Exception | None = None, **verdict: str) -> None:
        self._queue.leave(waiter)
        future = self._verdicts[waiter]
        if future.done():
            return  # its trigger was cancelled at this moment
        if error:
            future.set_exception(error)
        else:
            future.set_result(verdict)


_lines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _SharedQueue]] = WeakKeyDictionary()
