"""An invocation as Kernel describes it, and the request that starts one. Pure data; no I/O."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from airflow_provider_kernel.api.errors import (
    KernelInvocationFailed,
    KernelInvocationUnsettled,
    KernelTransportError,
    shorten,
)

#: Largest payload that Kernel takes, in bytes of UTF-8 ("4.5 MB", read as the smaller of its meanings).
MAX_PAYLOAD_BYTES = 4_500_000
#: Bounds and default of ``async_timeout_seconds`` (Kernel's OpenAPI description).
MIN_ASYNC_TIMEOUT_SECONDS = 10
MAX_ASYNC_TIMEOUT_SECONDS = 3600
DEFAULT_ASYNC_TIMEOUT_SECONDS = 900
#: What to write as a version.
VERSION_MEANING = "the version's label as it was deployed to Kernel, or 'latest'"
#: What to write as ``payload_key_field``.
KEY_FIELD_MEANING = "the name under which the key is to be added to the payload"
#: Kernel cuts a synchronous call after this many seconds.
SYNC_LIMIT_SECONDS = 100


class InvocationStatus(StrEnum):
    """The four states of an invocation. Cancelled, timed out, crashed and raised all look like ``failed``."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


_ACTIVE = frozenset({InvocationStatus.QUEUED, InvocationStatus.RUNNING})
_ENDED = frozenset({InvocationStatus.SUCCEEDED, InvocationStatus.FAILED})


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _no_nan(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def parse_json(text: str) -> Any:
    """
    Parse strict JSON: NaN and Infinity, which Python's parser takes, are refused.

    Half of a surrogate pair, such as JavaScript leaves of an emoji that it cuts, becomes a question mark: Airflow
    can neither store it nor report an exception that holds it.

    :param text: the JSON.
    :return: the value.
    :raises ValueError: ``text`` is not JSON, or is nested too deeply to be read.
    """
    try:
        value = json.loads(text, parse_constant=_no_nan)
        if _SURROGATE.search(text):
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
        return value
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


@dataclass(frozen=True)
class Invocation:
    """
    One run of an action, as far as a reply described it.

    :param id: Kernel's id of it.
    :param status: Kernel's own word, which may be one this provider does not know: then the invocation counts
        neither as active nor as ended.
    :param action_name: the action; like all below, None where the reply did not say.
    :param app_name: the app.
    :param version: the app's version.
    :param started_at: when it began, as an RFC 3339 time.
    :param finished_at: when it ended.
    :param status_reason: Kernel's sentence on the status, for people.
    :param payload: what it was given, as JSON text; kept out of the repr.
    :param raw_output: what it left, as Kernel's text; kept out of the repr. Decoded, it is :attr:`output`.
    """

    id: str
    status: str
    action_name: str | None = None
    app_name: str | None = None
    version: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    status_reason: str | None = None
    payload: str | None = field(default=None, repr=False)
    raw_output: str | None = field(default=None, repr=False)

    @classmethod
    def from_json(cls, data: Any) -> Invocation:
        """
        Read an invocation from a reply or an event.

        :param data: the decoded JSON.
        :return: the invocation.
        :raises KernelTransportError: it has no id or no status; so the reply says nothing.
        """
        if not isinstance(data, Mapping) or not _is_text(data.get("id")) or not _is_text(data.get("status")):
            raise KernelTransportError("The reply is not an invocation: it has no id or no status.")
        text = {key: value for key, value in data.items() if isinstance(value, str)}
        output = data.get("output")
        return cls(
            id=text["id"],
            status=text["status"],
            action_name=text.get("action_name"),
            app_name=text.get("app_name"),
            version=text.get("version"),
            started_at=text.get("started_at"),
            finished_at=text.get("finished_at"),
            status_reason=text.get("status_reason"),
            payload=text.get("payload"),
            # Kernel says that it is text; what is not must not be lost all the same.
            raw_output=output if output is None or isinstance(output, str) else json.dumps(output),
        )

    @property
    def is_active(self) -> bool:
        """True for ``queued`` and ``running``."""
        return self.status in _ACTIVE

    @property
    def is_ended(self) -> bool:
        """True for ``succeeded`` and ``failed``; never for a status this provider does not know."""
        return self.status in _ENDED

    @property
    def output(self) -> Any:
        """The output: JSON decoded; what is not JSON, as the text it is; None if there is none."""
        if self.raw_output is None:
            return None
        try:
            return parse_json(self.raw_output)
        except ValueError:
            return self.raw_output

    def mark(self, key_field: str) -> dict[str, Any]:
        """Return what ``payload_key_field`` added to the payload under that name; empty if there is nothing."""
        try:
            found = parse_json(self.payload or "null")[key_field]
        except (ValueError, TypeError, KeyError, IndexError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def cancelled_by(self) -> dict[str, Any] | None:
        """Who cancelled it through this provider, as it was told then; None if that is not known."""
        output = self.output if self.status == InvocationStatus.FAILED else None
        canceller = output.get("by") if isinstance(output, dict) and "cancelled" in output else None
        return canceller if isinstance(canceller, dict) else None

    def result(self, hint: str = "") -> Any:
        """
        Return the output of a succeeded invocation.

        :param hint: added to the sentence of a failure: what the caller will do.
        :return: the output, as :attr:`output` has it.
        :raises KernelInvocationFailed: it failed; with Kernel's reason and the shortened output.
        :raises KernelInvocationUnsettled: it has not ended, or its status is unknown.
        """
        if self.status == InvocationStatus.SUCCEEDED:
            return self.output
        if self.status == InvocationStatus.FAILED:
            raise self.failure(hint)
        raise KernelInvocationUnsettled(
            f"Kernel invocation {self.id} has the status {self.status!r}, which is no end.",
            invocation_id=self.id,
        )

    def failure(self, hint: str = "") -> KernelInvocationFailed:
        """Return the exception that tells why this invocation failed, with ``hint`` in its first line."""
        reason = shorten(self.status_reason or "Kernel gave no reason").rstrip(".")
        message = f"Kernel invocation {self.id} failed: {reason}. {hint}".rstrip()
        if self.raw_output:
            message += f"\nIts output: {shorten(self.raw_output)}"
        return KernelInvocationFailed(message, invocation_id=self.id)


@dataclass(frozen=True)
class InvocationRequest:
    """
    What ``POST /invocations`` is told, checked when it is made.

    :param app_name: name of the deployed app.
    :param action_name: name of one of its actions.
    :param payload: the action's input: any JSON value, or a string that is JSON text already.
        None sends none.
    :param version: the app's version; ``latest`` is the newest deployed.
    :param async_: True: Kernel accepts and runs on (up to an hour). False: the reply waits for the end,
        and Kernel cuts it after 100 s.
    :param async_timeout_seconds: after so many seconds (10-3600; Kernel's default is 900) Kernel ends an
        asynchronous invocation.
    :raises ValueError: an argument cannot be right; the sentence says what to write instead.
    """

    app_name: str
    action_name: str
    payload: Any = field(default=None, repr=False)
    version: str = "latest"
    async_: bool = True
    async_timeout_seconds: int | None = None

    def __post_init__(self) -> None:
        check_name("app_name", self.app_name)
        check_name("action_name", self.action_name)
        check_name("version", self.version, VERSION_MEANING)
        check_async(self.async_, self.async_timeout_seconds)
        object.__setattr__(self, "payload", encode_payload(self.payload))

    def fingerprint(self) -> str:
        """Return a text that is the same for the same request, and tells nothing of its payload."""
        return hashlib.sha256(json.dumps(self.body(), sort_keys=True).encode()).hexdigest()

    def marked(self, key_field: str, mark: Mapping[str, Any]) -> InvocationRequest:
        """
        Return the same request with a mark in its payload.

        :param key_field: the name under which the payload is to have it.
        :param mark: the mark: a JSON object.
        :return: the request.
        :raises ValueError: the payload is no JSON object, or has that name already.
        """
        payload = parse_json(self.payload or "null")
        check_key_field(key_field, payload)
        return replace(self, payload={**payload, key_field: dict(mark)})

    def body(self) -> dict[str, Any]:
        """Return the JSON body, with the field names of Kernel's API."""
        body = {
            "app_name": self.app_name,
            "action_name": self.action_name,
            "version": self.version,
            "payload": self.payload,
            "async": self.async_,
            "async_timeout_seconds": self.async_timeout_seconds,
        }
        return {key: value for key, value in body.items() if value is not None}


def is_template(text: str) -> bool:
    """Tell whether Airflow would render ``text``."""
    return "{{" in text or "{%" in text


def check_name(name: str, value: Any, meaning: str = "the name as it was deployed to Kernel") -> None:
    """
    Check one of the texts that name something.

    :param name: the argument's name.
    :param value: its value.
    :param meaning: what to write instead of an empty or wrong one.
    :raises ValueError: it is empty or no text.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, {meaning}; not {type(value).__name__}.")
    if not value.strip():
        raise ValueError(f"{name} is empty. Write {meaning}.")


def check_async(async_: Any, async_timeout_seconds: Any) -> None:
    """
    Check ``async_`` with ``async_timeout_seconds``.

    :param async_: as in :class:`InvocationRequest`.
    :param async_timeout_seconds: as in :class:`InvocationRequest`.
    :raises ValueError: a wrong type, out of 10-3600, or a time-out for a synchronous call.
    """
    if not isinstance(async_, bool):
        raise ValueError(f"async_ must be True or False, not {async_!r}.")
    if async_timeout_seconds is None:
        return
    bounds = f"{MIN_ASYNC_TIMEOUT_SECONDS} to {MAX_ASYNC_TIMEOUT_SECONDS}"
    if isinstance(async_timeout_seconds, bool) or not isinstance(async_timeout_seconds, int):
        raise ValueError(
            f"async_timeout_seconds must be a whole number from {bounds}, not {async_timeout_seconds!r}."
        )
    if not MIN_ASYNC_TIMEOUT_SECONDS <= async_timeout_seconds <= MAX_ASYNC_TIMEOUT_SECONDS:
        raise ValueError(
            f"async_timeout_seconds={async_timeout_seconds} is outside Kernel's range, {bounds}."
        )
    if not async_:
        raise ValueError(
            "async_timeout_seconds has no meaning with async_=False, which Kernel cuts after "
            f"{SYNC_LIMIT_SECONDS} s. Leave one of the two out."
        )


def check_key_field(key_field: Any, payload: Any) -> None:
    """
    Check that a payload can take a key.

    :param key_field: the name under which it is to be added.
    :param payload: the payload, decoded.
    :raises ValueError: it is no JSON object, or has that name already.
    """
    check_name("payload_key_field", key_field, KEY_FIELD_MEANING)
    if not isinstance(payload, Mapping):
        raise ValueError(
            f"payload_key_field adds a key to the payload, so that must be a dict (a JSON object), not "
            f"{'missing' if payload is None else type(payload).__name__}. Pass a dict, {{}} if there is nothing to say."
        )
    if key_field in payload:
        raise ValueError(
            f"The payload has {key_field!r} already, under which payload_key_field would add its key. Choose another name."
        )


def encode_payload(payload: Any, unrendered: Callable[[Any], bool] = lambda value: False) -> str | None:
    """
    Return ``payload`` as JSON text.

    :param payload: any JSON value; a string is taken for JSON text already, None for no payload.
    :param unrendered: tells of a value that it will only be known later (a template), and is not checked.
    :return: the text; None if there is no payload, or it will only be known later.
    :raises ValueError: it is no JSON value (the sentence names the key), no JSON text, or over 4.5 MB.
    """
    if payload is None or unrendered(payload):
        return None
    if isinstance(payload, str):
        try:
            parse_json(payload)
        except ValueError as error:
            raise ValueError(
                f"payload is a string that is not JSON text ({error}). Pass the value itself (a dict, a list, …) "
                "or the text that json.dumps makes of it; json.dumps too for a payload that is a mere string. "
                "A template of a dict or list needs the filter tojson, or a Dag with render_template_as_native_obj."
            ) from None
        text = payload
    else:
        try:
            text = json.dumps(
                _json_value(payload, "payload", unrendered), ensure_ascii=False, separators=(",", ":")
            )
        except RecursionError:
            raise ValueError("payload is nested too deeply, or contains itself.") from None
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(
            "payload holds a character that is no Unicode text (half a surrogate pair)."
        ) from None
    if size > MAX_PAYLOAD_BYTES:
        raise ValueError(
            f"payload is {size / 1e6:.1f} MB of JSON, and Kernel takes {MAX_PAYLOAD_BYTES / 1e6} MB at most. "
            "Put the data into object storage and pass its address."
        )
    return text


def _json_value(value: Any, path: str, unrendered: Callable[[Any], bool]) -> Any:
    """Return ``value`` with plain lists and dicts only, or raise with the path to what is no JSON."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise ValueError(f"{path} is {value}, which JSON cannot hold. Use None or a string.")
    if unrendered(value):
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{path} has the key {key!r}; the keys of a JSON object are strings.")
        return {key: _json_value(item, f"{path}[{key!r}]", unrendered) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [_json_value(item, f"{path}[{index}]", unrendered) for index, item in enumerate(value)]
    raise ValueError(
        f"{path} is a {type(value).__name__}, which JSON cannot hold. Convert it: a set to a list, "
        "a date or datetime with .isoformat(), a Decimal with str() or float(), bytes to text."
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
