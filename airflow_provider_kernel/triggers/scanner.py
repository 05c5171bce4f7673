"""The scan for ended invocations, which all watchers of one connection in a triggerer share."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from airflow_provider_kernel.api.endpoints import Page
from airflow_provider_kernel.api.errors import KernelError, retry_after, should_log_failure
from airflow_provider_kernel.api.settings import shown
from airflow_provider_kernel.watch import ends as decisions
from airflow_provider_kernel.watch.ends import (
    Cursor,
    InvocationFilter,
    PagedScan,
    RateLimiter,
    Scan,
    common_filters,
    is_too_soon,
    retry_pause,
)

if TYPE_CHECKING:
    from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

log = logging.getLogger(__name__)


class Watcher:
    """
    One trigger's interest in ended invocations.

    :param wanted: the filter of the invocations.
    :param poll_interval: seconds between two scans.
    :param cursor: what the trigger has seen; only the trigger changes it.

    ``is_new`` is True until the first scan for the watcher starts. ``fired_at`` is the start time of the scan that
    produced the last event, in seconds of the monotonic clock; None before the first event.
    """

    def __init__(self, wanted: InvocationFilter, poll_interval: float, cursor: Cursor) -> None:
        self.wanted = wanted
        self.poll_interval = poll_interval
        self.cursor = cursor
        self.is_new = True
        self.fired_at: float | None = None

    def accepts(self, result: ScanResult) -> bool:
        """Return whether to take ends from ``result``; a later result holds the ends of a refused one, too."""
        return self in result.watchers and not is_too_soon(result.started_at, self.fired_at)


class ScanResult:
    """
    A scan, with what the triggers that receive it make of it.

    :param started_at: the start time of the scan, in seconds of the monotonic clock.
    :param scan: the scan.
    :param watchers: the watchers for which the scan is complete; other triggers receive the result, too.

    ``consumers`` counts the triggers that received the result, ``reported`` the ends in their events. ``commits`` are
    to be called after Airflow has stored these events.
    """

    def __init__(self, started_at: float, scan: Scan, watchers: frozenset[Watcher]) -> None:
        self.started_at = started_at
        self.scan = scan
        self.watchers = watchers
        self.consumers = self.reported = 0
        self.commits: list[Callable[[], Awaitable[None]]] = []


class Scanner:
    """
    Scans for all watchers of one connection: at the shortest of their intervals, and at once for a new watcher.

    :param kernel_conn_id: the Airflow connection.
    """

    def __init__(self, kernel_conn_id: str) -> None:
        self._kernel_conn_id = kernel_conn_id
        self._watchers: dict[Watcher, None] = {}
        # Only set while the scanner sleeps, because it keeps the event loop alive.
        self._watcher_added: asyncio.Event | None = None
        self._limit: int | None = None

    @contextmanager
    def watched_by(self, watcher: Watcher) -> Iterator[None]:
        """Scan for ``watcher``, too, until the context ends."""
        self._watchers[watcher] = None
        if self._watcher_added:
            self._watcher_added.set()
        try:
            yield
        finally:
            del self._watchers[watcher]

    async def results(self, hook: KernelAsyncHook) -> AsyncIterator[ScanResult]:
        """Scan forever, and yield each result; after an error the scanner tries again."""
        limiter = RateLimiter()
        while True:
            while not self._watchers:
                await self._sleep(None)
            started_at = time.monotonic()
            result = await self._scan(started_at, hook, limiter)
            ends = max(
                (w.cursor.count_new(result.scan, w.wanted) for w in result.watchers if w.cursor.since),
                default=0,
            )
            yield result
            # Report ends beyond MAX_ENDS from the same scan: a new scan for each event could take hours.
            for _ in range(decisions.MAX_ENDS, ends, decisions.MAX_ENDS):
                await asyncio.sleep(decisions.EVENT_SPACING)
                yield ScanResult(time.monotonic(), result.scan, result.watchers)
            while not any(watcher.is_new for watcher in self._watchers):
                intervals = [watcher.poll_interval for watcher in self._watchers]
                pause = started_at + min(intervals) - time.monotonic() if intervals else None
                if pause is not None and pause <= 0:
                    break
                await self._sleep(pause)

    async def _sleep(self, seconds: float | None) -> None:
        """Sleep for ``seconds`` (None: forever), or until a watcher is added."""
        self._watcher_added = asyncio.Event()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._watcher_added.wait()
        finally:
            self._watcher_added = None

    async def _scan(self, started_at: float, hook: KernelAsyncHook, limiter: RateLimiter) -> ScanResult:
        watchers = frozenset(self._watchers)
        for watcher in watchers:
            watcher.is_new = False
        filters = common_filters(watcher.wanted for watcher in watchers)
        now = time.time()
        paged = PagedScan(min(watcher.cursor.scan_since(now) for watcher in watchers), self._limit)
        while paged.offset is not None:
            # Repeat only the failed page: under a low rate limit, repeating the whole list might never end.
            page = await self._page(hook, limiter, paged, filters)
            if unreadable := page.items.count(None):
                log.warning(
                    "Kernel listed %d invocations of connection %s without a valid id or status. "
                    "The watchers ignore them.",
                    unreadable,
                    shown(self._kernel_conn_id, 200),
                )
            paged.add(page)
        if paged.is_cut:
            log.warning(
                "Kernel listed more than %d invocations of connection %s. "
                "The watchers ignore those that started first.",
                decisions.MAX_SCANNED,
                shown(self._kernel_conn_id, 200),
            )
        self._limit = paged.limit
        return ScanResult(started_at, paged.scan(), watchers)

    async def _page(
        self, hook: KernelAsyncHook, limiter: RateLimiter, paged: PagedScan, filters: dict[str, str]
    ) -> Page:
        errors = 0
        while True:
            await asyncio.sleep(limiter.delay(time.monotonic()))
            try:
                page = await hook.list_page(skip_unreadable=True, **filters, **paged.params())
            except Exception as error:  # noqa: BLE001 - Airflow would restart a failed watcher at once, again and again
                errors += 1
                paged.on_error(error)
                pause = retry_pause(errors, retry_after(error), random.random())  # noqa: S311 - not a secret
                if should_log_failure(errors):
                    log.warning(
                        "Kernel did not list the invocations of connection %s. The watchers ask again in %.0f s. %s",
                        shown(self._kernel_conn_id, 200),
                        pause,
                        error if isinstance(error, KernelError) else f"{type(error).__name__}.",
                    )
                await asyncio.sleep(pause)
            else:
                if errors:
                    log.info(
                        "Kernel lists the invocations of connection %s again.",
                        shown(self._kernel_conn_id, 200),
                    )
                return page
