"""Objects that all tasks of one event loop share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class PerLoop(Generic[T]):
    """
    One object for each event loop and key, as long as the loop lives or until it is removed.

    :param factory: makes the object for a key.
    """

    def __init__(self, factory: Callable[[str], T]) -> None:
        self._factory = factory
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, T]] = WeakKeyDictionary()

    def get(self, key: str) -> T:
        """Return the object for ``key`` in the running event loop; it is made if there is none."""
        objects = self._by_loop.setdefault(asyncio.get_running_loop(), {})
        if key not in objects:
            objects[key] = self._factory(key)
        return objects[key]

    def keys(self) -> set[str]:
        """Return the keys that have an object in the running event loop."""
        return set(self._by_loop.get(asyncio.get_running_loop(), ()))

    def remove(self, key: str) -> None:
        """Remove the object for ``key``; the next :meth:`get` makes another."""
        del self._by_loop[asyncio.get_running_loop()][key]
