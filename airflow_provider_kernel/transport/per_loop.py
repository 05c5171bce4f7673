"""Objects that belong to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class PerLoop(Generic[T]):
    """
    Holds one object for each event loop and key.

    The registry does not keep an event loop alive: the objects of a loop go with the loop. An object that refers to
    its loop, as an ``asyncio.Task`` or an ``asyncio.Event`` does, keeps the loop alive until it drops that reference.
    """

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, T]] = WeakKeyDictionary()

    def here(self) -> dict[str, T]:
        """
        Return the objects of the running event loop by key.

        :raises RuntimeError: no event loop is running.
        """
        return self._loops.setdefault(asyncio.get_running_loop(), {})

    def get(self, key: str, create: Callable[[], T]) -> T:
        """
        Return the object of the running event loop for ``key``; the first call creates it.

        :param key: the key, such as a connection id.
        :param create: called without arguments to create the object.
        :raises RuntimeError: no event loop is running.
        """
        here = self.here()
        if key not in here:
            here[key] = create()
        return here[key]
