"""How much of an event loop's time those may take who have the most to read, so that the others hear in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
#: Seconds of the loop's time that each reply may take at once, and in each second after that, without waiting.
BURST, RATE = 0.005, 0.002
#: More seconds than these what comes of a piece does not take.
MAX_CHARGE = 0.05


class LoopShare:
    """
    What one reply takes of the event loop's time.

    A little is free. Whoever takes more waits in a line with the others who do, and the line as a whole
    takes no more than half of the loop's time.

    :param line: the line, one for each event loop.
    """

    def __init__(self, line: asyncio.Lock) -> None:
        self._line = line
        self._credit = BURST
        self._at = time.perf_counter()

    async def do(self, work: Callable[[], T]) -> T:
        """Do a piece of work of some milliseconds, when it is its turn; return what it returns."""
        if self._refilled() > 0:
            return self._timed(work)
        async with self._line:
            result = self._timed(work)
            await asyncio.sleep(-self._credit)
            self._credit = 0.0
        return result

    def charge(self, seconds: float) -> None:
        """Take that what came of a piece took so long; whoever did something else in between is not held to that."""
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
