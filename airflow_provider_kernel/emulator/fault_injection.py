"""
The ASGI middleware that applies the faults of a :class:`~airflow_provider_kernel.emulator.faults.FaultList`.

Only requests for Kernel's API have faults: the page, the emulator's own endpoints, and what is reached by a URL with a
secret (WebSockets of browsers, replays) have none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_kernel.emulator.browsers.routes import has_own_secret
from airflow_provider_kernel.emulator.console import Console
from airflow_provider_kernel.emulator.contract import MAX_BODY_BYTES
from airflow_provider_kernel.emulator.control import is_control
from airflow_provider_kernel.emulator.faults import Fault, FaultList
from airflow_provider_kernel.emulator.http_messages import json_response
from airflow_provider_kernel.emulator.http_protocol import CLOSE
from airflow_provider_kernel.emulator.page import is_of_page
from airflow_provider_kernel.emulator.stream import is_heartbeat


class FaultInjection:
    """
    Applies faults to requests.

    :param app: the application that answers.
    :param faults: which faults there are.
    :param console: prints which requests have a fault, so that nobody takes it for a bug.
    :param stopping: set when the emulator stops. Requests that a fault delays or holds open then end.
    """

    def __init__(self, app: ASGIApp, faults: FaultList, console: Console, stopping: asyncio.Event) -> None:
        self._app = app
        self._faults = faults
        self._console = console
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the application answer, or do what a fault says."""
        fault = self._choose(scope)
        if fault is None:
            await self._app(scope, receive, send)
            return
        if fault.status is None or fault.latency is not None:
            self._console.fault(scope["method"], scope["path"], fault.effects)
        close: Callable[[], None] = scope["extensions"][CLOSE]
        if fault.latency is not None:
            receive = await _read_ahead(receive)
            if await self._is_stopped_within(fault.latency):
                close()
                await _wait_until_closed(receive)
                return
        if fault.status is not None:
            error = fault.error()
            # Not error_response(): its header for 501 keeps the SDKs from repeating the request, which a fault should not.
            body = {"code": error.code, "message": error.message}
            await json_response(body, error.status_code, error.headers)(scope, receive, send)
        elif fault.lose_reply:
            await self._lose_reply(scope, receive, close)
        elif fault.is_for_event_streams:
            await self._break_stream(fault, scope, receive, send, close)
        else:
            await self._app(scope, receive, send)

    def _choose(self, scope: Scope) -> Fault | None:
        if scope["type"] != "http":
            return None
        path = scope["path"]
        if is_of_page(path) or is_control(path) or has_own_secret(path):
            return None
        return self._faults.choose(scope["method"], path)

    async def _lose_reply(self, scope: Scope, receive: Receive, close: Callable[[], None]) -> None:
        async def lose(message: Message) -> None:
            close()

        await self._app(scope, receive, lose)
        await _wait_until_closed(receive)

    async def _break_stream(
        self, fault: Fault, scope: Scope, receive: Receive, send: Send, close: Callable[[], None]
    ) -> None:
        """Have the application answer; if that is an event stream with enough events, break it after the last of them."""
        is_cut = fault.cut_after is not None
        missing = (fault.cut_after if is_cut else fault.silent_after) or 0
        is_stream = is_broken = False

        async def send_events(message: Message) -> None:
            nonlocal is_stream, is_broken, missing
            if is_broken:
                return
            if message["type"] == "http.response.start":
                is_stream = message["status"] == 200
            elif is_stream and message.get("body"):
                body, missing = _first_events(message["body"], missing)
                message = {**message, "body": body}
            await send(message)
            if is_stream and not missing:
                is_broken = True
                if is_cut:
                    close()

        await self._app(scope, receive, send_events)
        if is_broken:
            await self._hold_open(receive)
            close()
            await _wait_until_closed(receive)

    async def _hold_open(self, receive: Receive) -> None:
        """Wait until the client leaves or the emulator stops."""
        waits: list[asyncio.Task[Any]] = [
            asyncio.create_task(_wait_until_closed(receive)),
            asyncio.create_task(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _is_stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True


async def _wait_until_closed(receive: Receive) -> None:
    """Return when the connection is closed: if the application returns earlier, uvicorn logs an error."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_ahead(receive: Receive) -> Receive:
    """Return a ``receive`` that has read the body: the request takes effect even if its client does not wait."""
    messages: list[Message] = []
    size = 0
    while size <= MAX_BODY_BYTES:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    messages.reverse()

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _first_events(piece: bytes, count: int) -> tuple[bytes, int]:
    """
    Return the first events of a piece of a stream, and how many of ``count`` are missing. Heartbeats do not count.

    A piece consists of whole events, or is a part of the stream's last event.
    """
    events = piece.split(b"\n\n")[:-1]
    for number, event in enumerate(events, 1):
        count -= not is_heartbeat(event)
        if not count:
            return b"".join(it + b"\n\n" for it in events[:number]), 0
    return piece, count
