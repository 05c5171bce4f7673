"""HTTP with aiohttp: a session, a request and its reply, an event stream. The counterpart of ``sync.py``."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.endpoints import Request
from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.api.events import Event, EventDecoder
from airflow_provider_kernel.api.reply_body import ACCEPT_ENCODING, ReplyBody
from airflow_provider_kernel.api.settings import KernelSettings
from airflow_provider_kernel.transport.errors import USER_AGENT, root_causes, transport_error
from airflow_provider_kernel.transport.limits import CONNECT_TIMEOUT, Limits
from airflow_provider_kernel.transport.loop_share import LoopShare
from airflow_provider_kernel.transport.proxy_tls import without_login

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
#: Bytes that are read at once: thousands of tiny events, some milliseconds of work.
CHUNK_BYTES = 2**13


def new_session() -> aiohttp.ClientSession:
    """Return a session, which does not carry the token."""
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": ACCEPT_ENCODING},
        auto_decompress=False,
    )


@asynccontextmanager
async def exchange(
    session: aiohttp.ClientSession,
    settings: KernelSettings,
    tls: ssl.SSLContext | bool,
    request: Request[Any],
    limits: Limits,
    *,
    stream: bool = False,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """
    Send a request and yield its reply; errors of aiohttp, here and in the ``with`` block, become ours.

    :param session: of the connection.
    :param settings: how to reach Kernel.
    :param tls: the certificates to trust; see :func:`~airflow_provider_kernel.transport.proxy_tls.tls_of`.
    :param request: what to send.
    :param limits: how long it may take.
    :param stream: whether the reply is an event stream.
    :raises KernelTransportError: there was no reply, or it was not complete in time.
    """
    import aiohttp

    accept = endpoints.STREAM_HEADERS if stream else {}
    timeout = aiohttp.ClientTimeout(
        total=limits.total, sock_connect=CONNECT_TIMEOUT, sock_read=limits.idle_timeout
    )
    try:
        async with asyncio.timeout(limits.head):
            response = await session.request(
                request.method,
                settings.base_url + request.path,
                params=request.params,
                json=request.body,
                # Never in a variable, which a traceback might show.
                headers={**settings.headers(), **accept, "Authorization": f"Bearer {settings.api_key}"},
                proxy=settings.proxy,
                ssl=tls,
                timeout=timeout,
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
        raise transport_error(
            settings,
            root_causes(error),
            sent=not isinstance(error, unsent),
            timed_out=isinstance(error, asyncio.TimeoutError),
            proxy=without_login(settings.proxy),
        ) from None


async def result_of(
    request: Request[T],
    response: aiohttp.ClientResponse,
    settings: KernelSettings,
    until: float,
    loop_lock: asyncio.Lock,
) -> T:
    """
    Read the reply to a request.

    :param request: what was sent.
    :param response: the reply.
    :param settings: how Kernel was reached.
    :param until: when to give up, by the monotonic clock.
    :param loop_lock: see :class:`~airflow_provider_kernel.transport.loop_share.LoopShare`.
    :raises KernelApiError: Kernel refused.
    :raises KernelTransportError: the reply is not Kernel's, or too large.
    """
    status, headers = response.status, response.headers
    share = LoopShare(loop_lock)
    body = ReplyBody(
        headers,
        is_success=request.has_result and endpoints.is_success(status),
        limit=settings.max_response_bytes,
        skim=request.skim,
    )
    async for chunk in response.content.iter_any():
        for piece in _pieces(chunk, until):
            steps = body.feed(piece)
            while await share.do(lambda: next(steps, body)) is not body:  # noqa: B023 - it is called here
                pass
            if body.full:
                break
        if body.full:
            break
    return await share.do(
        partial(endpoints.read_reply, request, status, headers, body.close(), settings.redactor, body.size)
    )


async def events_of(
    request: Request[Any],
    response: aiohttp.ClientResponse,
    settings: KernelSettings,
    until: float,
    loop_lock: asyncio.Lock,
) -> AsyncGenerator[Event, None]:
    """
    Read the reply to a request for an event stream; the parameters are those of :func:`result_of`.

    :raises KernelApiError: Kernel refused.
    :raises KernelTransportError: the reply is not an event stream.
    """
    if response.status != 200:
        await result_of(request, response, settings, until, loop_lock)
    endpoints.check_stream(response.headers, settings.redactor)
    decoder = EventDecoder(redactor=settings.redactor)
    share = LoopShare(loop_lock)
    async for chunk in response.content.iter_any():
        for piece in _pieces(chunk, until):
            events = await share.do(partial(decoder.feed, piece))
            began = time.perf_counter()
            for event in events:
                yield event
            share.charge(time.perf_counter() - began)


def _pieces(chunk: bytes, until: float) -> Iterator[bytes]:
    """
    Yield a part of the body in pieces that take little of the event loop's time each.

    :raises TimeoutError: ``until`` has passed. aiohttp does not notice if there is always more to read.
    """
    for start in range(0, len(chunk), CHUNK_BYTES):
        if time.monotonic() >= until:
            raise TimeoutError
        yield chunk[start : start + CHUNK_BYTES]
