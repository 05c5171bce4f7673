"""A fair share of the event loop: neither large replies nor thousands of new streams must delay other triggers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
#: Seconds of the loop's time that each reply may take at once, and then per second, without waiting.
BURST, RATE = 0.005, 0.002
#: Maximum charge, in seconds, for handling one piece.
MAX_CHARGE = 0.05


class LoopShare:
    """
    The time that one reply takes of the event loop.

    A small share is free. A reply that takes more waits for a lock, which all such replies share; together they take no more
    than half of the loop's time.

    :param lock: one for each event loop.
    """

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock = lock
        self._credit = BURST
        self._at = time.perf_counter()

    async def do(self, work: Callable[[], T]) -> T:
        """Run a function that takes some milliseconds, after waiting if necessary; return its result."""
        if self._refilled() > 0:
            return self._timed(work)
        async with self._lock:
            result = self._timed(work)
            await asyncio.sleep(-self._credit)
            self._credit = 0.0
        return result

    def charge(self, seconds: float) -> None:
        """Add the time for handling a piece; at most :data:`MAX_CHARGE`, as other tasks may have run in between."""
        self._credit -= min(seconds, MAX_CHARGE)

    def _refilled(self) -> float:
        now = time.perf_counter()
        self._credit = min(BURST, self._credit + (now - self._at) * RATE)
        self._at = now
        return self._credit

    def _timed(self, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return work()
        finally:
            self._credit -= time.perf_counter() - began


class Turns:
    """
    Lets some through at once, and the next ones some time later.

    What is late is not made up for: those that are due during a pause of the event loop do not all come at its end.

    :param at_once: how many.
    :param spacing: seconds from one lot to the next.
    """

    def __init__(self, at_once: int, spacing: float) -> None:
        self._at_once = self._left = at_once
        self._spacing = spacing
        self._due = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, max_wait: float) -> None:
        """Wait for a turn, ``max_wait`` seconds at most."""
        loop = asyncio.get_running_loop()
        if not self._timer:
            self._due = loop.time()
            self._schedule()
        if self._left:
            self._left -= 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        with suppress(TimeoutError):
            async with asyncio.timeout(max_wait):
                await turn

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = max(self._due + self._spacing, loop.time())
        self._timer = loop.call_at(self._due, self._next_lot)

    def _next_lot(self) -> None:
        self._left, self._timer = self._at_once, None
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        if not self._left:
            self._schedule()
