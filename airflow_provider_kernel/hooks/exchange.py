"""A session, and requests and their replies, with requests: what may take how long, and how a failure reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_kernel.api import calls
from airflow_provider_kernel.api.calls import Call, Page
from airflow_provider_kernel.api.errors import KernelConfigurationError, KernelError, KernelTransportError
from airflow_provider_kernel.api.events import Event, EventDecoder
from airflow_provider_kernel.api.settings import KernelSettings
from airflow_provider_kernel.hooks.route import certificates_of, proxy_of, without_login
from airflow_provider_kernel.hooks.transport import (
    CONNECT_TIMEOUT,
    USER_AGENT,
    is_refused_tunnel,
    root_causes,
    transport_error,
)

if TYPE_CHECKING:
    import requests

T = TypeVar("T")


def new_session(settings: KernelSettings) -> requests.Session:
    """Return a session that carries the token to Kernel, and to nobody else."""
    import requests

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {settings.api_key}"
        return request

    session = requests.Session()
    session.headers.update({**settings.headers(), "User-Agent": USER_AGENT})
    # As auth, not as a header of the session: those may be printed, and a ~/.netrc would win over one.
    session.auth = authorize
    # requests reads a redirect even if it is not to follow it, and a malformed one makes it raise a ValueError.
    session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
    session.trust_env = False  # the environment is read in proxy_of() and certificates_of()
    session.verify = certificates_of(settings)
    if proxy := proxy_of(settings):
        session.proxies = {"http": proxy, "https": proxy}
    return session


@contextmanager
def exchange(
    session: requests.Session,
    base_url: str,
    call: Call[Any],
    *,
    silence: float | None,
    total: float | None,
    stream: bool = False,
) -> Iterator[requests.Response]:
    """
    Send ``call`` and give its reply; errors of requests, here and in the ``with`` block, become ours.

    :param silence: seconds that each piece of the reply may take; None for any time.
    :param total: seconds from its head to its end; None for any time.
    :param stream: whether the reply is a stream of events.
    :raises KernelTransportError: there was no reply, or not the whole of it in time.
    :raises KernelConfigurationError: requests cannot be used as the environment has it.
    """
    import requests
    from urllib3.exceptions import HTTPError

    over, response = threading.Event(), None
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"} if stream else {}
    body = None
    if call.body is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(call.body, ensure_ascii=False).encode()
    try:
        response = session.request(
            call.method,
            base_url + call.path,
            params=call.params,
            data=body,
            headers=headers,
            timeout=(CONNECT_TIMEOUT, silence),
            stream=True,
            allow_redirects=False,
        )
        with response, _ended_after(total, response, over):
            yield response
            if over.is_set():
                raise requests.Timeout
    except (requests.RequestException, HTTPError, OSError) as error:
        if response is None and not isinstance(error, requests.RequestException):
            # From requests itself, before it sends: the file of certificates is gone.
            raise KernelConfigurationError(str(error)) from None
        proxy = without_login(session.proxies.get("https"))
        raise _transport_error(base_url, error, timed_out=over.is_set(), proxy=proxy) from None


def events_of(response: requests.Response) -> Iterator[Event]:
    """
    Read the reply to a request for a stream of events.

    :raises KernelApiError: Kernel refused.
    :raises KernelTransportError: it is no stream of events.
    """
    if response.status_code != 200:
        calls.raise_for_status(response.status_code, response.headers, response.content)
    calls.check_stream(response.headers)
    decoder = EventDecoder()
    # Not iter_content: it gives nothing before the end of a stream that a proxy passes on unchunked.
    while chunk := response.raw.read1(decode_content=True):
        yield from decoder.feed(chunk)


def run(steps: Generator[Call[Any], Any, T], send: Callable[[Call[Any]], Any]) -> T:
    """Make the calls that ``steps`` yields; return what it returns."""
    try:
        call = next(steps)
        while True:
            try:
                reply = send(call)
            except KernelError as error:
                call = steps.throw(error)
            else:
                call = steps.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def pages(ask: Callable[..., Call[Page]], send: Callable[[Call[Page]], Page]) -> Iterator[Any]:
    """Give the items of all pages; a page is asked for when it is needed."""
    offset: int | None = 0
    while offset is not None:
        page = send(ask(offset=offset or None))
        yield from page.items
        offset = page.next_offset


@contextmanager
def _ended_after(seconds: float | None, response: requests.Response, over: threading.Event) -> Iterator[None]:
    """End the reading of ``response`` after so many seconds, though it be silent, or trickle; ``over`` tells."""

    def end() -> None:
        over.set()
        with suppress(Exception):  # it ended by itself just now
            response.raw.shutdown()

    timer = None if seconds is None else threading.Timer(seconds, end)
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.cancel()


def _transport_error(base_url: str, error: Exception, *, timed_out: bool, proxy: str) -> KernelTransportError:
    import ssl

    from requests.exceptions import InvalidSchema, InvalidURL, ProxyError, Timeout
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

    causes = list(root_causes(error))
    # A ProxyError is one of connecting to the proxy; an unusable one is an InvalidURL or InvalidSchema.
    unsent = (
        ConnectTimeoutError,
        InvalidSchema,
        InvalidURL,
        NewConnectionError,
        ProxyError,
        ssl.SSLCertVerificationError,
    )
    return transport_error(
        base_url,
        causes,
        sent=not any(isinstance(cause, unsent) or is_refused_tunnel(cause) for cause in causes),
        timed_out=timed_out
        or isinstance(error, Timeout)
        or any(isinstance(cause, ReadTimeoutError) for cause in causes),
        proxy=proxy,
    )
