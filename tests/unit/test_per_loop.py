"""The registry of objects that belong to one event loop."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from airflow_provider_kernel.transport.per_loop import PerLoop

pytestmark = pytest.mark.no_airflow


class Thing:
    """An object that can be referenced weakly."""


def test_get_returns_one_object_per_key_of_a_loop():
    things = PerLoop[Thing]()

    async def main() -> None:
        first = things.get("a", Thing)
        assert things.get("a", Thing) is first
        assert things.get("b", Thing) is not first
        assert set(things.here()) == {"a", "b"}

    asyncio.run(main())


def test_get_returns_another_object_in_another_loop():
    things = PerLoop[Thing]()

    async def main() -> Thing:
        assert not things.here()
        return things.get("a", Thing)

    assert asyncio.run(main()) is not asyncio.run(main())


def test_objects_are_dropped_with_their_loop():
    things = PerLoop[Thing]()

    async def main() -> weakref.ref[Thing]:
        return weakref.ref(things.get("a", Thing))

    thing = asyncio.run(main())
    gc.collect()
    assert thing() is None


def test_get_raises_without_a_running_loop():
    with pytest.raises(RuntimeError, match="no running event loop"):
        PerLoop[Thing]().get("a", Thing)
