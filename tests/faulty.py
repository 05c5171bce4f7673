"""
A faulty HTTP proxy in front of the emulator: real requests over real sockets, and what goes wrong on the way.

A :class:`Rule` says what befalls the next requests of a route; a :data:`Plan` says it of those that no rule takes;
all others pass, event streams unbuffered. What can befall them is in :mod:`tests.faults`. The proxy runs in
threads of the test's process, and serves other processes too, through its ``base_url``::

    with FaultyProxy(emulator.base_url) as proxy:
        proxy.on("POST /invocations", faults.drop_reply(), times=1)
        ...
        assert [exchange.did for exchange in proxy.seen("POST /invocations")] == ["drop_reply", "pass"]
        assert len(proxy.accepted) == 2
"""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler
from typing import Any, NoReturn
from urllib.parse import urlsplit

from dev.wait import wait_until

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "date", "server"}


@dataclass
class Exchange:
    """
    A request as it came, and what was done with it.

    :param did: name of the fault; ``pass`` for none.
    :param upstream_status: what the emulator answered; None: it was not asked, or has not answered yet.
    :param answered_status: what the client was answered; None: nothing.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.time)
    did: str = "pass"
    upstream_status: int | None = None
    answered_status: int | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_of(self, route: str) -> bool:
        """Tell whether it is of a route such as ``GET /invocations/{id}``; the query does not count."""
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(route))
        return re.fullmatch(pattern, f"{self.method} {self.path.partition('?')[0]}") is not None


class _CutOff(Exception):
    """The exchange ends here, and its connection with it."""


@dataclass(frozen=True)
class Fault:
    """What is done with an exchange."""

    name: str
    act: Callable[[Ends], None]


#: Says what befalls a request, given its number among all requests; None: it passes.
Plan = Callable[[Exchange, int], Fault | None]


class Rule:
    """What befalls the next ``times`` requests of a route (None: all, until it is lifted)."""

    def __init__(
        self, route: str, fault: Fault, times: int | None, where: Callable[[Exchange], bool] | None
    ) -> None:
        self.route = route
        self.fault = fault
        self.left = float("inf") if times is None else times
        self.where = where
        self.held = 0
        self.released = threading.Event()
        self.lifted = threading.Event()

    def lift(self) -> None:
        """End the rule. What it holds is cut off; what was held before it was forwarded never arrives."""
        self.left = 0
        self.lifted.set()

    def release(self) -> None:
        """Let what is held go on, and what will be; a request is forwarded though its client may be gone."""
        self.released.set()

    def wait_until_held(self, timeout: float, count: int = 1) -> None:
        """Wait until ``count`` requests were held by a fault."""
        wait_until(lambda: self.held >= count, timeout, f"a held {self.route}", interval=0.01)


class Ends:
    """The two ends of an exchange, for a fault to act on."""

    def __init__(
        self, proxy: FaultyProxy, handler: BaseHTTPRequestHandler, exchange: Exchange, rule: Rule
    ) -> None:
        self.proxy, self.exchange, self.rule = proxy, exchange, rule
        self._handler, self._client = handler, handler.connection
        self._upstream: HTTPConnection | None = None

    def forward(self) -> HTTPResponse:
        """Send the request on; return the reply once its head is there."""
        exchange = self.exchange
        self._upstream = HTTPConnection(self.proxy.upstream)
        headers = {k: v for k, v in exchange.headers.items() if k.lower() not in _HOP_BY_HOP}
        self._upstream.request(exchange.method, exchange.path, exchange.body or None, headers)
        reply = self._upstream.getresponse()
        exchange.upstream_status = reply.status
        return reply

    def close(self) -> None:
        """Close the connection to the emulator."""
        if self._upstream:
            self._upstream.close()

    def pass_on(self, reply: HTTPResponse, pieces: Iterable[bytes] | None = None) -> None:
        """Send the reply to the client, its body (or ``pieces`` in its place) piece by piece as they come."""
        self._head(reply.status, reply.getheaders(), chunked=reply.chunked)
        for piece in body_of(reply) if pieces is None else pieces:
            self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if reply.chunked else piece)
        if reply.chunked:
            self._handler.wfile.write(b"0\r\n\r\n")
        elif reply.length != 0:  # cut short, or without a length: its end is the connection's
            self.cut()

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._head(status, [*headers.items(), ("Content-Length", str(len(body)))], chunked=False)
        self._handler.wfile.write(body)

    def cut(self, reset: bool = False) -> NoReturn:
        """Close the client's connection; with ``reset``, as one that broke. The exchange ends here."""
        if reset:
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _CutOff

    def pause(self, seconds: float) -> None:
        """Do nothing for so long."""
        if self.proxy.over.wait(seconds):
            self.cut()

    def hold(self) -> None:
        """Go no further until the rule's holds are released."""
        self.rule.held += 1
        while not self.rule.released.wait(0.01):
            if self.rule.lifted.is_set() or self.proxy.over.is_set():
                self.cut()

    def wait_for_client_to_leave(self) -> None:
        """Send nothing more, until the client leaves or the rule is lifted."""
        while not (self.rule.lifted.is_set() or self.proxy.over.is_set()):
            if select.select([self._client], [], [], 0.02)[0]:
                return

    def _head(self, status: int, headers: Iterable[tuple[str, str]], *, chunked: bool) -> None:
        self.exchange.answered_status = status
        self._handler.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self._handler.send_header(name, value)
        if chunked:
            self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()


def body_of(reply: HTTPResponse) -> Iterator[bytes]:
    """Yield the pieces of a reply's body as they come."""
    while piece := reply.read1(65_536):
        yield piece


PASS = Fault("pass", lambda ends: ends.pass_on(ends.forward()))


class FaultyProxy:
    """
    The proxy, as a context manager; ``plan`` may be set at any time.

    :param upstream: the base URL of the emulator.
    """

    def __init__(self, upstream: str, plan: Plan | None = None) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.plan = plan
        self.exchanges: list[Exchange] = []
        self.over = threading.Event()
        self._rules: list[Rule] = []
        self._no_rule = Rule("any", PASS, None, None)
        self._lock = threading.RLock()
        self._clients: set[socket.socket] = set()
        self._port = 0
        self._listener = self._bind()
        self._port = self._listener.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self._port}"

    def connection_json(self, api_key: str = "sk_emulator") -> str:
        """Return an Airflow connection through the proxy, as the value of ``AIRFLOW_CONN_KERNEL_DEFAULT``."""
        return json.dumps({"conn_type": "kernel", "host": self.base_url, "password": api_key})

    def on(
        self,
        route: str,
        fault: Fault,
        *,
        times: int | None = None,
        where: Callable[[Exchange], bool] | None = None,
    ) -> Rule:
        """
        Add a rule; of several that match, the oldest that is not used up is taken.

        :param route: such as ``GET /invocations/{id}/events``.
        :param times: how many requests it befalls; None: all, until it is lifted.
        :param where: a condition on the request, such as its body.
        """
        rule = Rule(route, fault, times, where)
        with self._lock:
            self._rules.append(rule)
        return rule

    def seen(self, route: str) -> list[Exchange]:
        """Return the exchanges of a route so far."""
        return [exchange for exchange in list(self.exchanges) if exchange.is_of(route)]

    @property
    def accepted(self) -> list[Exchange]:
        """The invocations that were accepted, whatever their client was told."""
        return [e for e in self.seen("POST /invocations") if e.upstream_status in (200, 202)]

    def go_down(self) -> None:
        """Break all connections and refuse new ones, until :meth:`come_up`; the port is kept."""
        with self._lock:
            self._close()
            self._listener = self._bind()

    def come_up(self) -> None:
        """Accept connections (again)."""
        with self._lock:
            if not self.over.is_set():
                self._listener.listen(1024)
                threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def __enter__(self) -> FaultyProxy:
        self.come_up()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.over.set()
        with self._lock:
            self._close()

    def _bind(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        return listener

    def _close(self) -> None:
        for end in (self._listener, *self._clients):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, address = listener.accept()
                with self._lock:
                    if listener is not self._listener:
                        client.close()  # went down meanwhile
                        return
                    self._clients.add(client)
                threading.Thread(target=self._serve, args=(client, address), daemon=True).start()

    def _serve(self, client: socket.socket, address: Any) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args: Any) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy._exchange(self, Exchange(self.command, self.path, dict(self.headers), body))

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any

        try:
            with client, suppress(OSError):  # clients leave when they like
                Handler(client, address, self)  # type: ignore[arg-type]
        finally:
            with self._lock:
                self._clients.discard(client)

    def _exchange(self, handler: BaseHTTPRequestHandler, exchange: Exchange) -> None:
        with self._lock:
            rule = next((r for r in self._rules if self._applies(r, exchange)), self._no_rule)
            rule.left -= 1
            fault = rule.fault
            if rule is self._no_rule and self.plan:
                fault = self.plan(exchange, len(self.exchanges)) or PASS
            exchange.did = fault.name
            self.exchanges.append(exchange)
        with closing(Ends(self, handler, exchange, rule)) as ends:
            try:
                fault.act(ends)
            except _CutOff:
                handler.close_connection = True
            except (OSError, HTTPException):
                handler.close_connection = True
                if exchange.answered_status is None:  # the emulator is away
                    ends.answer(502, {}, b"<html><body>Bad gateway</body></html>")

    @staticmethod
    def _applies(rule: Rule, exchange: Exchange) -> bool:
        return rule.left > 0 and exchange.is_of(rule.route) and (not rule.where or rule.where(exchange))
