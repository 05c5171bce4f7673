"""The ASGI middleware that prints requests: those that are answered with an error, and with ``--verbose`` all."""

from __future__ import annotations

import json
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_kernel.emulator.console import Console


class RequestLog:
    """
    Prints requests, without their query, headers and bodies. The message of an error is printed.

    :param app: the application that answers.
    :param console: where requests are printed.
    """

    def __init__(self, app: ASGIApp, console: Console) -> None:
        self._app = app
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the application answer, and print the request when it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, self._watch_websocket(scope, send))
            return
        started = time.monotonic()
        status, error = 0, bytearray()

        async def send_and_watch(message: Message) -> None:
            nonlocal status
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and status >= 400:
                error.extend(message.get("body", b"")[:65_536])

        try:
            await self._app(scope, receive, send_and_watch)
        finally:
            if status >= 400:
                self._console.refused(status, scope["method"], scope["path"], _message(bytes(error)))
            elif status:
                self._console.request(status, scope["method"], scope["path"], time.monotonic() - started)

    def _watch_websocket(self, scope: Scope, send: Send) -> Send:
        """Return a function that sends, and prints a WebSocket that is refused."""
        is_accepted = False

        async def send_and_watch(message: Message) -> None:
            nonlocal is_accepted
            is_accepted = is_accepted or message["type"] == "websocket.accept"
            if message["type"] == "websocket.close" and not is_accepted:
                self._console.refused(403, "WebSocket", scope["path"], message.get("reason") or "no message")
            await send(message)

        return send_and_watch


def _message(body: bytes) -> str:
    """Return the message of an error's body, which may be of something else than the API."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, TypeError, KeyError):
        return body.decode(errors="replace") or "no message"
