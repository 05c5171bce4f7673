"""An invocation as Kernel describes it, and the request that starts one. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from airflow_provider_kernel.api.arguments import VERSION_MEANING, check_async, check_name, is_invocation_id
from airflow_provider_kernel.api.errors import (
    KernelInvocationFailedError,
    KernelInvocationUnknownError,
    KernelTransportError,
)
from airflow_provider_kernel.api.payload import (
    check_metadata_field,
    encode_payload,
    parse_exactly,
    parse_json,
)
from airflow_provider_kernel.api.payload_mark import add_mark, read_mark
from airflow_provider_kernel.api.text import MAX_NAME, MAX_REASON, clean, sentence


class InvocationStatus(StrEnum):
    """The four statuses of an invocation. ``failed`` includes cancelled, timed out, crashed and raised."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


_ACTIVE = frozenset({InvocationStatus.QUEUED, InvocationStatus.RUNNING})
_ENDED = frozenset({InvocationStatus.SUCCEEDED, InvocationStatus.FAILED})


@dataclass(frozen=True)
class Invocation:
    """
    One run of an action, as far as a reply describes it.

    :param id: Kernel's id.
    :param status: Kernel's word. With one that this provider does not know, the invocation counts neither as active nor as
        ended.
    :param action_name: the action; like all fields below, None if the reply does not tell.
    :param app_name: the app.
    :param version: the app's version.
    :param started_at: when it started, an RFC 3339 time.
    :param finished_at: when it ended, an RFC 3339 time.
    :param status_reason: Kernel's sentence about the status, for people. Like the names, it is safe to show.
    :param payload: the input, as JSON text; not in the repr.
    :param raw_output: the output, as Kernel's text; not in the repr. :attr:`output` decodes it.
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
        :raises KernelTransportError: it has no id or no status.
        """
        if not isinstance(data, Mapping) or not _is_text(data.get("id")) or not _is_text(data.get("status")):
            raise KernelTransportError("The reply is not an invocation: it has no id or no status.")
        if not is_invocation_id(data["id"]):
            raise KernelTransportError("The reply is not an invocation: its id is not one of Kernel's.")

        def text(name: str) -> str | None:
            value = data.get(name)
            return value if isinstance(value, str) else None

        def shown(name: str, limit: int = MAX_NAME) -> str | None:
            value = text(name)
            return value and clean(value, limit)

        return cls(
            id=data["id"],
            status=clean(data["status"], MAX_NAME),
            action_name=shown("action_name"),
            app_name=shown("app_name"),
            version=shown("version"),
            started_at=shown("started_at"),
            finished_at=shown("finished_at"),
            status_reason=shown("status_reason", MAX_REASON),
            payload=text("payload"),
            raw_output=_as_text(data.get("output")),
        )

    @property
    def is_active(self) -> bool:
        """Whether the status is ``queued`` or ``running``."""
        return self.status in _ACTIVE

    @property
    def is_ended(self) -> bool:
        """Whether the status is ``succeeded`` or ``failed``."""
        return self.status in _ENDED

    @property
    def output(self) -> Any:
        """The output: decoded if it is JSON, as text if it is not, None if there is none."""
        if self.raw_output is None:
            return None
        try:
            return parse_json(self.raw_output)
        except ValueError:
            return self.raw_output

    @property
    def mark(self) -> str | None:
        """The key that its submission was marked with; None if the payload has no mark."""
        return read_mark(self.payload)

    def metadata(self, metadata_field: str) -> dict[str, Any]:
        """
        Return what the operator's ``metadata_field`` added to the payload.

        :param metadata_field: the operator's argument.
        :return: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``key``, and ``traceparent`` if the task was traced;
            empty if the payload has no such field.
        """
        try:
            found = parse_json(self.payload or "null")[metadata_field]
        except (ValueError, TypeError, KeyError, IndexError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def cancelled_by(self) -> dict[str, Any] | None:
        """Who cancelled it through this provider: ``ti_id``, ``dag_id`` and so on; None if that is not known."""
        output = self.output if self.status == InvocationStatus.FAILED else None
        canceller_identity = output.get("by") if isinstance(output, dict) and "cancelled" in output else None
        return canceller_identity if isinstance(canceller_identity, dict) else None

    def result(self, hint: str = "") -> Any:
        """
        Return the output of a succeeded invocation.

        :param hint: added to the message of a failure.
        :return: the output, as :attr:`output` has it.
        :raises KernelInvocationFailedError: it failed; with Kernel's reason and the shortened output.
        :raises KernelInvocationUnknownError: it has not ended, or its status is unknown.
        """
        if self.status == InvocationStatus.SUCCEEDED:
            return self.output
        if self.status == InvocationStatus.FAILED:
            raise self.failure(hint)
        raise KernelInvocationUnknownError(
            f"Kernel invocation {self.id} has not ended: its status is {self.status!r}.",
            invocation_id=self.id,
        )

    def failure(self, hint: str = "") -> KernelInvocationFailedError:
        """Return the exception for this failed invocation, with ``hint`` in its first line."""
        reason = sentence(self.status_reason or "Kernel gave no reason")
        message = f"Kernel invocation {self.id} failed: {reason} {hint}".rstrip()
        if self.raw_output:
            message += f"\nIts output: {clean(self.raw_output, keep_lines=True)}"
        return KernelInvocationFailedError(message, invocation_id=self.id)


@dataclass(frozen=True)
class InvocationRequest:
    """
    The arguments of ``POST /invocations``, checked when the object is made.

    :param app_name: name of the deployed app.
    :param action_name: name of one of its actions.
    :param payload: the action's input: any JSON value, or a string of JSON text. None sends no payload.
    :param version: the label that the app was deployed with; Kernel's default for both is ``latest``.
    :param async_: True: Kernel replies at once, and the action runs for up to an hour. False: the reply comes at the end,
        and Kernel cuts it after 100 s.
    :param async_timeout_seconds: seconds after which Kernel ends an asynchronous invocation, 10-3600. None: Kernel's
        default, 900.
    :param key: the key that the payload is marked with (see :mod:`~airflow_provider_kernel.api.payload_mark`); None for
        no mark. A request without payload cannot have one.
    :raises ValueError: an argument is wrong; the sentence says what to write instead.
    """

    app_name: str
    action_name: str
    payload: Any = field(default=None, repr=False)
    version: str = "latest"
    async_: bool = True
    async_timeout_seconds: int | None = None
    key: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name("app_name", self.app_name)
        check_name("action_name", self.action_name)
        check_name("version", self.version, VERSION_MEANING)
        check_async(self.async_, self.async_timeout_seconds)
        object.__setattr__(self, "payload", encode_payload(self.payload, is_marked=self.key is not None))

    def fingerprint(self) -> str:
        """Return a text that is the same for the same request, whatever its key, and does not tell the payload."""
        body = {**self.body(), "payload": self.payload}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def with_metadata(self, metadata_field: str, metadata: Mapping[str, Any]) -> InvocationRequest:
        """
        Return the same request with metadata in its payload.

        :param metadata_field: the name of the field that is added.
        :param metadata: its value, a JSON object.
        :return: the request.
        :raises ValueError: the payload is not a JSON object, or has that field already.
        """
        text = self.payload or "null"
        payload = parse_exactly(text)
        check_metadata_field(metadata_field, payload)
        extended = {**payload, metadata_field: dict(metadata)}
        # Escapes stay escapes: one may be half a surrogate pair.
        return replace(self, payload=json.dumps(extended, ensure_ascii="\\u" in text, separators=(",", ":")))

    def body(self) -> dict[str, Any]:
        """Return the JSON body, with the field names of Kernel's API."""
        payload: str | None = self.payload
        body = {
            "app_name": self.app_name,
            "action_name": self.action_name,
            "version": self.version,
            "payload": add_mark(payload, self.key) if payload is not None and self.key else payload,
            "async": self.async_,
            "async_timeout_seconds": self.async_timeout_seconds,
        }
        return {key: value for key, value in body.items() if value is not None}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _as_text(output: Any) -> str | None:
    """Return an output as text. By Kernel's description it is text; other JSON is not lost."""
    if output is None or isinstance(output, str):
        return output
    try:
        return json.dumps(output)
    except RecursionError:
        raise KernelTransportError("The output of the invocation is nested too deeply.") from None
