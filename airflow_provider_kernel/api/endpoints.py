"""The calls of Kernel's API as data: what to send, and how to read what comes back. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NamedTuple, NoReturn, TypeGuard, TypeVar
from urllib.parse import quote, urlsplit

from airflow_provider_kernel.api.arguments import SYNC_LIMIT_SECONDS
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
    is_invocation_id,
)
from airflow_provider_kernel.api.payload import parse_json
from airflow_provider_kernel.api.reply_body import is_encoded
from airflow_provider_kernel.api.text import MAX_NAME, NO_SECRETS, Redactor, clean, sentence

T = TypeVar("T")
#: Longest Retry-After that is honoured, in seconds.
MAX_RETRY_AFTER = 3600.0
#: How many details of an error are looked at.
MAX_DETAILS = 10
#: Longest part of an error's message that is shown, in characters.
MAX_MESSAGE = 1_000
#: How many items a page has at most (Kernel's OpenAPI description).
MAX_PAGE = 100
#: Largest offset of a page. Kernel's lists are shorter.
MAX_OFFSET = 10**7
_REQUEST_ID_HEADERS = ("X-Request-Id", "X-Kernel-Request-Id", "CF-Ray")


@dataclass(frozen=True)
class Request(Generic[T]):
    """
    One request, and how its reply is read.

    :param method: its HTTP method.
    :param path: its path, below the API's address.
    :param read: turns the reply's JSON and headers into the result.
    :param params: its query.
    :param body: what is sent as JSON; None for nothing.
    :param may_repeat: tells of an error whether the request may be sent again after it.
    :param min_timeout: seconds that the reply may take at least, whatever the connection says.
    :param has_result: False if a success is all there is to know, whatever its body.
    :param skim: whether strings of more than 512 bytes, such as payloads and outputs, may be missing in a triggerer.
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

    ``next_offset`` is None on the last; ``served_at`` is when it was served by Kernel's clock, in whole seconds
    since 1970, None if Kernel does not say; ``size`` is that of the reply in bytes, decoded.
    """

    items: list[Any]
    next_offset: int | None
    served_at: float | None = None
    size: int = 0


def invoke(
    request: InvocationRequest, may_repeat: Callable[[KernelError], bool] = is_certainly_not_accepted
) -> Request[Invocation]:
    """Start an invocation. Kernel has no idempotency key: ``may_repeat`` must not take what it may have accepted."""
    return Request(
        "POST",
        "/invocations",
        _invocation,
        body=request.body(),
        may_repeat=may_repeat,
        min_timeout=0 if request.async_ else SYNC_LIMIT_SECONDS + 20,
    )


def get_invocation(invocation_id: str, *, skim: bool = True) -> Request[Invocation]:
    """Ask for one invocation: the authority on its state. ``skim`` as in :class:`Call`."""
    return Request("GET", _path(invocation_id), _invocation_with(invocation_id), skim=skim)


def list_invocations(*, skip_unreadable: bool = False, **filters: Any) -> Request[Page]:
    """
    Ask for one page of invocations; the filters are those of Kernel's API, None for unset.

    With ``skip_unreadable``, an item that has no id or no status is None and not an error.
    """
    read = _invocation_or_none if skip_unreadable else Invocation.from_json
    return _list("/invocations", read, filters)


def list_apps(**filters: Any) -> Request[Page]:
    """Ask for one page of deployed app versions."""
    return _list("/apps", dict, filters)


def end_invocation(invocation_id: str, output: str | None = None) -> Request[Invocation]:
    """Cancel: set the status to ``failed``, with ``output`` (JSON text) saying by whom."""
    body = {"status": InvocationStatus.FAILED.value}
    return Request(
        "PATCH",
        _path(invocation_id),
        _invocation_with(invocation_id),
        body=body if output is None else {**body, "output": output},
    )


def delete_browsers(invocation_id: str) -> Request[None]:
    """Close all browsers that the invocation made."""
    return Request("DELETE", _path(invocation_id, "/browsers"), lambda data, headers: None, has_result=False)


def follow_events(invocation_id: str, since: str | None = None) -> Request[None]:
    """Open the event stream; its body is for :class:`~airflow_provider_kernel.api.events.EventDecoder`."""
    return Request(
        "GET", _path(invocation_id, "/events"), lambda data, headers: None, _params({"since": since})
    )


def auth_context() -> Request[dict[str, Any]]:
    """Ask whose the token is."""
    return Request("GET", "/auth/context", lambda data, headers: dict(data))


class Limits(NamedTuple):
    """How many invocations the organization may have at a time; ``per_app`` is None if Kernel does not say."""

    total: int
    per_app: int | None


def entitlements() -> Request[Limits]:
    """Ask for the organization's limits; not every token may."""
    return Request("GET", "/org/entitlements", _limits)


def _limits(data: Any, headers: Mapping[str, str]) -> Limits:
    limits = dict(data)["limits"] or {}
    total = limits.get("max_concurrent_invocations")
    per_app = limits.get("default_max_concurrent_invocations_per_app")
    if not _is_limit(total):
        raise TypeError("a limit is a whole number")
    return Limits(total, per_app if _is_limit(per_app) else None)


def _is_limit(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 10**12


class Cancellation(NamedTuple):
    """
    What cancelling came to.

    :param invocation: as last seen.
    :param cancelled: whether it was this that ended it.
    :param browsers_error: why its browsers could not be closed; they may be open, and bill on.
    """

    invocation: Invocation
    cancelled: bool
    browsers_error: KernelError | None = None

    def __str__(self) -> str:
        what = "was cancelled" if self.cancelled else f"had already {self.invocation.status}"
        browsers = (
            f", but its browsers may be open still: {self.browsers_error}" if self.browsers_error else "."
        )
        return f"Kernel invocation {self.invocation.id} {what}{browsers}"


def is_success(status: int) -> bool:
    """Return whether an HTTP status is a success (2xx)."""
    return 200 <= status < 300


def read_reply(
    call: Request[T],
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    redactor: Redactor = NO_SECRETS,
    size: int | None = None,
) -> T:
    """
    Turn a whole reply into the call's result.

    :param call: what was asked.
    :param status: the reply's HTTP status.
    :param headers: looked up in any case (as both HTTP clients' headers are).
    :param body: the whole of it, or what was left of it for a triggerer.
    :param redactor: knows the secrets that are not to be believed to come from Kernel.
    :param size: how many bytes it was; default: what ``body`` is.
    :return: the result.
    :raises KernelApiError: an error status, or a redirect.
    :raises KernelTransportError: a success that is not what Kernel would have said.
    """
    if not is_success(status):
        raise_for_status(status, headers, body, redactor)
    try:
        data = _decoded(body, redactor) if call.has_result and status != 204 else None
        result = call.read(data, headers)
    except _MALFORMED:
        raise KernelTransportError(
            f"{call.method} {call.path} was answered {status} with {_kind(headers, redactor)} that is not Kernel's "
            "reply; a proxy on the way may have answered."
        ) from None
    if isinstance(result, Page):
        return result._replace(size=len(body) if size is None else size)
    return result


#: What reading JSON raises that is well-formed, or not, but not what was expected.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


def _decoded(body: bytes, redactor: Redactor) -> Any:
    text = body.decode()
    return redactor.json(parse_json(text), text)


def check_stream(headers: Mapping[str, str], redactor: Redactor = NO_SECRETS) -> None:
    """
    Check the head of what was answered 200 to :func:`follow_events`.

    :param headers: the reply's.
    :param redactor: as in :func:`read_reply`.
    :raises KernelTransportError: it is no event stream, so that its end does not count as that of one; or it is
        encoded, which was not asked for, and may be any amount of data.
    """
    kind = _kind(headers, redactor)
    if kind.strip().lower() != "text/event-stream" or is_encoded(headers):
        encoded = " with an encoding" if is_encoded(headers) else ""
        raise KernelTransportError(
            f"The events were asked for, and {kind}{encoded} came; a proxy on the way may have answered."
        )


def raise_for_status(
    status: int, headers: Mapping[str, str], body: bytes, redactor: Redactor = NO_SECRETS
) -> NoReturn:
    """
    Raise what an error reply says.

    :param status: its HTTP status.
    :param headers: its headers.
    :param body: the whole of it.
    :param redactor: as in :func:`read_reply`.
    :raises KernelApiError: always.
    """
    code, message = (
        None,
        f"the body is {_kind(headers, redactor)} and not Kernel's; a proxy on the way may have answered",
    )
    if 300 <= status < 400:
        host = clean(redactor.text(_host(headers.get("Location"))), MAX_NAME)
        message = f"a redirect to {host}, which is not followed so that the token stays where it belongs"
    else:
        try:
            error = _decoded(body, redactor)
            if isinstance(error["message"], str):
                message = clean(_sentence(error), MAX_MESSAGE)
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
    """Join Kernel's message with the messages of its details."""
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
        raise ValueError("a page has no more items than it was asked for")
    # X-Next-Offset is absolute, and 0 on the last page.
    following = headers.get("X-Next-Offset") or None
    has_more = headers.get("X-Has-More", "").lower()
    if has_more == "true" and following is None:
        raise ValueError("a list that goes on, but not where, would be cut short silently")
    if has_more == "false" or not data or following is None:
        following = "0"
    next_offset = int(following) or None
    if next_offset is not None and not offset + len(data) <= next_offset <= MAX_OFFSET:
        raise ValueError("a list that goes on where it was would be asked for for ever")
    return Page([read(item) for item in data], next_offset, _served_at(headers.get("Date")))


def _served_at(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, OverflowError, OSError, TypeError):
        return None


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
    """Return the host alone: the rest may hold secrets."""
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
