"""uvicorn's HTTP protocol, with connections that the application can close without a response."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

#: The extension in the scope of a request: a function that closes the connection, once what was sent before is gone.
CLOSE = "kernel_emulator.close"


class HttpProtocol(H11Protocol):
    """Serves one connection. The scope of each request has the extension :data:`CLOSE`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Have the application get at the connection."""
        super().connection_made(transport)
        app: ASGIApp = self.app

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {CLOSE: transport.close}
            await app(scope, receive, send)

        self.app = call
