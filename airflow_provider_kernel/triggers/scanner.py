"""The look at what has ended, which all watchers of one connection in a triggerer share."""

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
    pause_after,
)

if TYPE_CHECKING:
    from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

log = logging.getLogger(__name__)


class Watcher:
    """
    One who waits for ends, and what is asked for in its name.

    :param cursor: what it knows; only its owner changes that.

    ``fired_at`` is when the look was begun of which its last event came.
    """

    def __init__(self, wanted: InvocationFilter, poll_interval: float, cursor: Cursor) -> None:
        self.wanted = wanted
        self.poll_interval = poll_interval
        self.cursor = cursor
        self.is_new = True
        self.fired_at: float | None = None

    def waits_for(self, look: Look) -> bool:
        """Tell whether it takes this look; what it leaves out, a later one brings as well."""
        return self in look.watchers and not is_too_soon(look.at, self.fired_at)


class Look:
    """
    A sweep, when it was begun, and for whom it was made: what it lists is complete for those alone.

    ``takers`` counts the triggers that it was given to, ``fired`` the ends that they have reported of it, and
    ``commits`` are to be done once Airflow has stored those.
    """

    def __init__(self, at: float, scan: Scan, watchers: frozenset[Watcher]) -> None:
        self.at = at
        self.scan = scan
        self.watchers = watchers
        self.consumers = self.fired = 0
        self.commits: list[Callable[[], Awaitable[None]]] = []


class Scanner:
    """Looks for all watchers of one connection, as often as the most eager of them wants, and whenever one joins."""

    def __init__(self, kernel_conn_id: str) -> None:
        self._kernel_conn_id = kernel_conn_id
        self._watchers: dict[Watcher, None] = {}
        self._joined: asyncio.Event | None = None  # while it sleeps; it holds on to the event loop
        self._limit: int | None = None

    @contextmanager
    def joined(self, watcher: Watcher) -> Iterator[None]:
        """Have it look for this watcher too."""
        self._watchers[watcher] = None
        if self._joined:
            self._joined.set()
        try:
            yield
        finally:
            del self._watchers[watcher]

    async def looks(self, hook: KernelAsyncHook) -> AsyncIterator[Look]:
        """Look for ever; whatever goes wrong is waited out."""
        pace = RateLimiter()
        while True:
            while not self._watchers:
                await self._sleep(None)
            looked_at = time.monotonic()
            look = await self._look(looked_at, hook, pace)
            ends = max(
                (w.cursor.count_new(look.scan, w.wanted) for w in look.watchers if w.cursor.since), default=0
            )
            yield look
            # What is too much for one event comes of the same sweep: to list it anew for each might take hours.
            for _ in range(decisions.MAX_ENDS, ends, decisions.MAX_ENDS):
                await asyncio.sleep(decisions.SPACING)
                yield Look(time.monotonic(), look.scan, look.watchers)
            while not any(watcher.is_new for watcher in self._watchers):
                intervals = [watcher.poll_interval for watcher in self._watchers]
                pause = looked_at + min(intervals) - time.monotonic() if intervals else None
                if pause is not None and pause <= 0:
                    break
                await self._sleep(pause)

    async def _sleep(self, seconds: float | None) -> None:
        """Wait for so long (None: for ever), or until a watcher joins."""
        self._joined = asyncio.Event()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._joined.wait()
        finally:
            self._joined = None

    async def _look(self, at: float, hook: KernelAsyncHook, pace: RateLimiter) -> Look:
        watchers = frozenset(self._watchers)
        for watcher in watchers:
            watcher.is_new = False
        filters = common_filters(watcher.wanted for watcher in watchers)
        now = time.time()
        listing = PagedScan(min(watcher.cursor.look_from(now) for watcher in watchers), self._limit)
        while listing.offset is not None:
            # A page that failed is asked for again, not the whole list: under a low rate limit that might never end.
            page = await self._page(hook, pace, listing, filters)
            if unreadable := page.items.count(None):
                log.warning(
                    "%d of the invocations that Kernel listed, by the connection %s, have no id or no status, and "
                    "are left out.",
                    unreadable,
                    shown(self._kernel_conn_id, 200),
                )
            listing.add(page)
        if listing.is_cut:
            log.warning(
                "Kernel lists more than %d invocations, by the connection %s. Those that started first are left out.",
                decisions.MAX_SCANNED,
                shown(self._kernel_conn_id, 200),
            )
        self._limit = listing.limit
        return Look(at, listing.scan(), watchers)

    async def _page(
        self, hook: KernelAsyncHook, pace: RateLimiter, listing: PagedScan, filters: dict[str, str]
    ) -> Page:
        errors = 0
        while True:
            await asyncio.sleep(pace.delay(time.monotonic()))
            try:
                page = await hook.list_page(skip_unreadable=True, **filters, **listing.params())
            except Exception as error:  # noqa: BLE001 - Airflow would start a watcher that ends again at once
                errors += 1
                listing.on_error(error)
                pause = pause_after(errors, retry_after(error), random.random())  # noqa: S311 - not a secret
                if should_log_failure(errors):
                    log.warning(
                        "Looking for invocations that have ended, by the connection %s, in %.0f s again: %s",
                        shown(self._kernel_conn_id, 200),
                        pause,
                        error if isinstance(error, KernelError) else type(error).__name__,
                    )
                await asyncio.sleep(pause)
            else:
                if errors:
                    log.info("Kernel answers again, by the connection %s.", shown(self._kernel_conn_id, 200))
                return page
