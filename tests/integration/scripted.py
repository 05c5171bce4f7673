"""A server that answers by a script: for what the emulator, being well-behaved, never says."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What is answered: a status and a body, or the connection is dropped (``drop``) once the request was read."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False

    def __str__(self) -> str:
        return f"{self.status} {self.headers.get('Content-Type', '')}{' dropped' if self.drop else ''}"


def html(status: int) -> Reply:
    return Reply(status, b"<html><body>Bad gateway</body></html>", {"Content-Type": "text/html"})


def error(status: int, code: str = "an_error", **headers: str) -> Reply:
    body = {"code": code, "message": "Kernel's sentence"}
    return Reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def invocation(status: str, **fields: Any) -> Reply:
    shop = {"id": "inv1", "app_name": "shop", "action_name": "price", "version": "1.0.0", "started_at": "x"}
    return Reply(200, {**shop, "status": status, **fields})


class Stream:
    """
    An event stream: sends the given events, then ends, is cut (``cut``), or stays silent until the test ends.

    Without ``chunked`` it is as an old proxy passes it on: its end is that of the connection.
    """

    def __init__(self, *events: dict[str, Any] | bytes, end: str = "end", chunked: bool = True) -> None:
        self.events = events
        self.end = end
        self.chunked = chunked


def log(message: str, second: int = 0) -> dict[str, Any]:
    return {"event": "log", "timestamp": f"2026-01-01T00:00:{second:02}.000000000Z", "message": message}


def state(status: str, **fields: Any) -> dict[str, Any]:
    return {
        "event": "invocation_state",
        "timestamp": "x",
        "invocation": {**invocation(status).body, **fields},
    }


class ScriptedServer:
    """
    Answers each route with the replies scripted for it, in their order, the last one again and again.

    A route is a method and a path without parameters, such as ``GET /invocations/inv1``.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.over = threading.Event()
        self._script: dict[str, list[Reply | Stream | Callable[[Request], Reply]]] = {}
        self._lock = threading.Lock()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                scripted._answer(self, Request(self.command, self.path, dict(self.headers), body))

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that leaves in the middle is part of the script

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self.url = self.url.replace("http:", "https:")

    def on(self, route: str, *replies: Reply | Stream | Callable[[Request], Reply]) -> None:
        self._script[route] = list(replies)

    def seen(self, route: str) -> list[Request]:
        return [r for r in self.requests if f"{r.method} {r.path.partition('?')[0]}" == route]

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            replies = self._script.get(f"{request.method} {request.path.partition('?')[0]}", [error(404)])
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if callable(reply):
            reply = reply(request)
        if isinstance(reply, Stream):
            self._stream(handler, reply)
        elif reply.drop:
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            headers = {"Content-Type": "application/json", **reply.headers}
            handler.send_response(reply.status)
            for name, value in headers.items():
                handler.send_header(name, value)
            if reply.status != 204:
                handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            if reply.status != 204:
                handler.wfile.write(body)

    def _stream(self, handler: BaseHTTPRequestHandler, stream: Stream) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header(
            *(("Transfer-Encoding", "chunked") if stream.chunked else ("Connection", "close"))
        )
        handler.end_headers()
        for event in stream.events:
            data = event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n"
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if stream.chunked else data)
            handler.wfile.flush()
        if stream.end == "end" and stream.chunked:
            handler.wfile.write(b"0\r\n\r\n")
        elif stream.end in ("cut", "end"):
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.over.wait(60)
            handler.close_connection = True


@contextmanager
def in_thread(server: ThreadingHTTPServer) -> Iterator[None]:
    """Have a server answer for the length of a test."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[ScriptedServer]:
    """Run a scripted server for the length of a test."""
    server = ScriptedServer(tls)
    with in_thread(server._server):
        try:
            yield server
        finally:
            server.over.set()
