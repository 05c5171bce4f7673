"""
Decodes the bytes of an event stream into events. No I/O.

The format is that of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html);
each event's data is one JSON object with the fields ``event`` and ``timestamp`` (Kernel's OpenAPI description).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from airflow_provider_kernel.api.errors import KernelTransportError
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.api.payload import parse_json
from airflow_provider_kernel.api.reply_body import has_too_many_containers
from airflow_provider_kernel.api.text import NO_SECRETS, Redactor

#: Maximum size of an event, in bytes. A larger one, such as a state with a huge output, is dropped: GET tells the state
#: anyway, and Kernel cuts log lines at 64 KiB, which JSON may expand sixfold.
MAX_EVENT_BYTES = 2**19


@dataclass(frozen=True)
class LogEvent:
    """
    A line that the app wrote.

    :param timestamp: when, an RFC 3339 time.
    :param message: the line.
    """

    timestamp: str
    message: str


@dataclass(frozen=True)
class StateEvent:
    """
    The invocation's state.

    :param timestamp: when, an RFC 3339 time.
    :param invocation: the invocation, as far as the event describes it.
    """

    timestamp: str
    invocation: Invocation


@dataclass(frozen=True)
class ErrorEvent:
    """
    Kernel reports an error of the stream or the app. It says nothing about the invocation's state.

    :param timestamp: when, an RFC 3339 time.
    :param code: Kernel's machine-readable code.
    :param message: Kernel's sentence.
    """

    timestamp: str
    code: str
    message: str


@dataclass(frozen=True)
class Heartbeat:
    """
    The stream is alive.

    :param timestamp: when, an RFC 3339 time.
    """

    timestamp: str


Event = LogEvent | StateEvent | ErrorEvent | Heartbeat
_LINE_END = re.compile(rb"\r\n?|\n")


class EventDecoder:
    """
    Decodes one stream. Malformed, unknown and too large events are skipped, and counted in ``skipped``.

    An event that the end of the stream cuts short is not delivered, as the standard says.

    :param max_event_bytes: maximum size of an event, in bytes.
    :param redactor: replaces secrets in the events.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES, redactor: Redactor = NO_SECRETS) -> None:
        self.skipped = 0
        self._max = max_event_bytes
        self._redactor = redactor
        self._buffer = bytearray()
        self._scanned = 0
        self._data = bytearray()  # its lines, each with a line end
        self._too_long = False
        self._started = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Add the next bytes, split anywhere; return the events that they complete."""
        return list(self._events(chunk))

    def _events(self, chunk: bytes) -> Iterator[Event]:
        self._buffer += chunk
        if not self._started:
            if bytes(self._buffer) in (b"", b"\xef", b"\xef\xbb"):
                return
            self._buffer = self._buffer.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        start = 0
        # A long line comes in many chunks, and none is searched twice.
        for match in _LINE_END.finditer(self._buffer, self._scanned):
            if match.group() == b"\r" and match.end() == len(self._buffer):
                break  # the other half of a CRLF may come with the next chunk
            event = self._line(bytes(self._buffer[start : match.start()]))
            start = match.end()
            if event is not None:
                yield event
        del self._buffer[:start]
        # "data: " and a pending CR may stand around a value that is still within bounds.
        if len(self._buffer) + len(self._data) > self._max + 8:
            self._too_long = self._too_long or self._buffer.startswith(b"data:")
            # The name of the field, and a pending CR; the rest of the line is dropped.
            self._buffer = self._buffer[:5] + self._buffer[5:][-1:]
        self._scanned = len(self._buffer) - self._buffer.endswith(b"\r")

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data += value.removeprefix(b" ") + b"\n"
            self._too_long = self._too_long or len(self._data) > self._max + 1
            if self._too_long:
                self._data.clear()
        return None

    def _dispatch(self) -> Event | None:
        data, too_long = bytes(self._data[:-1]), self._too_long
        self._data.clear()
        self._too_long = False
        event = None
        if data and not too_long and not has_too_many_containers(data):
            event = _read_event(data, self._redactor)
        if event is None and (data or too_long):
            self.skipped += 1
        return event


def _read_event(data: bytes, redactor: Redactor) -> Event | None:
    """Return the event; None if it is malformed, or of an unknown type."""
    try:
        text = data.decode(errors="replace")
        fields: dict[str, Any] = redactor.json(parse_json(text), text)
        timestamp = fields.get("timestamp")
        timestamp = timestamp if isinstance(timestamp, str) else ""
        match fields["event"]:
            case "log" if isinstance(fields["message"], str):
                return LogEvent(timestamp, fields["message"])
            case "invocation_state":
                return StateEvent(timestamp, Invocation.from_json(fields["invocation"]))
            case "error":
                error = fields["error"]
                return ErrorEvent(timestamp, str(error.get("code")), str(error.get("message")))
            case "sse_heartbeat":
                return Heartbeat(timestamp)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, KernelTransportError):
        pass
    return None
