"""A little HTTP proxy that asks for a password: CONNECT for https, whole addresses for http."""

from __future__ import annotations

import select
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.integration.scripted import in_thread


class PasswordProxy:
    """
    :param user: who may use it.
    :param password: and with which password.
    :param tls: for a proxy that is itself reached by TLS.
    :ivar address: host and port.
    :ivar passed: the request lines that it passed on.
    :ivar refused: those that came without the password.
    """

    def __init__(self, user: str, password: str, tls: ssl.SSLContext | None = None) -> None:
        self.passed: list[str] = []
        self.refused: list[str] = []
        proxy, login = self, "Basic " + b64encode(f"{user}:{password}".encode("latin-1")).decode()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def handle_any(self) -> None:
                line = f"{self.command} {self.path}"
                if self.headers.get("Proxy-Authorization") != login:
                    proxy.refused.append(line)
                    self.send_error(407)
                    return
                proxy.passed.append(line)
                if self.command == "CONNECT":
                    self._tunnel()
                else:
                    self._forward()

            do_CONNECT = do_GET = do_POST = handle_any

            def _tunnel(self) -> None:
                host, _, port = self.path.rpartition(":")
                with socket.create_connection((host, int(port))) as other, suppress(OSError):
                    self.send_response(200)
                    self.end_headers()
                    ends = {self.connection: other, other: self.connection}
                    while True:
                        for end in select.select(ends, [], [], 10)[0]:
                            if not (piece := end.recv(65536)):
                                return
                            ends[end].sendall(piece)

            def _forward(self) -> None:
                url = urlsplit(self.path)
                there = HTTPConnection(url.hostname or "", url.port)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                there.request(self.command, url.path, body, dict(self.headers))
                reply = there.getresponse()
                content = reply.read()
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                there.close()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)


@contextmanager
def proxying(user: str, password: str, tls: ssl.SSLContext | None = None) -> Iterator[PasswordProxy]:
    """Run a proxy for the length of a test."""
    proxy = PasswordProxy(user, password, tls)
    with in_thread(proxy._server):
        yield proxy
