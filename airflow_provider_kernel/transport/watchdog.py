"""A limit on a request with requests as a whole, from before there is a connection."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

_here = threading.local()


class Watchdog:
    """
    Ends the connection of one request once its time is over, as a context manager.

    No time-out of a socket does: those begin anew with each byte.

    :param seconds: until then, from the entry.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.has_bitten = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Watchdog:
        self.restart(self.seconds)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.restart(None)
        with self._lock:
            self._let_go()

    @contextmanager
    def on_this_thread(self) -> Iterator[None]:
        """Watch the connection that is used here, in the ``with`` block; a signal handler may use another within."""
        outer = getattr(_here, "watchdog", None)
        _here.watchdog = self
        try:
            yield
        finally:
            _here.watchdog = outer

    def restart(self, seconds: float | None) -> None:
        """Count anew; None: no limit."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = threading.Timer(max(0.0, seconds), self._bite)
            self._timer.daemon = True
            self._timer.start()

    def watch(self, descriptor: int) -> None:
        """Take the descriptor of the connection's socket."""
        with self._lock:
            self._let_go()
            # Its own: the connection may wrap its socket for TLS, or close it, at any moment.
            self._socket = socket.socket(fileno=os.dup(descriptor))
        if self.has_bitten:
            self._bite()

    def _let_go(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None

    def _bite(self) -> None:
        with self._lock:
            self.has_bitten = True
            if self._socket:
                with suppress(OSError):  # it ended by itself just now
                    self._socket.shutdown(socket.SHUT_RDWR)


def _watch(descriptor: int) -> None:
    watchdog: Watchdog | None = getattr(_here, "watchdog", None)
    if watchdog:
        watchdog.watch(descriptor)


class _Watched:
    """A connection that tells this thread's watchdog of its socket."""

    def _new_conn(self) -> socket.socket:  # as urllib3's own connections through SOCKS override it
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        _watch(sock.fileno())
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        sock = self.sock  # type: ignore[attr-defined]
        if sock is not None:  # one that was kept open
            _watch(sock.fileno())
        super().request(*args, **kwargs)  # type: ignore[misc]


class _HTTPConnection(_Watched, HTTPConnection):
    pass


class _HTTPSConnection(_Watched, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _HeaderFilter(logging.Filter):
    """Keeps back the warning with which urllib3 quotes headers that it cannot read: they may quote the token."""

    def filter(self, record: logging.LogRecord) -> bool:
        is_ours = getattr(_here, "watchdog", None) is not None
        return not (is_ours and str(record.msg).startswith("Failed to parse headers"))


logging.getLogger("urllib3.connection").addFilter(_HeaderFilter())

_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class WatchedAdapter(HTTPAdapter):
    """Makes connections that a :class:`Watchdog` can end."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pools of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
