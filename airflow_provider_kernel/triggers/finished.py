"""The ends of invocations as events of an asset, in Airflow's triggerer. For Airflow 3.0 and later."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_kernel.api.arguments import CONNECTION_MEANING, check_name, check_seconds
from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.hooks.connection import DEFAULT_CONN_ID
from airflow_provider_kernel.triggers.cursor_store import CursorStore
from airflow_provider_kernel.triggers.scanner import Look, Scanner, Watcher
from airflow_provider_kernel.watch.ends import Cursor, InvocationFilter, check_no_template, report

HAS_WATCHERS = HAS_SHARED_STREAMS = True
try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:  # Airflow 2
    BaseEventTrigger, HAS_WATCHERS = BaseTrigger, False  # type: ignore[misc,assignment]
try:
    from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer
except ImportError:  # before Airflow 3.3
    SharedStreamProducer, HAS_SHARED_STREAMS = object, False  # type: ignore[misc,assignment]

#: Airflow 3.4 and later let a watcher's trigger choose its triggerers.
HAS_QUEUES = "queue" in signature(BaseEventTrigger.__init__).parameters

log = logging.getLogger(__name__)
#: Bounds of ``poll_interval``, in seconds.
MIN_POLL_INTERVAL, MAX_POLL_INTERVAL = 10.0, 3600.0
_scanners: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Scanner]] = WeakKeyDictionary()


class KernelInvocationFinishedTrigger(BaseEventTrigger):
    """
    Fires an event when invocations of an app have ended, wherever they were started. For an ``AssetWatcher``.

    The event's payload, which a Dag finds under ``payload`` in the extra of the asset's event, has a list under
    ``invocations``, of all that have ended since the last event, in the order of their ends, or of the first thousand
    (the others come in the next events): each a dict with
    ``invocation_id``, ``app_name``, ``action_name``, ``version``, ``status``, ``started_at`` and ``finished_at``. What
    an invocation returned is not in it: ask :class:`~airflow_provider_kernel.hooks.kernel.KernelHook` for that.

    It is one event, and the next comes ten seconds later at the earliest, for Airflow starts no run of a Dag for an
    event that comes while an earlier one of the same asset waits for its run: it adds it to the run of the next event.
    An event waits for a second or so, or for as long as the Dag is at its ``max_active_runs`` or no scheduler runs. Two
    watchers of one asset do not wait for each other: give each its own, and the Dag ``schedule=(one | other)``.

    Kernel tells nobody of an end, so its list of invocations is looked at, once for all watchers of a connection in a
    triggerer: mostly one request, ten a minute at most in the long run, each for fifty invocations at most. While one
    runs for an hour among thousands of short ones, a look takes minutes, and ``poll_interval`` is not kept.

    From Airflow 3.3 on, every end is reported **at least once**: how far a watcher is, is kept with the asset, and
    only once Airflow has stored the event; so what ends while no triggerer runs, or while the Dag is paused, is
    reported afterwards. An end is reported again each time that a triggerer dies in the second or two between the two;
    the id tells. Before 3.3 a watcher knows only what it saw since its triggerer started it: what ended before its
    first look is not reported, and each watcher looks by itself.

    Whatever goes wrong (Kernel is away, answers 5xx or a proxy's HTML, throttles, refuses the token; the connection
    is missing) is waited out, with a warning in the triggerer's log: a watcher has no task that could fail.

    :param app_name: the app whose invocations count.
    :param action_name: the action whose invocations count. Default: None, which is any.
    :param version: the version whose invocations count, by its label. Default: None, which is any.
    :param status: which ends count: ``succeeded`` (the default, for a task that fails updates no asset either),
        ``failed``, or ``any``. Cancelled and timed-out invocations have ``failed``.
    :param kernel_conn_id: the Airflow connection of type ``kernel``; default ``kernel_default``.
    :param poll_interval: seconds from one look to the next, 10-3600. Default 60. Of several watchers of one
        connection the shortest counts.
    :param queue: only triggerers that are started with this queue, ``airflow triggerer --queues …``, run the trigger.
        Default: None, which is the triggerers without ``--queues``. Needs Airflow 3.4.
    :raises ValueError: when the Dag is parsed, for an argument that cannot be right.
    :raises TypeError: for a ``queue`` before Airflow 3.4, which has no queues for watchers.
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
                "KernelInvocationFinishedTrigger is for an AssetWatcher, which Airflow has from version 3.0 on."
            )
        if queue is not None:
            check_name("queue", queue, "the name of a queue of triggerers")
            check_no_template("queue", queue)
            if not HAS_QUEUES:
                # A stored trigger that raises anything else would end an older Airflow's triggerer.
                raise TypeError(
                    "queue needs Airflow 3.4 or later: this Airflow has no queues for triggers of an AssetWatcher. "
                    "Leave it out, and any triggerer runs the trigger."
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
        Return the class path and the arguments, always alike: Airflow knows a trigger by them.

        ``queue`` is one of them only where it is set, as Airflow has stored all other triggers without it. Where it
        is set it must be: a trigger that Airflow knows stays in its queue.
        """
        queue = {} if self.queue is None else {"queue": self.queue}
        return (
            "airflow_provider_kernel.triggers.finished.KernelInvocationFinishedTrigger",
            {**self._arguments(), "poll_interval": self.poll_interval, **queue},
        )

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments that say whose ends are reported: a cursor is of these."""
        return {
            "app_name": self.wanted.app_name,
            "action_name": self.wanted.action_name,
            "version": self.wanted.version,
            "status": self.wanted.status,
            "kernel_conn_id": self.kernel_conn_id,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look by itself, and yield events: before Airflow 3.3, which calls the methods below instead."""
        from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

        sweeper = Scanner(self.kernel_conn_id)
        watcher = Watcher(self.wanted, self.poll_interval, Cursor())
        with sweeper.joined(watcher):
            async with KernelAsyncHook(self.kernel_conn_id) as hook:
                async for look in sweeper.looks(hook):
                    if watcher.waits_for(look):
                        for event in self._events(watcher, look):
                            yield event

    def shared_stream_key(self) -> Hashable | None:
        """Return what the triggers have in common that share one look."""
        return (
            ("airflow_provider_kernel.triggers.finished", self.kernel_conn_id) if HAS_SHARED_STREAMS else None
        )

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Return the look that all triggers of a connection share; Airflow asks one of them for it."""
        return _Looks(kwargs["kernel_conn_id"])

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Look]) -> AsyncIterator[TriggerEvent]:
        """Yield an event of the ends in what the shared look brings."""
        stores = getattr(self, "asset_state_store", None)
        store = None if stores is None else CursorStore(stores, self._arguments())
        watcher = Watcher(
            self.wanted, self.poll_interval, await store.load_patiently() if store else Cursor()
        )
        with _scanner(self.kernel_conn_id).joined(watcher):
            async for look in shared_stream:
                look.consumers += 1
                if not watcher.waits_for(look):
                    continue
                if store and watcher.cursor.count_new(look.scan, self.wanted):
                    # Another triggerer may have taken over from this one, which was frozen.
                    await store.refresh(watcher.cursor)
                for event in self._events(watcher, look):
                    yield event
                if store:
                    look.commits.append(partial(store.save, watcher.cursor.state()))

    def _events(self, watcher: Watcher, look: Look) -> Iterator[TriggerEvent]:
        """Yield what there is to report: one event or none."""
        if ended := watcher.cursor.take(look.scan, self.wanted, time.time()):
            watcher.fired_at = look.at
            look.fired += len(ended)
            yield TriggerEvent(report(ended))
        for invocation_id in watcher.cursor.given_up:
            log.warning(
                "Kernel invocation %s runs for longer than it can; its end will not be reported.",
                invocation_id,
            )


class _Looks(SharedStreamProducer):
    """The looks of one connection, as Airflow's triggerer drives them."""

    def __init__(self, kernel_conn_id: str) -> None:
        self._kernel_conn_id = kernel_conn_id
        self._open = AsyncExitStack()

    async def open_stream(self) -> AsyncIterator[tuple[Look, Look]]:
        """Look, for ever."""
        from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

        hook = await self._open.enter_async_context(KernelAsyncHook(self._kernel_conn_id))
        async for look in _scanner(self._kernel_conn_id).looks(hook):
            yield look, look

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """
        Have the watchers' cursors kept: Airflow has stored all that came of these looks.

        :raises RuntimeError: it has not. All watchers of the connection start anew from what is kept.
        """
        for look, outcome in batch:
            if look.fired and outcome.acked < look.consumers:
                raise RuntimeError(
                    f"Airflow has not confirmed that it has stored the ends of {look.fired} Kernel invocations. "
                    "They are reported again."
                )
            for commit in look.commits:
                await commit()

    async def aclose(self) -> None:
        """Close the connections to Kernel."""
        await self._open.aclose()


def _scanner(kernel_conn_id: str) -> Scanner:
    """Return the one that looks for all watchers of the connection in this event loop."""
    here = _scanners.setdefault(asyncio.get_running_loop(), {})
    return here.setdefault(kernel_conn_id, Scanner(kernel_conn_id))
