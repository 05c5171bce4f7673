"""A fair share of the event loop: large replies must not delay other triggers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
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
