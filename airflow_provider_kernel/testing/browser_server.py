"""A web server for pages that the browsers of apps visit. Needs no Airflow and no Kernel SDK."""

from __future__ import annotations

import json
import mimetypes
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

#: What a page consists of: HTML, bytes, JSON, a file or a folder.
Content = str | bytes | dict[str, Any] | list[Any] | Path
Body = Content | Callable[["PageRequest"], Content]


@dataclass(frozen=True)
class PageRequest:
    """
    A request to the server.

    :param method: the HTTP method.
    :param path: the decoded path.
    :param query: the query parameters; of one that is repeated, the last value.
    :param headers: the headers, with names in lower case.
    :param body: the body.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class _Page:
    body: Body
    status: int
    content_type: str | None
    headers: dict[str, str]


@dataclass(frozen=True)
class _Reply:
    status: int
    content: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


class BrowserServer:
    """
    A web server on 127.0.0.1, as a context manager; in tests it is the fixture ``kernel_browser_server``.

    A path that was not added is answered with 404.
    """

    def __init__(self) -> None:
        self._pages: dict[str, _Page] = {}
        self._requests: list[PageRequest] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.reply_to = self._reply_to

    @property
    def url(self) -> str:
        """The server's URL, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def requests(self) -> list[PageRequest]:
        """The requests so far, in the order of their arrival, without the browser's own for ``/favicon.ico``."""
        return list(self._requests)

    def add(
        self,
        path: str,
        body: Body,
        *,
        status: int = 200,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """
        Add a page, or replace it. Every HTTP method gets the same reply.

        :param path: its path, such as ``/lamp``.
        :param body: HTML as a string; bytes; a dictionary or list, sent as JSON; the path of a file, or of a folder whose files
            are served below ``path``; or a function that gets the :class:`PageRequest` and returns one of these.
        :param status: the HTTP status.
        :param content_type: the header ``Content-Type``; None: what fits the body.
        :param headers: further headers.
        :return: the page's URL.
        :raises ValueError: the path does not begin with a slash.
        """
        if not path.startswith("/"):
            raise ValueError(f"The path of a page must begin with a slash: write {'/' + path!r}.")
        self._pages[path] = _Page(body, status, content_type, dict(headers or {}))
        return self.url + quote(path)

    def __enter__(self) -> BrowserServer:
        # The interval is the time that shutdown() may take.
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _reply_to(self, request: PageRequest) -> _Reply:
        page, below = self._find(request.path)
        if page is not None or request.path != "/favicon.ico":
            self._requests.append(request)
        if page is None:
            return _not_found(request)
        try:
            body = page.body(request) if callable(page.body) else page.body
            return _encode(page, body, below, request)
        except Exception:  # noqa: BLE001 - the test's own function
            return _Reply(500, traceback.format_exc().encode(), "text/plain; charset=utf-8")

    def _find(self, path: str) -> tuple[_Page | None, str]:
        """Return the page of a path, and the part of the path that is below a page's folder."""
        if path in self._pages:
            return self._pages[path], ""
        folders = [
            prefix
            for prefix, page in self._pages.items()
            if isinstance(page.body, Path) and path.startswith(prefix.rstrip("/") + "/")
        ]
        if not folders:
            return None, ""
        prefix = max(folders, key=len)
        return self._pages[prefix], path[len(prefix.rstrip("/")) + 1 :]


def _encode(page: _Page, body: Content, below: str, request: PageRequest) -> _Reply:
    if isinstance(body, Path):
        return _encode_file(page, body, below, request)
    if isinstance(body, str):
        content, content_type = body.encode(), "text/html; charset=utf-8"
    elif isinstance(body, bytes):
        content, content_type = body, "application/octet-stream"
    else:
        content, content_type = json.dumps(body).encode(), "application/json"
    return _Reply(page.status, content, page.content_type or content_type, page.headers)


def _encode_file(page: _Page, path: Path, below: str, request: PageRequest) -> _Reply:
    root = path.resolve()
    file = (root / below).resolve() if below else root
    if not file.is_relative_to(root):  # ".." or a symbolic link leads out of the folder.
        return _not_found(request)
    if file.is_dir():
        if not request.path.endswith("/"):  # Otherwise a browser resolves relative links against the parent.
            return _Reply(301, b"", "text/plain", {"Location": quote(request.path) + "/"})
        file /= "index.html"
    if not file.is_file() or (below and root.is_file()):
        return _not_found(request)
    guessed = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return _Reply(page.status, file.read_bytes(), page.content_type or guessed, page.headers)


def _not_found(request: PageRequest) -> _Reply:
    return _Reply(404, f"Not found: {request.path}".encode(), "text/plain; charset=utf-8")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # A browser keeps its connections open.
    reply_to: Callable[[PageRequest], _Reply]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of an error, unless a browser has left its page before the reply."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one(self) -> None:
        """Answer a request of any method."""
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        reply = self.server.reply_to(PageRequest(self.command, unquote(parts.path), query, headers, body))
        self.send_response(reply.status)
        for name, value in {"Content-Type": reply.content_type, **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_one

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the test reads ``requests``."""
