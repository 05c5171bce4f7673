"""What a hostile server may say: random replies that are nearly Kernel's, and a server that says them byte by byte."""

from __future__ import annotations

import gzip
import json
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

NASTY_TEXTS = (
    "",
    " ",
    "..",
    ".",
    "../..",
    "a/b?c#d%2e",
    "\x1b[2J\x1b[31mred",
    "a\n2026-01-01 00:00:00 ERROR forged",
    "\x00",
    "\ud83d",
    "\u202ea\u2028b",
    "é🙂",
    "x" * 300,
    "x" * 70_000,
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "9999-12-31T23:59:59-23:59",
    "1969-12-31T23:59:59Z",
    "2026-01-01T00:00:00.٣Z",
    "2026-01-01T00:00:00." + "9" * 5000 + "Z",
    "NaN",
    "{",
    "[" * 500 + "]" * 500,
    "[" * 5000 + "]" * 5000,
    '{"a": ' + "9" * 5000 + "}",
    '{"cancelled": 1, "by": {"ti_id": []}}',
    "null",
    "true",
    '"\\ud800"',
)
#: JSON that Python does not write, or that nests deeper than it reads.
RAW = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    b"-0",
    b"[" * 200 + b"]" * 200,
    b"[" * 2000 + b"]" * 2000,
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
    b'"\\ud83d"',
    b'"\\u0000"',
    b'{"id": "a", "id": ".."}',
    b"\xff\xfe",
)
STATUSES = (
    200,
    201,
    202,
    204,
    206,
    299,
    301,
    308,
    400,
    401,
    403,
    404,
    408,
    418,
    429,
    451,
    500,
    503,
    529,
    599,
    999,
)


class Fuzzer:
    """
    Makes replies and streams up.

    :param seed: for the same ones again.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> str:
        return self.random.choice(NASTY_TEXTS)

    def value(self, depth: int = 2) -> Any:
        kind = self.random.randrange(10 if depth else 8)
        if kind < 4:
            return self.text()
        if kind < 8:
            return self.random.choice((None, True, False, 0, -1, 2**63, 10**30, 1.5, 1e308, [], {}))
        if kind == 8:
            return [self.value(depth - 1) for _ in range(self.random.randrange(3))]
        return {self.text(): self.value(depth - 1) for _ in range(self.random.randrange(3))}

    def spoiled(self, value: Any) -> Any:
        """Return what Kernel would say with some of it replaced, missing, or added to."""
        if isinstance(value, dict):
            found = {
                key: self.value() if self.random.random() < 0.15 else self.spoiled(item)
                for key, item in value.items()
                if self.random.random() > 0.05
            }
            return found | ({self.text(): self.value()} if self.random.random() < 0.1 else {})
        if isinstance(value, list):
            return [self.spoiled(item) for item in value for _ in range(self.random.choice((0, 1, 1, 1, 2)))]
        return self.value() if self.random.random() < 0.03 else value

    def invocation(self, invocation_id: str = "inv1") -> dict[str, Any]:
        moment = self.random.choice(("2026-01-01T00:00:00.123456789Z", "2026-01-01T00:00:01Z", self.text()))
        return {
            "id": invocation_id,
            "app_name": "shop",
            "action_name": "price",
            "version": "1.0.0",
            "status": self.random.choice(("queued", "running", "succeeded", "failed")),
            "status_reason": "it broke",
            "started_at": moment,
            "finished_at": moment,
            "payload": '{"sku": 1}',
            "output": self.random.choice(('{"price": 1}', self.text())),
        }

    def body(self, right: Any) -> bytes:
        """Return the bytes of a reply that should say ``right``."""
        chance = self.random.random()
        if chance < 0.05:
            return self.random.choice(RAW)
        if chance < 0.1:
            return json.dumps(self.value()).encode()
        data = json.dumps(self.spoiled(right)).encode()
        if chance < 0.2 and b"null" in data:
            data = data.replace(b"null", self.random.choice(RAW), 1)
        if chance > 0.95:
            data = data[: self.random.randrange(len(data) + 1)]
        return data

    def headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        for name in (
            "Content-Type",
            "Retry-After",
            "X-Next-Offset",
            "X-Has-More",
            "X-Request-Id",
            "Date",
            "Location",
            "Content-Encoding",
        ):
            if self.random.random() < 0.1:
                headers[name] = self.random.choice(
                    (
                        self.text(),
                        "-1",
                        "nan",
                        "inf",
                        "1e400",
                        "9" * 5000,
                        "true",
                        "5",
                        "Thu, 01 Jan 0001 00:00:00 GMT",
                    )
                )
        return headers

    def status(self) -> int:
        return self.random.choice((200, 200, 200, self.random.choice(STATUSES)))

    def stream(self, invocation_id: str = "inv1") -> bytes:
        """Return the bytes of an event stream."""
        events = []
        for _ in range(self.random.randrange(6)):
            at = self.random.choice(("2026-01-01T00:00:00.1Z", self.text()))
            right = self.random.choice(
                (
                    {"event": "log", "timestamp": at, "message": self.text()},
                    {
                        "event": "invocation_state",
                        "timestamp": at,
                        "invocation": self.invocation(invocation_id),
                    },
                    {"event": "error", "timestamp": at, "error": {"code": "c", "message": "m"}},
                    {"event": "sse_heartbeat", "timestamp": at},
                )
            )
            end = self.random.choice((b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\n\ndata: \n\ndata:"))
            events.append(b"data: " + self.body(right) + end)
        return self.random.choice((b"", b"\xef\xbb\xbf")) + b"".join(events)


Conversation = Callable[[socket.socket, str], None]


@contextmanager
def listening(converse: Conversation, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Give the address of a server that calls ``converse`` with each connection, and its request line, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    over = threading.Event()

    def serve(sock: socket.socket) -> None:
        with suppress(OSError), sock:
            sock.settimeout(60)
            head = b""
            while b"\r\n\r\n" not in head:
                piece = sock.recv(65_536)
                if not piece:
                    return
                head += piece
            converse(sock, head.partition(b"\r\n")[0].decode())

    def accept() -> None:
        while not over.is_set():
            with suppress(OSError):
                sock, _ = listener.accept()
                threading.Thread(target=serve, args=[sock], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def head(status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} OK", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "\r\n".join([*lines, "", ""]).encode()


def bomb() -> bytes:
    """Return a gigabyte of gzip, in one megabyte: members of zeros."""
    return gzip.compress(bytes(64 * 2**20)) * 16


def for_ever(sock: socket.socket, piece: bytes) -> None:
    """Send ``piece`` until the client leaves."""
    with suppress(OSError):
        while True:
            sock.sendall(piece)
