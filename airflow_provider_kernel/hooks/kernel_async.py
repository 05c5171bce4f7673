"""The part of Kernel's API that a trigger needs, asynchronous, with aiohttp."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
from tenacity import AsyncRetrying

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.endpoints import Cancellation, Page, Request
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelError,
    KernelResponseTooLargeError,
    KernelTransportError,
)
from airflow_provider_kernel.api.events import Event, EventDecoder
from airflow_provider_kernel.api.models import Invocation, InvocationStatus
from airflow_provider_kernel.api.reply_body import ACCEPT_ENCODING, ReplyBody
from airflow_provider_kernel.api.settings import KernelSettings, shown
from airflow_provider_kernel.hooks.connection import (
    DEFAULT_CONN_ID,
    ask_in_thread,
    mask_proxy_password,
    read_settings,
    settings_of,
    unreadable,
)
from airflow_provider_kernel.hooks.waits import new_wait
from airflow_provider_kernel.lifecycle.wait_machine import Ended, Follow, GaveUp, Poll, Sleep, gave_up
from airflow_provider_kernel.transport.errors import (
    CONNECT_TIMEOUT,
    USER_AGENT,
    retrying,
    root_causes,
    transport_error,
)
from airflow_provider_kernel.transport.loop_share import LoopShare
from airflow_provider_kernel.transport.per_loop import PerLoop
from airflow_provider_kernel.transport.proxy_tls import tls_of, without_login

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
log = logging.getLogger(__name__)
#: Seconds for which a connection that was read is used without reading it again.
SETTINGS_LIFE = 60.0
#: Seconds for which a connection that was not found is not looked for again: that takes seconds, one at a time.
MISSING_LIFE = 10.0
#: How many invocations a page of active ones has: few, for their payloads come with them.
ACTIVE_PAGE = 20
#: Bytes that are read at once: thousands of tiny events, some milliseconds' work.
PIECE_BYTES = 2**13
#: More active invocations than so many are not looked for.
MAX_ACTIVE = 1000


@dataclass
class _Shared:
    """What all hooks of one connection in one event loop use together."""

    session: aiohttp.ClientSession
    line: asyncio.Lock  # of those who take much of the event loop's time, whatever their connection
    users: int = 0
    settings: KernelSettings | None = None
    tls: tuple[KernelSettings, ssl.SSLContext | bool] | None = None  # and of which settings
    read_at: float = 0.0
    missing: KernelError | None = None
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


_shared: PerLoop[_Shared] = PerLoop()


class KernelAsyncHook:
    """
    Asks about, follows and cancels invocations; use it as an asynchronous context manager.

    A triggerer runs a thousand triggers in one event loop, and reads connections one at a time, at 35-40 ms
    each. So all hooks of one connection share an HTTP session, which closes with the last of them, and the
    connection is read by one of them for all, kept for a minute, and read again after a 401 or 403.

    :param kernel_conn_id: the Airflow connection; as with
        :class:`~airflow_provider_kernel.hooks.kernel.KernelHook`, the environment serves in place of the default.
    """

    def __init__(self, kernel_conn_id: str = DEFAULT_CONN_ID) -> None:
        self.kernel_conn_id = kernel_conn_id
        self._shared: _Shared | None = None

    async def __aenter__(self) -> KernelAsyncHook:
        here = _shared.here()
        if self.kernel_conn_id not in here:
            line = next((shared.line for shared in here.values()), None) or asyncio.Lock()
            here[self.kernel_conn_id] = _Shared(_new_session(), line)
        self._shared = here[self.kernel_conn_id]
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
        return await self.send(endpoints.get_invocation(invocation_id, skim=False))

    def follow_invocation(self, invocation_id: str, since: str | None = None) -> AsyncGenerator[Event, None]:
        """As :meth:`KernelHook.follow_invocation <airflow_provider_kernel.hooks.kernel.KernelHook.follow_invocation>`."""
        return self._follow(invocation_id, since, idle_timeout=None, max_lifetime=None)

    async def list_page(self, **filters: Any) -> Page:
        """
        Ask once for one page of invocations, newest first, without payloads, outputs and reasons of more than 512 bytes.

        The filters are those of Kernel's API.
        """
        return await self._send_once(endpoints.list_invocations(**filters))

    async def list_active_ids(self) -> frozenset[str]:
        """
        Ask which invocations of the account, of any app, are queued or running; :data:`MAX_ACTIVE` at most.

        Each page is asked for once: whoever looks at the whole account looks again, and knows when.
        """
        found: set[str] = set()
        limit = ACTIVE_PAGE
        # In the order of an invocation's life, or one that begins to run in between would be missed.
        for status in (InvocationStatus.QUEUED, InvocationStatus.RUNNING):
            offset: int | None = 0
            while offset is not None and offset < MAX_ACTIVE:
                try:
                    page = await self.list_page(status=status, limit=limit, offset=offset)
                except KernelResponseTooLargeError:
                    if limit == 1:
                        raise
                    limit = 1
                    continue
                found.update(invocation.id for invocation in page.items if invocation.is_active)
                offset = page.next_offset
        return frozenset(found)

    async def cancel_invocation(
        self, invocation_id: str, reason: str | None = None, by: Mapping[str, Any] | None = None
    ) -> Cancellation:
        """As :meth:`KernelHook.cancel_invocation <airflow_provider_kernel.hooks.kernel.KernelHook.cancel_invocation>`."""
        return await self._run(endpoints.cancel(invocation_id, reason, by))

    async def wait_for_invocation(
        self,
        invocation_id: str,
        *,
        deadline: float | None = None,
        poll_interval: float = 30.0,
        on_log: Callable[[str], None] | None = None,
        replayed_before: float | None = None,
        with_output: bool = True,
    ) -> Invocation:
        """
        As :meth:`KernelHook.wait_for_invocation <airflow_provider_kernel.hooks.kernel.KernelHook.wait_for_invocation>`.

        :param invocation_id: its id.
        :param deadline: when to give up, in seconds since 1970, so that it outlives a restart; None for never.
        :param poll_interval: longest time in seconds between two looks while there is no stream.
        :param on_log: called with each line (or lines, if they come fast) that the app logs; a late one begins
            with its own time.
        :param replayed_before: lines from before this time, in seconds since 1970, were shown by an earlier wait.
        :param with_output: False leaves out a payload, an output and a reason of more than 512 bytes, as a trigger
            does: to decode megabytes holds up all others in its event loop.
        :return: the invocation, succeeded or failed.
        """
        wait = new_wait(
            invocation_id,
            log,
            deadline=deadline,
            poll_interval=poll_interval,
            on_log=on_log,
            replayed_before=replayed_before,
            in_triggerer=True,
        )
        while True:
            match wait.next(time.time()):
                case Follow(idle_timeout, max_lifetime, since):
                    error = None
                    try:
                        async with aclosing(
                            self._follow(invocation_id, since, idle_timeout, max_lifetime)
                        ) as events:
                            async for event in events:
                                if not wait.on_event(event, time.time()):
                                    break
                    except KernelError as stream_error:
                        error = stream_error
                    wait.on_stream_end(time.time(), error)
                case Poll(within):
                    try:
                        found = await self._send_once(
                            endpoints.get_invocation(invocation_id, skim=not with_output), within
                        )
                    except KernelError as look_error:
                        wait.on_error(look_error, time.time())
                    else:
                        wait.on_invocation(found, time.time())
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                case Ended(invocation):
                    return invocation
                case GaveUp(error):
                    raise gave_up(invocation_id, error)

    async def settings(self) -> KernelSettings:
        """
        How Kernel is reached; read at most once a minute for all hooks of the connection.

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
            if settings.proxy:  # In a thread, for that waits for Airflow's supervisor.
                await ask_in_thread(mask_proxy_password, settings)
            return settings
        except AirflowNotFoundException:
            if known:  # Airflow says so, too, when it cannot reach its own API
                return known
            # `airflow dags test` runs a trigger where Airflow answers only those who ask synchronously.
            try:
                return await ask_in_thread(read_settings, self.kernel_conn_id, BaseHook.get_connection)
            except KernelError as error:
                shared.missing, shared.read_at = error, time.monotonic()
                raise
        except Exception as error:
            if known:
                # Airflow may be away for a while, or somebody at work on the connection, which says nothing of
                # the invocation. Not the error's text: it may hold the connection's.
                log.warning(
                    "The connection %s could not be read: %s.",
                    shown(self.kernel_conn_id, 200),
                    type(error).__name__,
                )
                return known
            if isinstance(error, KernelError):
                raise
            raise unreadable(self.kernel_conn_id, error) from None

    async def send(self, call: Request[T]) -> T:
        """Send ``call``, again where that is safe and may help."""
        reply: T = await AsyncRetrying(**retrying(call))(self._send_once, call)
        return reply

    async def _send_once(self, call: Request[T], within: float | None = None) -> T:
        """As :meth:`KernelHook._send_once`."""
        settings = await self.settings()
        timeout = max(settings.timeout, call.min_timeout)
        total = 10 * timeout if within is None else min(within, 10 * timeout)
        until = time.monotonic() + total
        async with self._request(call, settings, head=timeout, total=total, idle_timeout=timeout) as response:
            return await self._result(call, response, settings, until)

    async def _result(
        self, call: Request[T], response: aiohttp.ClientResponse, settings: KernelSettings, until: float
    ) -> T:
        """Read the reply to ``call``, until a moment of the monotonic clock."""
        status, headers = response.status, response.headers
        share = LoopShare(self._in_use().line)
        body = ReplyBody(
            headers,
            is_success=call.has_result and endpoints.is_success(status),
            limit=settings.max_response_bytes,
            skim=call.skim,
        )
        async for piece in _pieces(response, until):
            steps = body.feed(piece)
            while await share.do(lambda: next(steps, body)) is not body:  # noqa: B023 - it is called here
                pass
            if body.full:
                break
        read = partial(
            endpoints.read_reply, call, status, headers, body.close(), settings.redactor, body.size
        )
        return await share.do(read)

    @asynccontextmanager
    async def _request(
        self,
        call: Request[Any],
        settings: KernelSettings,
        *,
        head: float,
        total: float | None,
        idle_timeout: float | None = None,
        stream: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send ``call`` and give its reply; errors of aiohttp, here and in the ``with`` block, become ours."""
        import aiohttp

        shared = self._in_use()
        accept = {"Accept": "text/event-stream", "Accept-Encoding": "identity"} if stream else {}
        try:
            tls = await self._tls(settings)
            async with asyncio.timeout(head):
                response = await shared.session.request(
                    call.method,
                    settings.base_url + call.path,
                    params=call.params,
                    json=call.body,
                    # Never in a variable, which a traceback might show.
                    headers={**settings.headers(), **accept, "Authorization": f"Bearer {settings.api_key}"},
                    proxy=settings.proxy,
                    ssl=tls,
                    timeout=aiohttp.ClientTimeout(
                        total=total, sock_connect=CONNECT_TIMEOUT, sock_read=idle_timeout
                    ),
                    allow_redirects=False,
                )
            async with response:
                yield response
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, KernelError):
                raise
            unsent = (
                aiohttp.ClientConnectorError,
                aiohttp.ClientHttpProxyError,
                aiohttp.ConnectionTimeoutError,
                aiohttp.InvalidURL,
            )
            timed_out = isinstance(error, asyncio.TimeoutError)
            raise transport_error(
                settings,
                root_causes(error),
                sent=not isinstance(error, unsent),
                timed_out=timed_out,
                proxy=without_login(settings.proxy),
            ) from None
        except KernelApiError as error:
            if error.status_code in (401, 403) and shared.settings is settings:
                shared.settings = None
            raise

    async def _tls(self, settings: KernelSettings) -> ssl.SSLContext | bool:
        """Return the certificates to trust; read anew with the connection, and not in the event loop."""
        shared = self._in_use()
        async with shared.reading:
            if shared.tls is None or shared.tls[0] is not settings:
                shared.tls = settings, await ask_in_thread(tls_of, settings)
            return shared.tls[1]

    async def _follow(
        self, invocation_id: str, since: str | None, idle_timeout: float | None, max_lifetime: float | None
    ) -> AsyncGenerator[Event, None]:
        settings = await self.settings()
        opened = time.monotonic()
        call = endpoints.follow_events(invocation_id, since)
        try:
            async with self._request(
                call,
                settings,
                head=settings.timeout,
                total=max_lifetime,
                idle_timeout=idle_timeout,
                stream=True,
            ) as response:
                until = inf if max_lifetime is None else opened + max_lifetime
                if response.status != 200:
                    await self._result(call, response, settings, until)
                endpoints.check_stream(response.headers, settings.redactor)
                decoder = EventDecoder(redactor=settings.redactor)
                share = LoopShare(self._in_use().line)
                async for piece in _pieces(response, until):
                    events = await share.do(partial(decoder.feed, piece))
                    began = time.perf_counter()
                    for event in events:
                        yield event
                    share.charge(time.perf_counter() - began)
        except KernelTransportError:
            if max_lifetime is None or time.monotonic() - opened < max_lifetime:
                raise

    async def _run(self, steps: Generator[Request[Any], Any, T]) -> T:
        try:
            call = next(steps)
            while True:
                try:
                    reply = await self.send(call)
                except KernelError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _in_use(self) -> _Shared:
        if self._shared is None:
            raise RuntimeError("KernelAsyncHook is used with 'async with'.")
        return self._shared


def _new_session() -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": ACCEPT_ENCODING},
        auto_decompress=False,
    )


async def _pieces(response: aiohttp.ClientResponse, until: float) -> AsyncIterator[bytes]:
    """
    Give the body as it comes, in pieces that take little of the event loop's time each.

    :raises TimeoutError: ``until`` is over: aiohttp does not see to it where there is always more to read.
    """
    async for chunk in response.content.iter_any():
        for start in range(0, len(chunk), PIECE_BYTES):
            if time.monotonic() >= until:
                raise TimeoutError
            yield chunk[start : start + PIECE_BYTES]
