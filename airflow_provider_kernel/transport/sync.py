"""HTTP with requests: a session, a request and its reply, an event stream. The counterpart of ``aio.py``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.endpoints import Request
from airflow_provider_kernel.api.errors import (
    KernelConfigurationError,
    KernelError,
    KernelTransportError,
)
from airflow_provider_kernel.api.events import Event, EventDecoder
from airflow_provider_kernel.api.reply_body import ACCEPT_ENCODING, ReplyBody
from airflow_provider_kernel.api.settings import KernelSettings
from airflow_provider_kernel.transport.errors import (
    USER_AGENT,
    is_refused_tunnel,
    root_causes,
    transport_error,
)
from airflow_provider_kernel.transport.limits import CONNECT_TIMEOUT, Limits
from airflow_provider_kernel.transport.proxy_tls import certificates_of, without_login

if TYPE_CHECKING:
    import requests

T = TypeVar("T")
#: Bytes that are read at once.
READ_BYTES = 2**16


def new_session(settings: KernelSettings) -> requests.Session:
    """Return a session that sends the token to Kernel only."""
    from http.cookiejar import DefaultCookiePolicy

    import requests

    from airflow_provider_kernel.transport.deadline import DeadlineAdapter

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {settings.api_key}"
        return request

    session = requests.Session()
    session.headers.update(
        {**settings.headers(), "User-Agent": USER_AGENT, "Accept-Encoding": ACCEPT_ENCODING}
    )
    session.mount("https://", DeadlineAdapter())
    session.mount("http://", DeadlineAdapter())
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    # As auth, not as a header of the session: headers may be printed, and ~/.netrc would replace one.
    session.auth = authorize
    # requests parses a redirect even if it does not follow it, and raises ValueError for a malformed one.
    session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
    session.trust_env = False  # the environment is read in with_proxy() and certificates_of()
    session.verify = certificates_of(settings)
    if settings.proxy:
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
    return session


@contextmanager
def exchange(
    session: requests.Session,
    settings: KernelSettings,
    request: Request[Any],
    limits: Limits,
    *,
    stream: bool = False,
) -> Iterator[requests.Response]:
    """
    Send a request and yield its reply; errors of requests, here and in the ``with`` block, become ours.

    :param session: of the connection.
    :param settings: how to reach Kernel.
    :param request: what to send.
    :param limits: how long it may take.
    :param stream: whether the reply is an event stream.
    :raises KernelTransportError: there was no reply, or it was not complete in time.
    :raises KernelConfigurationError: the environment does not allow requests to be used.
    """
    import requests
    from urllib3.exceptions import HTTPError

    from airflow_provider_kernel.transport.deadline import RequestDeadline

    response = None
    headers = dict(endpoints.STREAM_HEADERS) if stream else {}
    body = None
    if request.body is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(request.body, ensure_ascii=False).encode()
    began = time.monotonic()
    total = limits.total
    with RequestDeadline(limits.head if total is None else min(limits.head, total)) as deadline:
        try:
            with deadline.on_this_thread():
                response = session.request(
                    request.method,
                    settings.base_url + request.path,
                    params=request.params,
                    data=body,
                    headers=headers,
                    timeout=(max(0.1, min(CONNECT_TIMEOUT, deadline.seconds)), limits.idle_timeout),
                    stream=True,
                    allow_redirects=False,
                )
            deadline.set(None if total is None else total - (time.monotonic() - began))
            with response:
                yield response
                if deadline.has_expired:
                    raise requests.Timeout
        except (requests.RequestException, HTTPError, OSError, ValueError, KernelError) as error:
            # A part of a reply, cut by the deadline, may look like a whole one that is not Kernel's.
            if isinstance(error, KernelError) and not deadline.has_expired:
                raise
            if response is None and not isinstance(error, (requests.RequestException, ValueError)):
                # requests raises it before it sends: the file of certificates is gone.
                raise KernelConfigurationError(str(error)) from None
            proxy = without_login(settings.proxy)
            raise _transport_error(settings, error, timed_out=deadline.has_expired, proxy=proxy) from None


def result_of(request: Request[T], response: requests.Response, settings: KernelSettings) -> T:
    """
    Read the reply to a request.

    :param request: what was sent.
    :param response: the reply.
    :param settings: how Kernel was reached.
    :raises KernelApiError: Kernel refused.
    :raises KernelTransportError: the reply is not Kernel's, or too large.
    """
    status, headers = response.status_code, response.headers
    body = ReplyBody(
        headers,
        is_success=request.has_result and endpoints.is_success(status),
        limit=settings.max_response_bytes,
    )
    while not body.full and (chunk := response.raw.read1(READ_BYTES, decode_content=False)):
        for _ in body.feed(chunk):
            pass
    return endpoints.read_reply(request, status, headers, body.close(), settings.redactor, body.size)


def events_of(
    request: Request[Any], response: requests.Response, settings: KernelSettings
) -> Iterator[Event]:
    """
    Read the reply to a request for an event stream; the parameters are those of :func:`result_of`.

    :raises KernelApiError: Kernel refused.
    :raises KernelTransportError: the reply is not an event stream.
    """
    if response.status_code != 200:
        result_of(request, response, settings)
    endpoints.check_stream(response.headers, settings.redactor)
    decoder = EventDecoder(redactor=settings.redactor)
    # Not iter_content: it yields nothing before the end of a stream that a proxy sends unchunked.
    while chunk := response.raw.read1(READ_BYTES, decode_content=False):
        yield from decoder.feed(chunk)


def _transport_error(
    settings: KernelSettings, error: Exception, *, timed_out: bool, proxy: str
) -> KernelTransportError:
    import ssl

    from requests.exceptions import InvalidSchema, InvalidURL, ProxyError, Timeout
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

    causes = list(root_causes(error))
    # A ProxyError is an error of connecting to the proxy; InvalidURL and InvalidSchema mean an unusable proxy.
    unsent = (
        ConnectTimeoutError,
        InvalidSchema,
        InvalidURL,
        NewConnectionError,
        ProxyError,
        ssl.SSLCertVerificationError,
    )
    return transport_error(
        settings,
        causes,
        sent=not any(isinstance(cause, unsent) or is_refused_tunnel(cause) for cause in causes),
        timed_out=timed_out
        or isinstance(error, Timeout)
        or any(isinstance(cause, ReadTimeoutError) for cause in causes),
        proxy=proxy,
    )
