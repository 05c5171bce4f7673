"""A deadline for a whole request with requests, from before there is a connection."""

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

_thread = threading.local()


class RequestDeadline:
    """
    Shuts down the connection of one request when its time has passed, as a context manager.

    A socket's own time-out does not: it starts again with each byte.

    :param seconds: the time, from the entry.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.has_expired = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> RequestDeadline:
        self.set(self.seconds)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.set(None)
        with self._lock:
            self._release()

    @contextmanager
    def on_this_thread(self) -> Iterator[None]:
        """Apply to the connections that this thread uses in the ``with`` block; a signal handler may nest another one."""
        outer = getattr(_thread, "deadline", None)
        _thread.deadline = self
        try:
            yield
        finally:
            _thread.deadline = outer

    def set(self, seconds: float | None) -> None:
        """Set the time that is left; None for no limit."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = threading.Timer(max(0.0, seconds), self._expire)
            self._timer.daemon = True
            self._timer.start()

    def watch(self, descriptor: int) -> None:
        """Apply to the socket with this descriptor."""
        with self._lock:
            self._release()
            # A duplicate: the connection may wrap its socket for TLS, or close it, at any moment.
            self._socket = socket.socket(fileno=os.dup(descriptor))
        if self.has_expired:
            self._expire()

    def _release(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None

    def _expire(self) -> None:
        with self._lock:
            self.has_expired = True
            if self._socket:
                with suppress(OSError):  # the connection was closed just now
                    self._socket.shutdown(socket.SHUT_RDWR)


def _apply_deadline(descriptor: int) -> None:
    deadline: RequestDeadline | None = getattr(_thread, "deadline", None)
    if deadline:
        deadline.watch(descriptor)


class _WithDeadline:
    """A connection whose socket is subject to this thread's deadline."""

    def _new_conn(self) -> socket.socket:  # private, but urllib3's own SOCKS connections override it, too
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        _apply_deadline(sock.fileno())
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        sock = self.sock  # type: ignore[attr-defined]
        if sock is not None:  # a connection that was kept open
            _apply_deadline(sock.fileno())
        super().request(*args, **kwargs)  # type: ignore[misc]


class _HTTPConnection(_WithDeadline, HTTPConnection):
    pass


class _HTTPSConnection(_WithDeadline, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _HeaderFilter(logging.Filter):
    """Drops urllib3's warning about malformed headers, which quotes them: they may contain the token."""

    def filter(self, record: logging.LogRecord) -> bool:
        is_ours = getattr(_thread, "deadline", None) is not None
        return not (is_ours and str(record.msg).startswith("Failed to parse headers"))


logging.getLogger("urllib3.connection").addFilter(_HeaderFilter())

_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class DeadlineAdapter(HTTPAdapter):
    """Makes connections that are subject to a :class:`RequestDeadline`."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pools of connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pools of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
