"""
The API's contract: request bodies, query parameters, and errors. Pure; no I/O.

Choices where Kernel's behaviour is unknown: ``async_timeout_seconds`` must be in range even for a synchronous
invocation, on which it has no effect. ``payload``, and ``output`` in a PATCH, must be strings that contain JSON;
the JSON value ``null`` in the place of the string is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from airflow_provider_kernel.api.arguments import (
    DEFAULT_ASYNC_TIMEOUT_SECONDS,
    MAX_ASYNC_TIMEOUT_SECONDS,
    MIN_ASYNC_TIMEOUT_SECONDS,
)
from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.api.payload import MAX_PAYLOAD_BYTES, parse_json
from airflow_provider_kernel.emulator.since import parse_since

#: Maximum bytes of a request body: the largest payload with every byte escaped (``\u0001``), and the other fields.
MAX_BODY_BYTES = 6 * MAX_PAYLOAD_BYTES + 65_536
#: Maximum offset of a page. Kernel names none; Python refuses to read an integer of thousands of digits.
MAX_OFFSET = 10**99
#: The version of apps whose files are given without ``--version``. ``latest`` resolves to it.
VERSION_LABEL = "emulator"

_T = TypeVar("_T")


class ApiError(Exception):
    """An error response, with Kernel's error body. ``headers`` are headers of the response."""

    def __init__(
        self, status_code: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.message = message
        self.headers = headers


def bad_request(message: str) -> ApiError:
    """Return the error for a request that is not valid."""
    return ApiError(400, "bad_request", message)


def not_found(message: str) -> ApiError:
    """Return the error for an unknown name or id."""
    return ApiError(404, "not_found", message)


def not_served(what: str) -> ApiError:
    """Return the error for what Kernel's API has and the emulator does not."""
    return ApiError(501, "not_implemented", f"The emulator does not serve {what}")


@dataclass(frozen=True)
class InvokeRequest:
    """The valid body of a ``POST /invocations``. ``async_timeout`` is in seconds."""

    app_name: str
    action_name: str
    version: str
    payload: str | None
    is_async: bool
    async_timeout: int


@dataclass(frozen=True)
class UpdateRequest:
    """The valid body of a ``PATCH /invocations/{id}``."""

    status: InvocationStatus
    output: str | None


@dataclass(frozen=True)
class DeploymentFilter:
    """
    The filters of ``GET /deployments``. None matches any deployment.

    :param query: text that the id or an app's name contains, in any case.
    """

    app_name: str | None = None
    app_version: str | None = None
    query: str = ""

    def matches(self, deployment_id: str, version: str, app_names: Sequence[str]) -> bool:
        """Return whether the list contains a deployment of these apps."""
        return (
            (self.app_name is None or self.app_name in app_names)
            and self.app_version in (None, version)
            and any(self.query.lower() in text.lower() for text in (deployment_id, *app_names))
        )


@dataclass(frozen=True)
class Pagination:
    """The query parameters of a page: ``limit`` from 1 to 100, ``offset`` from 0."""

    limit: int
    offset: int


def read_invoke(body: bytes) -> InvokeRequest:
    """
    Return the body of ``POST /invocations``.

    :raises ApiError: 400: the body is not valid.
    """
    data = read_object(body)
    names = {}
    for name in ("app_name", "action_name", "version"):
        if name not in data:
            raise bad_request(f"Missing required field: {name}")
        if not isinstance(data[name], str) or not data[name].strip():
            raise bad_request(f"{name} must be a non-empty string")
        names[name] = data[name]
    payload = _read_json_text(data, "payload")
    if payload is not None and len(payload.encode("utf-8", "replace")) > MAX_PAYLOAD_BYTES:
        raise bad_request(f"payload is larger than {MAX_PAYLOAD_BYTES} bytes")
    is_async = data.get("async", False)
    if not isinstance(is_async, bool):
        raise bad_request("async must be a boolean")
    timeout = data.get("async_timeout_seconds", DEFAULT_ASYNC_TIMEOUT_SECONDS)
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, int)
        or not MIN_ASYNC_TIMEOUT_SECONDS <= timeout <= MAX_ASYNC_TIMEOUT_SECONDS
    ):
        raise bad_request(
            "async_timeout_seconds must be an integer from "
            f"{MIN_ASYNC_TIMEOUT_SECONDS} to {MAX_ASYNC_TIMEOUT_SECONDS}"
        )
    return InvokeRequest(**names, payload=payload, is_async=is_async, async_timeout=timeout)


def read_update(body: bytes) -> UpdateRequest:
    """
    Return the body of ``PATCH /invocations/{id}``.

    :raises ApiError: 400: the body is not valid.
    """
    data = read_object(body)
    if data.get("status") not in ("succeeded", "failed"):
        raise bad_request("status must be succeeded or failed")
    return UpdateRequest(InvocationStatus(data["status"]), _read_json_text(data, "output"))


def read_since(query: Mapping[str, str], now: int) -> int | None:
    """
    Return the query parameter ``since`` in nanoseconds since 1970; None if it is missing.

    :param now: the current time, in nanoseconds since 1970.
    :raises ApiError: 400: ``since`` is neither a time nor a duration.
    """
    if "since" not in query:
        return None
    try:
        return parse_since(query["since"], now)
    except ValueError as error:
        raise bad_request(f"since is {error}") from None


def read_status(query: Mapping[str, str]) -> InvocationStatus | None:
    """
    Return the query parameter ``status``; None if it is missing.

    :raises ApiError: 400: Kernel has no such status.
    """
    try:
        return InvocationStatus(query["status"]) if "status" in query else None
    except ValueError:
        raise bad_request("status must be one of queued, running, succeeded, failed") from None


def read_deployment_filter(query: Mapping[str, str]) -> DeploymentFilter:
    """
    Return the query parameters ``app_name``, ``app_version`` and ``query``.

    :raises ApiError: 400: ``app_version`` is given without ``app_name``.
    """
    if "app_version" in query and "app_name" not in query:
        raise bad_request("app_version requires app_name")
    return DeploymentFilter(query.get("app_name"), query.get("app_version"), query.get("query", ""))


def read_pagination(query: Mapping[str, str]) -> Pagination:
    """
    Return the query parameters ``limit`` (default 20) and ``offset`` (default 0).

    :raises ApiError: 400: a value is out of range. A limit above the maximum is an error, and is not lowered.
    """
    return Pagination(
        _read_integer(query, "limit", 20, 1, 100), _read_integer(query, "offset", 0, 0, MAX_OFFSET)
    )


def paginate(items: Sequence[_T], page: Pagination) -> tuple[Sequence[_T], dict[str, str]]:
    """Return the items of a page, and its paging headers. ``X-Next-Offset`` is 0 on the last page."""
    end = page.offset + page.limit
    has_more = end < len(items)
    return items[page.offset : end], {
        "X-Limit": str(page.limit),
        "X-Offset": str(page.offset),
        "X-Has-More": str(has_more).lower(),
        "X-Next-Offset": str(end if has_more else 0),
    }


def read_object(body: bytes) -> dict[str, Any]:
    """
    Return the JSON object that a request body contains.

    :raises ApiError: 400: it contains none.
    """
    try:
        data = parse_json(body.decode())
    except ValueError:
        raise bad_request("The body is not JSON") from None
    if not isinstance(data, dict):
        raise bad_request("The body must be a JSON object")
    return data


def _read_json_text(data: dict[str, Any], name: str) -> str | None:
    if name not in data:
        return None
    text = data[name]
    if not isinstance(text, str):
        raise bad_request(f"{name} must be a string that contains JSON")
    try:
        parse_json(text)
    except ValueError:
        raise bad_request(f"{name} is not JSON") from None
    return text


def _read_integer(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 100 and low <= int(text) <= high):
        raise bad_request(f"{name} must be an integer from {low} to {high}")
    return int(text)
