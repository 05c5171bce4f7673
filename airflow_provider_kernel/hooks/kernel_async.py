"""A client for triggers on an Airflow connection: asynchronous, with aiohttp."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
from tenacity import AsyncRetrying

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.arguments import DEFAULT_CONN_ID
from airflow_provider_kernel.api.endpoints import Cancellation, Page, Request
from airflow_provider_kernel.api.errors import KernelApiError, KernelError, KernelTransportError
from airflow_provider_kernel.api.events import Event
from airflow_provider_kernel.api.listing import PagedList
from airflow_provider_kernel.api.models import Invocation, InvocationStatus
from airflow_provider_kernel.api.settings import KernelSettings, shown
from airflow_provider_kernel.hooks.connection import (
    ask_in_thread,
    mask_proxy_password,
    read_settings,
    settings_of,
    unreadable,
)
from airflow_provider_kernel.hooks.kernel import new_wait
from airflow_provider_kernel.lifecycle.conversation import Conversation, Follow, cancel
from airflow_provider_kernel.lifecycle.log_buffer import LogPosition
from airflow_provider_kernel.lifecycle.wait_machine import wait_for_end
from airflow_provider_kernel.transport.aio import events_of, exchange, new_session, result_of
from airflow_provider_kernel.transport.driver import adrive
from airflow_provider_kernel.transport.errors import retrying
from airflow_provider_kernel.transport.limits import Limits, limits_of, stream_limits
from airflow_provider_kernel.transport.loop_share import Turns
from airflow_provider_kernel.transport.per_loop import PerLoop
from airflow_provider_kernel.transport.proxy_tls import tls_of

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
log = logging.getLogger(__name__)
#: Seconds after which a connection is read again.
SETTINGS_LIFE = 60.0
#: Seconds after which a missing connection is looked up again: a look-up takes seconds, one at a time.
MISSING_LIFE = 10.0
#: Streams that are opened at once, and seconds until the next ones are: a triggerer may start thousands of triggers at once, and
#: opening all their streams at the same time would hold the event loop, and overflow the server's queue of new connections.
STREAMS_AT_ONCE, STREAM_SPACING = 25, 0.05
#: Active invocations per page: few, because Kernel lists them with their payloads.
ACTIVE_PAGE = 20
#: Maximum number of active invocations that are listed, for each status.
MAX_ACTIVE = 1000


@dataclass
class _Shared:
    """What all hooks of one connection share in one event loop."""

    session: aiohttp.ClientSession
    loop_lock: asyncio.Lock  # of all connections: see LoopShare
    users: int = 0
    settings: KernelSettings | None = None
    tls: tuple[KernelSettings, ssl.SSLContext | bool] | None = None  # with the settings they belong to
    read_at: float = 0.0
    missing: KernelError | None = None
    stream_turns: Turns = field(default_factory=lambda: Turns(STREAMS_AT_ONCE, STREAM_SPACING))
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


_loop_locks: PerLoop[asyncio.Lock] = PerLoop()
_shared: PerLoop[_Shared] = PerLoop()


class KernelAsyncHook:
    """
    Asks about, follows and cancels invocations. Use it as an asynchronous context manager.

    A triggerer runs a thousand triggers in one event loop, and reads connections one at a time, 35-40 ms each. So all
    hooks of one connection share an HTTP session, which closes with the last of them. One of them reads the connection for
    all; it is read again after a minute, and after a 401 or 403.

    :param kernel_conn_id: the Airflow connection; as with
        :class:`~airflow_provider_kernel.hooks.kernel.KernelHook`, the environment may replace the default one.
    """

    def __init__(self, kernel_conn_id: str = DEFAULT_CONN_ID) -> None:
        self.kernel_conn_id = kernel_conn_id
        self._shared: _Shared | None = None

    async def __aenter__(self) -> KernelAsyncHook:
        self._shared = _shared.get(self.kernel_conn_id, _new_shared)
        self._shared.users += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        shared, self._shared = self._in_use(), None
        shared.users -= 1
        if not shared.users:
            del _shared.here()[self.kernel_conn_id]
            await shared.session.close()

    async def get_invocation(self, invocation_id: str) -> Invocation:
        """As :meth:`KernelHook.get_invocation <airflow_provider_kernel.hooks.kernel.KernelHook.get_invocation>`."""
        return await self._send(endpoints.get_invocation(invocation_id, skim=False))

    def follow_invocation(self, invocation_id: str, since: str | None = None) -> AsyncGenerator[Event, None]:
        """As :meth:`KernelHook.follow_invocation <airflow_provider_kernel.hooks.kernel.KernelHook.follow_invocation>`."""
        return self._events(invocation_id, since, idle_timeout=None, max_lifetime=None)

    async def list_page(self, **filters: Any) -> Page:
        """
        Request one page of invocations, newest first, without payloads, outputs and reasons of more than 512 bytes.

        The filters are those of Kernel's API.
        """
        return await self._send_once(endpoints.list_invocations(**filters))

    async def list_active_ids(self) -> frozenset[str]:
        """
        Return the ids of all queued and running invocations of the account; at most :data:`MAX_ACTIVE` of each.

        Each page is requested once: the caller polls again, and decides when.
        """
        found: set[str] = set()
        # In the order of an invocation's life: otherwise one that begins to run in between would be missed.
        for status in (InvocationStatus.QUEUED, InvocationStatus.RUNNING):
            pages = PagedList(partial(_active_page, status), ACTIVE_PAGE, max_offset=MAX_ACTIVE)
            while pages.has_more:
                invocations = await self._drive(pages.next_page())
                found.update(invocation.id for invocation in invocations if invocation.is_active)
        return frozenset(found)

    async def cancel_invocation(
        self, invocation_id: str, reason: str | None = None, by: Mapping[str, Any] | None = None
    ) -> Cancellation:
        """As :meth:`KernelHook.cancel_invocation <airflow_provider_kernel.hooks.kernel.KernelHook.cancel_invocation>`."""
        return await self._drive(cancel(invocation_id, reason, by))

    async def wait_for_invocation(
        self,
        invocation_id: str,
        *,
        deadline: float | None = None,
        poll_interval: float = 30.0,
        on_log: Callable[[str], None] | None = None,
        replayed_before: float | None = None,
        with_output: bool = True,
        confirm_end: bool = True,
        log_position: LogPosition | None = None,
    ) -> Invocation:
        """
        As :meth:`KernelHook.wait_for_invocation <airflow_provider_kernel.hooks.kernel.KernelHook.wait_for_invocation>`.

        :param invocation_id: its id.
        :param deadline: when to give up, in seconds since 1970, so that it outlives a restart; None for never.
        :param poll_interval: longest time in seconds between two polls while there is no stream. Default 30.
        :param on_log: called with each line that the app logs, or several lines if they come fast; a late line begins with
            its own time. Default: None.
        :param replayed_before: lines from before this time, in seconds since 1970, were shown by an earlier wait.
        :param with_output: False leaves out a payload, an output and a reason of more than 512 bytes, for a trigger:
            decoding megabytes would delay all others in its event loop.
        :param confirm_end: False saves a request: the event stream's word is enough, and ``GET`` may still deny the end. What
            is returned then lacks what the event lacks. Default True.
        :param log_position: how far an earlier wait has shown the log; that part is not shown again.
        :return: the invocation, succeeded or failed.
        """
        machine = new_wait(
            invocation_id,
            log,
            deadline=deadline,
            poll_interval=poll_interval,
            on_log=on_log,
            replayed_before=replayed_before,
            confirm_end=confirm_end,
            log_position=log_position,
            in_triggerer=True,
        )
        return await self._drive(wait_for_end(machine, time.time, skim=not with_output))

    async def settings(self) -> KernelSettings:
        """
        How to reach Kernel; read at most once a minute for all hooks of the connection.

        :return: address, token, project and time-out.
        :raises KernelConfigurationError: the connection does not exist, has no token, or cannot be used.
        :raises KernelTransportError: Airflow cannot be asked for it, and it was never read before.
        """
        shared = self._in_use()
        async with shared.reading:
            if shared.missing and time.monotonic() - shared.read_at < MISSING_LIFE:
                raise shared.missing
            if shared.settings is None or time.monotonic() - shared.read_at > SETTINGS_LIFE:
                shared.missing = None
                shared.settings = await self._read_settings(shared)
                shared.read_at = time.monotonic()
            return shared.settings

    async def _read_settings(self, shared: _Shared) -> KernelSettings:
        known = shared.settings
        try:
            settings = settings_of(await get_async_connection(self.kernel_conn_id))
            if settings.proxy:  # in a thread: it waits for Airflow's supervisor
                await ask_in_thread(mask_proxy_password, settings)
            return settings
        except AirflowNotFoundException:
            if known:  # Airflow raises the same if it cannot reach its own API
                return known
            # In `airflow dags test`, Airflow answers only synchronous questions of a trigger.
            try:
                return await ask_in_thread(read_settings, self.kernel_conn_id, BaseHook.get_connection)
            except KernelError as error:
                shared.missing, shared.read_at = error, time.monotonic()
                raise
        except Exception as error:
            if known:
                # Airflow may be away, or a user may be editing the connection; the invocation runs on. Without the error's
                # text: it may contain the connection.
                log.warning(
                    "The Airflow connection %s could not be read: %s. The trigger uses the one that it read before.",
                    shown(self.kernel_conn_id, 200),
                    type(error).__name__,
                )
                return known
            if isinstance(error, KernelError):
                raise
            raise unreadable(self.kernel_conn_id, error) from None

    async def _drive(self, conversation: Conversation[T]) -> T:
        return await adrive(conversation, self._send, self._follow)

    async def _send(self, request: Request[T]) -> T:
        """Send a request, again if that is safe and may help; return the reply's result."""
        reply: T = await AsyncRetrying(**retrying(request))(self._send_once, request)
        return reply

    async def _send_once(self, request: Request[T]) -> T:
        settings = await self.settings()
        limits = limits_of(request, settings)
        until = time.monotonic() + (limits.total or inf)
        async with self._exchange(request, settings, limits) as response:
            return await result_of(request, response, settings, until, self._in_use().loop_lock)

    @asynccontextmanager
    async def _exchange(
        self, request: Request[Any], settings: KernelSettings, limits: Limits, *, stream: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield its reply. If Kernel refuses the token, the next request reads the connection again."""
        shared = self._in_use()
        try:
            tls = await self._tls(settings)
            async with exchange(shared.session, settings, tls, request, limits, stream=stream) as response:
                yield response
        except KernelApiError as error:
            if error.status_code in (401, 403) and shared.settings is settings:
                shared.settings = None
            raise

    async def _tls(self, settings: KernelSettings) -> ssl.SSLContext | bool:
        """Return the certificates to trust; read again with the connection, and not in the event loop."""
        shared = self._in_use()
        async with shared.reading:
            if shared.tls is None or shared.tls[0] is not settings:
                shared.tls = settings, await ask_in_thread(tls_of, settings)
            return shared.tls[1]

    async def _follow(self, follow: Follow) -> None:
        until = time.monotonic() + follow.max_lifetime
        await self._in_use().stream_turns.take(follow.max_lifetime)
        left = max(until - time.monotonic(), 0.1)
        events = self._events(follow.invocation_id, follow.since, follow.idle_timeout, left)
        async with aclosing(events):
            async for event in events:
                if not follow.on_event(event):
                    break

    async def _events(
        self, invocation_id: str, since: str | None, idle_timeout: float | None, max_lifetime: float | None
    ) -> AsyncGenerator[Event, None]:
        request = endpoints.follow_events(invocation_id, since)
        settings = await self.settings()
        opened = time.monotonic()
        until = opened + (inf if max_lifetime is None else max_lifetime)
        limits = stream_limits(settings, idle_timeout, max_lifetime)
        try:
            async with self._exchange(request, settings, limits, stream=True) as response:
                loop_lock = self._in_use().loop_lock
                async with aclosing(events_of(request, response, settings, until, loop_lock)) as events:
                    async for event in events:
                        yield event
        except KernelTransportError:
            if time.monotonic() < until:
                raise

    def _in_use(self) -> _Shared:
        if self._shared is None:
            raise RuntimeError("KernelAsyncHook is used with 'async with'.")
        return self._shared


def _active_page(status: str, *, limit: int, offset: int | None) -> Request[Page]:
    return endpoints.list_invocations(status=status, limit=limit, offset=offset or 0).once()


def _new_shared() -> _Shared:
    return _Shared(new_session(), _loop_locks.get("", asyncio.Lock))
