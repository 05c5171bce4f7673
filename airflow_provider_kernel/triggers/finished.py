"""The trigger that updates an asset when invocations have ended. For Airflow 3.0 and later."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from inspect import signature
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_kernel.api.arguments import (
    CONNECTION_MEANING,
    DEFAULT_CONN_ID,
    check_name,
    check_seconds,
)
from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.transport.per_loop import PerLoop
from airflow_provider_kernel.triggers.cursor_store import CursorStore
from airflow_provider_kernel.triggers.scanner import Scanner, ScanResult, Watcher
from airflow_provider_kernel.watch.ends import Cursor, InvocationFilter, check_no_template, event_payload

HAS_WATCHERS = HAS_SHARED_STREAMS = True
try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:  # Airflow 2
    BaseEventTrigger, HAS_WATCHERS = BaseTrigger, False  # type: ignore[misc,assignment]
try:
    from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer
except ImportError:  # before Airflow 3.3
    SharedStreamProducer, HAS_SHARED_STREAMS = object, False  # type: ignore[misc,assignment]

#: Since Airflow 3.4, the trigger of a watcher has a queue.
HAS_QUEUES = "queue" in signature(BaseEventTrigger.__init__).parameters

log = logging.getLogger(__name__)
#: Minimum and maximum ``poll_interval``, in seconds.
MIN_POLL_INTERVAL, MAX_POLL_INTERVAL = 10.0, 3600.0
_scanners: PerLoop[Scanner] = PerLoop()


class KernelInvocationFinishedTrigger(BaseEventTrigger):
    """
    Fires an event when invocations of an app have ended, whoever started them. For an ``AssetWatcher``.

    The asset event's ``extra`` holds the trigger's event under ``payload``. Its ``invocations`` is a list of all
    invocations that have ended since the last event, in the order of their ends, 1000 at most; the others come in the
    next events. Each item is a dict with ``invocation_id``, ``app_name``, ``action_name``, ``version``, ``status``,
    ``started_at`` and ``finished_at``. The output is not in it: get it from
    :class:`~airflow_provider_kernel.hooks.kernel.KernelHook`.

    The next event follows 10 seconds later at the earliest. Airflow starts no Dag run for an event that comes while an
    earlier event of the same asset still waits for its run; it adds the event to the run of the next event. An event
    waits for about a second, or for as long as the Dag is at its ``max_active_runs`` or no scheduler runs. Two watchers
    of one asset do not wait for each other: give each watcher its own asset, and the Dag ``schedule=(one | other)``.

    Kernel sends no notification of an end. So the triggerer lists the invocations of each connection, once for all
    its watchers: mostly one request per scan, 10 requests per minute at most in the long run, 50 invocations per request
    at most. While one invocation runs for an hour among thousands of short ones, a scan takes minutes, longer than
    ``poll_interval``.

    Since Airflow 3.3, the trigger reports every end **at least once**. Airflow stores the watcher's cursor with the
    asset, after it has stored the event. So the trigger reports later what ends while no triggerer runs or while the
    Dag is paused. If a triggerer dies in the second or two between the two, the trigger reports the same ends again;
    compare their ``invocation_id``. Before Airflow 3.3, the trigger does not report what ended before its first scan
    in this triggerer, and each watcher scans by itself.

    After any error (Kernel is down, answers 5xx or a proxy's HTML, throttles, refuses the token; the connection is
    missing), the trigger logs a warning in the triggerer's log and tries again: a watcher has no task that could fail.

    :param app_name: the app.
    :param action_name: the action. Default None: any action of the app.
    :param version: the label of the version. Default None: any version.
    :param status: the final status: ``succeeded``, ``failed`` or ``any``. Cancelled and timed-out invocations are
        ``failed``. Default ``succeeded``, because a failed task updates no asset either.
    :param kernel_conn_id: the Airflow connection of type ``kernel``. Default ``kernel_default``.
    :param poll_interval: seconds between two scans, from 10 to 3600. Default 60. The shortest interval of a
        connection's watchers applies to all of them.
    :param queue: the queue of the triggerers that run the trigger, as in ``airflow triggerer --queues …``. Default
        None: the triggerers without ``--queues``. Needs Airflow 3.4.
    :raises ValueError: when the Dag is parsed: an argument is invalid.
    :raises TypeError: ``queue`` is set before Airflow 3.4.
    :raises RuntimeError: in Airflow 2, which has no ``AssetWatcher``.
    """

    def __init__(
        self,
        app_name: str,
        action_name: str | None = None,
        version: str | None = None,
        status: str = InvocationStatus.SUCCEEDED.value,
        kernel_conn_id: str = DEFAULT_CONN_ID,
        poll_interval: float = 60.0,
        queue: str | None = None,
    ) -> None:
        if not HAS_WATCHERS:
            raise RuntimeError(
                "KernelInvocationFinishedTrigger needs Airflow 3.0 or later: this Airflow has no AssetWatcher. Upgrade "
                "Airflow, or wait for an invocation with KernelInvocationSensor."
            )
        if queue is not None:
            check_name("queue", queue, "the name of a queue of triggerers")
            check_no_template("queue", queue)
            if not HAS_QUEUES:
                # For a stored trigger, any other exception ends the triggerer of an older Airflow.
                raise TypeError(
                    "queue needs Airflow 3.4 or later: in this Airflow, the trigger of an AssetWatcher has no queue. "
                    "Leave queue out, and any triggerer runs the trigger."
                )
        super().__init__(queue=queue)
        self.queue = queue
        self.wanted = InvocationFilter(app_name, action_name, version, status)
        check_name("kernel_conn_id", kernel_conn_id, CONNECTION_MEANING)
        check_no_template("kernel_conn_id", kernel_conn_id)
        check_seconds("poll_interval", poll_interval, MIN_POLL_INTERVAL, MAX_POLL_INTERVAL)
        self.kernel_conn_id = kernel_conn_id
        self.poll_interval = float(poll_interval)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """
        Return the class path and the arguments. Airflow identifies a trigger by them, so equal triggers return equals.

        ``queue`` is only included if it is set: Airflow has stored the other triggers without it. If it is set, it
        must be included, so that a stored trigger stays in its queue.
        """
        queue = {} if self.queue is None else {"queue": self.queue}
        return (
            "airflow_provider_kernel.triggers.finished.KernelInvocationFinishedTrigger",
            {**self._identity(), "poll_interval": self.poll_interval, **queue},
        )

    def _identity(self) -> dict[str, Any]:
        """Return the arguments that identify the trigger's cursor: those that select the invocations."""
        return {
            "app_name": self.wanted.app_name,
            "action_name": self.wanted.action_name,
            "version": self.wanted.version,
            "status": self.wanted.status,
            "kernel_conn_id": self.kernel_conn_id,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Scan for this trigger alone, and yield events. Airflow 3.3 and later call the methods below instead."""
        from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

        scanner = Scanner(self.kernel_conn_id)
        watcher = Watcher(self.wanted, self.poll_interval, Cursor())
        with scanner.watched_by(watcher):
            async with KernelAsyncHook(self.kernel_conn_id) as hook:
                async for result in scanner.results(hook):
                    if watcher.accepts(result):
                        for event in self._events(watcher, result):
                            yield event

    def shared_stream_key(self) -> Hashable | None:
        """Return the key of the scans: triggers with the same key share them."""
        return (
            ("airflow_provider_kernel.triggers.finished", self.kernel_conn_id) if HAS_SHARED_STREAMS else None
        )

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Return the producer of the scans of a connection; Airflow calls this for one of the connection's triggers."""
        return _ScanProducer(kwargs["kernel_conn_id"])

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[ScanResult]
    ) -> AsyncIterator[TriggerEvent]:
        """Yield events with the ends in the shared scans that match this trigger."""
        stores = getattr(self, "asset_state_store", None)
        store = None if stores is None else CursorStore(stores, self._identity())
        cursor = await store.load_with_retries() if store else Cursor()
        watcher = Watcher(self.wanted, self.poll_interval, cursor)
        with _scanner(self.kernel_conn_id).watched_by(watcher):
            async for result in shared_stream:
                result.consumers += 1
                if not watcher.accepts(result):
                    continue
                if store and watcher.cursor.count_new(result.scan, self.wanted):
                    # Another triggerer may have taken over while this one was frozen.
                    await store.refresh(watcher.cursor)
                for event in self._events(watcher, result):
                    yield event
                if store:
                    result.commits.append(partial(store.save, watcher.cursor.state()))

    def _events(self, watcher: Watcher, result: ScanResult) -> Iterator[TriggerEvent]:
        """Yield one event with the unreported ends of ``result``, or none; log the invocations that are overdue."""
        if ended := watcher.cursor.take_new(result.scan, self.wanted, time.time()):
            watcher.fired_at = result.started_at
            result.reported += len(ended)
            yield TriggerEvent(event_payload(ended))
        for invocation_id in watcher.cursor.overdue:
            log.warning(
                "Kernel invocation %s has not ended in the maximum time of an invocation. The watcher will not report "
                "its end.",
                invocation_id,
            )


class _ScanProducer(SharedStreamProducer):
    """Produces the scans of one connection for Airflow's triggerer."""

    def __init__(self, kernel_conn_id: str) -> None:
        self._kernel_conn_id = kernel_conn_id
        self._stack = AsyncExitStack()

    async def open_stream(self) -> AsyncIterator[tuple[ScanResult, ScanResult]]:
        """Scan forever, and yield each result."""
        from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

        hook = await self._stack.enter_async_context(KernelAsyncHook(self._kernel_conn_id))
        async for result in _scanner(self._kernel_conn_id).results(hook):
            yield result, result

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """
        Store the watchers' cursors: Airflow has stored the events from these results.

        :raises RuntimeError: Airflow has not confirmed that. All watchers of the connection restart from their stored
            cursors.
        """
        for result, outcome in batch:
            if result.reported and outcome.acked < result.consumers:
                raise RuntimeError(
                    f"Airflow did not confirm that it has stored the ends of {result.reported} Kernel invocations. The "
                    "watchers report them again."
                )
            for commit in result.commits:
                await commit()

    async def aclose(self) -> None:
        """Close the connections to Kernel."""
        await self._stack.aclose()


def _scanner(kernel_conn_id: str) -> Scanner:
    """Return the scanner that all watchers of a connection share in this event loop."""
    return _scanners.get(kernel_conn_id, partial(Scanner, kernel_conn_id))
