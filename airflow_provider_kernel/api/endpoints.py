"""The requests of Kernel's API as data, and how their replies are read. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, NoReturn, TypeGuard, TypeVar
from urllib.parse import quote, urlsplit

from airflow_provider_kernel.api.arguments import SYNC_LIMIT_SECONDS, is_invocation_id
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelError,
    KernelTransportError,
    is_certainly_not_accepted,
    is_retryable,
)
from airflow_provider_kernel.api.models import (
    Invocation,
    InvocationRequest,
    InvocationStatus,
)
from airflow_provider_kernel.api.payload import parse_json
from airflow_provider_kernel.api.reply_body import is_encoded
from airflow_provider_kernel.api.text import MAX_NAME, NO_SECRETS, Redactor, clean, sentence

T = TypeVar("T")
#: Maximum Retry-After that is honoured, in seconds.
MAX_RETRY_AFTER = 3600.0
#: Maximum number of details of an error that are read.
MAX_DETAILS = 10
#: Maximum length of an error's message, in characters.
MAX_ERROR_MESSAGE = 1_000
#: Maximum number of items on a page (Kernel's OpenAPI description).
MAX_PAGE = 100
#: Maximum offset of a page. Kernel's lists are shorter.
MAX_OFFSET = 10**7
#: Headers of a request for an event stream. Encoded, it might expand to any amount of data; see :func:`check_stream`.
STREAM_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
_REQUEST_ID_HEADERS = ("X-Request-Id", "X-Kernel-Request-Id", "CF-Ray")


@dataclass(frozen=True)
class Request(Generic[T]):
    """
    One request, and how its reply is read.

    :param method: the HTTP method.
    :param path: the path below the API's address.
    :param read: turns the reply's JSON and headers into the result.
    :param params: the query.
    :param body: the JSON body; None for no body.
    :param may_repeat: returns whether the request may be sent again after an error.
    :param min_timeout: seconds that the reply may take at least, whatever the connection's ``timeout`` is.
    :param has_result: False if the body of a success is not read.
    :param skim: whether a triggerer may leave out strings of more than 512 bytes, such as payloads and outputs.
    :param max_attempts: how often the request is sent at most; None for the transport's default.
    :param total_timeout: seconds that the request may take as a whole, if fewer than the connection's allow.
    """

    method: str
    path: str
    read: Callable[[Any, Mapping[str, str]], T]
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    may_repeat: Callable[[KernelError], bool] = is_retryable
    min_timeout: float = 0
    has_result: bool = True
    skim: bool = True
    max_attempts: int | None = None
    total_timeout: float | None = None

    def once(self, total_timeout: float | None = None) -> Request[T]:
        """Return the same request, to be sent once: its sender decides when to send it again."""
        return replace(self, max_attempts=1, total_timeout=total_timeout)


class Page(NamedTuple):
    """
    One page of a list.

    :param items: the items.
    :param next_offset: offset of the next page; None on the last page.
    :param size: bytes of the reply, decoded.
    """

    items: list[Any]
    next_offset: int | None
    size: int = 0


def invoke(
    request: InvocationRequest, may_repeat: Callable[[KernelError], bool] = is_certainly_not_accepted
) -> Request[Invocation]:
    """Return the request to start an invocation. ``may_repeat`` must be False after errors by which Kernel may have accepted."""
    return Request(
        "POST",
        "/invocations",
        _invocation,
        body=request.body(),
        may_repeat=may_repeat,
        min_timeout=0 if request.async_ else SYNC_LIMIT_SECONDS + 20,
    )


def get_invocation(invocation_id: str, *, skim: bool = True) -> Request[Invocation]:
    """Return the request for one invocation, the authority on its state; ``skim`` as in :class:`Request`."""
    return Request("GET", _path(invocation_id), _invocation_with(invocation_id), skim=skim)


def list_invocations(*, skip_unreadable: bool = False, **filters: Any) -> Request[Page]:
    """
    Return the request for one page of invocations, newest first; the filters are those of Kernel's API, None for unset.

    With ``skip_unreadable``, an item without id or status is None, not an error.
    """
    read = _invocation_or_none if skip_unreadable else Invocation.from_json
    return _list("/invocations", read, filters)


def list_apps(**filters: Any) -> Request[Page]:
    """Return the request for one page of deployed app versions."""
    return _list("/apps", dict, filters)


def end_invocation(invocation_id: str, output: str | None = None) -> Request[Invocation]:
    """Return the request to cancel: it sets the status to ``failed``, and ``output`` to JSON text."""
    body = {"status": InvocationStatus.FAILED.value}
    return Request(
        "PATCH",
        _path(invocation_id),
        _invocation_with(invocation_id),
        body=body if output is None else {**body, "output": output},
    )


def delete_browsers(invocation_id: str) -> Request[None]:
    """Return the request to close all browsers of an invocation."""
    return Request("DELETE", _path(invocation_id, "/browsers"), lambda data, headers: None, has_result=False)


def follow_events(invocation_id: str, since: str | None = None) -> Request[None]:
    """Return the request for the event stream; :class:`~airflow_provider_kernel.api.events.EventDecoder` reads its body."""
    return Request(
        "GET", _path(invocation_id, "/events"), lambda data, headers: None, _params({"since": since})
    )


def auth_context() -> Request[dict[str, Any]]:
    """Return the request for the owner of the token."""
    return Request("GET", "/auth/context", lambda data, headers: dict(data))


class ConcurrencyLimits(NamedTuple):
    """
    Maximum number of concurrent invocations.

    :param total: of the organization.
    :param per_app: of one app; None if Kernel does not tell.
    """

    total: int
    per_app: int | None


def entitlements() -> Request[ConcurrencyLimits]:
    """Return the request for the organization's limits, which not every token may read."""
    return Request("GET", "/org/entitlements", _limits)


def _limits(data: Any, headers: Mapping[str, str]) -> ConcurrencyLimits:
    limits = dict(data)["limits"] or {}
    total = limits.get("max_concurrent_invocations")
    per_app = limits.get("default_max_concurrent_invocations_per_app")
    if not _is_limit(total):
        raise TypeError("a limit is a whole number")
    return ConcurrencyLimits(total, per_app if _is_limit(per_app) else None)


def _is_limit(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 10**12


class Cancellation(NamedTuple):
    """
    The result of cancelling.

    :param invocation: as last seen.
    :param cancelled: whether this request ended the invocation.
    :param browsers_error: why the browsers could not be closed; they may be open, and bill on. None: they are closed.
    """

    invocation: Invocation
    cancelled: bool
    browsers_error: KernelError | None = None

    def __str__(self) -> str:
        what = "was cancelled" if self.cancelled else f"had already {self.invocation.status}"
        browsers = f", but its browsers may be open: {self.browsers_error}" if self.browsers_error else "."
        return f"Kernel invocation {self.invocation.id} {what}{browsers}"


def is_success(status: int) -> bool:
    """Return whether an HTTP status is a success (2xx)."""
    return 200 <= status < 300


def read_reply(
    request: Request[T],
    status: int,
    headers: Mapping[str, str],
    body: bytes | bytearray,
    redactor: Redactor = NO_SECRETS,
    size: int | None = None,
) -> T:
    """
    Turn a reply into the request's result.

    :param request: the request.
    :param status: the reply's HTTP status.
    :param headers: the reply's, a case-insensitive mapping.
    :param body: the whole body, or the skimmed one.
    :param redactor: replaces secrets in the reply.
    :param size: bytes of the whole body. Default: those of ``body``.
    :return: the result.
    :raises KernelApiError: an error status, or a redirect.
    :raises KernelTransportError: the body of a success is not Kernel's.
    """
    if not is_success(status):
        raise_for_status(status, headers, body, redactor)
    size = len(body) if size is None else size
    try:
        text = body.decode() if request.has_result and status != 204 else None
        del body  # An output may have hundreds of megabytes.
        data = None if text is None else redactor.json(parse_json(text), text)
        del text
        result = request.read(data, headers)
    except _MALFORMED:
        raise KernelTransportError(
            f"{request.method} {request.path} was answered {status} with {_kind(headers, redactor)} that is not Kernel's "
            "reply; a proxy may have answered."
        ) from None
    if isinstance(result, Page):
        return result._replace(size=size)
    return result


#: Exceptions of reading JSON that is malformed, or of an unexpected shape.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


def check_stream(headers: Mapping[str, str], redactor: Redactor = NO_SECRETS) -> None:
    """
    Check the headers of a reply with status 200 to :func:`follow_events`.

    :param headers: the reply's.
    :param redactor: as in :func:`read_reply`.
    :raises KernelTransportError: the reply is not an event stream, so its end has no meaning; or it is encoded, which was
        not requested and may expand to any amount of data.
    """
    kind = _kind(headers, redactor)
    if kind.strip().lower() != STREAM_HEADERS["Accept"] or is_encoded(headers):
        encoded = " with an encoding" if is_encoded(headers) else ""
        raise KernelTransportError(
            f"The reply to a request for events is {kind}{encoded}; a proxy may have answered."
        )


def raise_for_status(
    status: int, headers: Mapping[str, str], body: bytes | bytearray, redactor: Redactor = NO_SECRETS
) -> NoReturn:
    """
    Raise the exception for an error reply.

    :param status: the HTTP status.
    :param headers: the reply's.
    :param body: the whole body.
    :param redactor: as in :func:`read_reply`.
    :raises KernelApiError: always.
    """
    code, message = (
        None,
        f"the body is {_kind(headers, redactor)} and not Kernel's; a proxy may have answered",
    )
    if 300 <= status < 400:
        host = clean(redactor.text(_host(headers.get("Location"))), MAX_NAME)
        message = f"a redirect to {host}, which is not followed so that the token stays where it belongs"
    else:
        try:
            text = body.decode()
            error = redactor.json(parse_json(text), text)
            if isinstance(error["message"], str):
                message = clean(_sentence(error), MAX_ERROR_MESSAGE)
            code = clean(error["code"], MAX_NAME) if isinstance(error.get("code"), str) else None
        except _MALFORMED:
            pass
    request_id = next((headers[name] for name in _REQUEST_ID_HEADERS if headers.get(name)), None)
    raise KernelApiError(
        message,
        status_code=status,
        code=code,
        request_id=request_id and clean(redactor.text(request_id), MAX_NAME),
        retry_after=_retry_after(headers.get("Retry-After")),
    )


def _sentence(error: Mapping[str, Any]) -> str:
    """Join Kernel's message and the messages of its details."""
    parts = [error["message"]]
    for detail in [*(error.get("details") or [])[:MAX_DETAILS], error.get("inner_error")]:
        if isinstance(detail, Mapping) and isinstance(detail.get("message"), str):
            parts.append(detail["message"])
    return " ".join(map(sentence, parts)) if parts[1:] else parts[0]


def _invocation(data: Any, headers: Mapping[str, str]) -> Invocation:
    return Invocation.from_json(data)


def _invocation_with(invocation_id: str) -> Callable[[Any, Mapping[str, str]], Invocation]:
    def read(data: Any, headers: Mapping[str, str]) -> Invocation:
        found = Invocation.from_json(data)
        if found.id != invocation_id:
            raise ValueError("another invocation than was asked for")
        return found

    return read


def _invocation_or_none(data: Any) -> Invocation | None:
    try:
        return Invocation.from_json(data)
    except KernelTransportError:
        return None


def _list(path: str, read: Callable[[Any], Any], filters: Mapping[str, Any]) -> Request[Page]:
    offset, limit = filters.get("offset") or 0, filters.get("limit") or MAX_PAGE
    return Request(
        "GET", path, lambda data, headers: _page(data, headers, read, offset, limit), _params(filters)
    )


def _page(data: Any, headers: Mapping[str, str], read: Callable[[Any], Any], offset: int, limit: int) -> Page:
    if not isinstance(data, list):
        raise TypeError("a page is a JSON array")
    if len(data) > limit:
        raise ValueError("the page has more items than were requested")
    # X-Next-Offset is absolute, and 0 on the last page.
    following = headers.get("X-Next-Offset") or None
    has_more = headers.get("X-Has-More", "").lower()
    if has_more == "true" and following is None:
        raise ValueError("the list continues, but the reply does not say where")
    if has_more == "false" or not data or following is None:
        following = "0"
    next_offset = int(following) or None
    if next_offset is not None and not offset + len(data) <= next_offset <= MAX_OFFSET:
        raise ValueError("the next page does not follow this one")
    return Page([read(item) for item in data], next_offset)


def _params(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items() if value is not None}


def _path(invocation_id: str, rest: str = "") -> str:
    if not is_invocation_id(invocation_id):
        is_text = isinstance(invocation_id, str)
        raise KernelConfigurationError(
            "An invocation id is a text such as 'rr33xuugxj9h0bkf1rdt2bet', not "
            f"{repr(clean(invocation_id, 40)) if is_text else type(invocation_id).__name__}."
        )
    return f"/invocations/{quote(invocation_id, safe='')}{rest}"


def _host(location: str | None) -> str:
    """Return the host alone: the rest may have secrets."""
    try:
        return urlsplit(location or "").netloc.rpartition("@")[2] or "another address"
    except ValueError:
        return "another address"


def _kind(headers: Mapping[str, str], redactor: Redactor) -> str:
    kind = (headers.get("Content-Type") or "no content type").partition(";")[0]
    return clean(redactor.text(kind), MAX_NAME)


def _retry_after(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return min(seconds, MAX_RETRY_AFTER) if seconds >= 0 else None
