"""
The event stream of one invocation.

It begins with the state and the log so far (from ``since`` on), goes on live, and ends with the terminal state. A consumer
holds no queue: it reads the invocation's own log at its own pace, so a slow one costs nothing; if lines are
dropped before it comes to them, a line of the log says how many. The stricter side of what is unknown: a state
that did not last may go unreported, and the terminal state has no ``status_reason`` here; ``GET`` has it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow_provider_kernel.emulator.store import Record
from airflow_provider_kernel.emulator.timestamps import format_timestamp

#: Lines that are sent in one piece.
_BATCH = 256


def encode_json(value: Any) -> bytes:
    """Return JSON as UTF-8. Half a surrogate pair, which UTF-8 cannot hold, becomes ``?``."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


async def follow(record: Record, since: int | None, heartbeat: float) -> AsyncIterator[bytes]:
    """Yield server-sent events; every ``heartbeat`` seconds of silence, a heartbeat."""
    changed = asyncio.Event()
    record.followers.add(changed.set)
    try:
        position, reported = record.position(since), None
        while True:
            changed.clear()
            is_ended, status = record.is_ended, record.status
            events = []
            if not is_ended and status != reported:
                reported = status
                events.append(_state(record))
            if position < record.dropped:
                missing = record.dropped - position
                position = record.dropped
                events.append(_log(time.time_ns(), f"[{missing} older lines of this log were dropped]"))
            lines = record.lines(position, _BATCH)
            position += len(lines)
            events += [_log(timestamp, message) for timestamp, message in lines]
            if is_ended and len(lines) < _BATCH:
                yield b"".join([*events, _state(record)])
                return
            if events:
                yield b"".join(events)
                await asyncio.sleep(0)  # sending waits for nothing while the socket's buffer has room
                continue
            try:
                await asyncio.wait_for(changed.wait(), heartbeat)
            except TimeoutError:
                yield _event("sse_heartbeat")
    finally:
        record.followers.discard(changed.set)


def _log(timestamp: int, message: str) -> bytes:
    return _event("log", timestamp, message=message)


def _state(record: Record) -> bytes:
    return _event("invocation_state", invocation=record.as_json(with_reason=False))


def _event(kind: str, at: int | None = None, **fields: Any) -> bytes:
    timestamp = format_timestamp(time.time_ns() if at is None else at)
    return b"data: " + encode_json({"event": kind, "timestamp": timestamp, **fields}) + b"\n\n"
