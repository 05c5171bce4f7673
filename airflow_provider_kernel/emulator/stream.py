"""
The event stream of one invocation.

The stream begins with the state and the log so far (from ``since`` on), continues live, and ends with the terminal state.
A client has no queue of its own: its stream reads the invocation's log, so a slow client needs no memory. If lines are
dropped before a client reads them, a line in the stream says how many.

Choices where Kernel's behaviour is unknown: the stream may skip a state that did not last. The terminal state has no
``status_reason`` in the stream; ``GET`` has it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

from airflow_provider_kernel.api.timestamps import format_timestamp
from airflow_provider_kernel.emulator.http_messages import PIECE_SIZE, encode_json
from airflow_provider_kernel.emulator.store import StoredInvocation

#: Maximum lines in one piece of the response, and characters from which on a piece has no further line. The piece that a
#: client does not read stays in memory.
_BATCH, _BATCH_SIZE = 256, PIECE_SIZE


async def event_stream(
    invocation: StoredInvocation, since: int | None, heartbeat: float
) -> AsyncIterator[bytes]:
    """
    Yield the invocation's server-sent events, until its terminal state.

    :param since: time of the first log line, in nanoseconds since 1970; None: all lines.
    :param heartbeat: seconds without an event after which a heartbeat is sent.
    """
    changed = asyncio.Event()
    invocation.listeners.append(changed.set)
    try:
        next_line, sent_status = invocation.line_number(since), None
        while True:
            changed.clear()
            is_ended, status = invocation.is_ended, invocation.status
            events = []
            if not is_ended and status != sent_status:
                sent_status = status
                events.append(_state_event(invocation))
            if next_line < invocation.dropped:
                missing = invocation.dropped - next_line
                next_line = invocation.dropped
                events.append(
                    _log_event(time.time_ns(), f"[{missing} older lines of this log were dropped.]")
                )
            lines = invocation.lines(next_line, _BATCH, _BATCH_SIZE)
            next_line += len(lines)
            events += [_log_event(timestamp, message) for timestamp, message in lines]
            if is_ended and next_line == invocation.dropped + len(invocation.logs):
                if events:
                    yield b"".join(events)
                    await asyncio.sleep(0)
                end = _end_event(invocation)
                for start in range(0, len(end), PIECE_SIZE):
                    yield end[start : start + PIECE_SIZE]
                    await asyncio.sleep(0)
                return
            if events:
                yield b"".join(events)
                # Sending does not wait while the socket's buffer has room, and other requests would starve.
                await asyncio.sleep(0)
                continue
            try:
                await asyncio.wait_for(changed.wait(), heartbeat)
            except TimeoutError:
                yield _event("sse_heartbeat")
    finally:
        with suppress(ValueError):  # The end of the invocation has removed it.
            invocation.listeners.remove(changed.set)


def is_heartbeat(event: bytes) -> bool:
    """Return whether an encoded event is a heartbeat."""
    return event.startswith(b'data: {"event": "sse_heartbeat"')


def _log_event(timestamp: int, message: str) -> bytes:
    return _event("log", timestamp, message=message)


@lru_cache(maxsize=8)
def _end_event(invocation: StoredInvocation) -> bytes:
    """Return the terminal state. It may have megabytes, which all streams of the invocation share."""
    return _state_event(invocation)


def _state_event(invocation: StoredInvocation) -> bytes:
    return _event("invocation_state", invocation=invocation.as_json(with_reason=False))


def _event(kind: str, at: int | None = None, **fields: Any) -> bytes:
    timestamp = format_timestamp(time.time_ns() if at is None else at)
    return b"data: " + encode_json({"event": kind, "timestamp": timestamp, **fields}) + b"\n\n"
