"""Helpers that run a trigger of a watcher as Airflow's triggerer does."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from airflow.triggers import base

from airflow_provider_kernel.hooks import kernel_async
from airflow_provider_kernel.triggers.finished import KernelInvocationFinishedTrigger

LIST = "GET /invocations"


def trigger(action_name: str | None = "echo", **arguments: Any) -> KernelInvocationFinishedTrigger:
    arguments = {"status": "any", "poll_interval": 0.05, **arguments}
    return KernelInvocationFinishedTrigger("tests", action_name, **arguments)


class Events:
    """The events of a running trigger, each with its list of ended invocations."""

    def __init__(self, stream: AsyncIterator[base.TriggerEvent]) -> None:
        self.events: list[list[dict[str, Any]]] = []
        self.task = asyncio.create_task(self._collect(stream))

    async def _collect(self, stream: AsyncIterator[base.TriggerEvent]) -> None:
        async for event in stream:
            assert event.payload["invocations"]
            self.events.append(event.payload["invocations"])

    @property
    def ends(self) -> list[dict[str, Any]]:
        return [end for event in self.events for end in event]

    @property
    def count(self) -> Counter[str]:
        return Counter(end["invocation_id"] for end in self.ends)

    async def are(self, *ids: str) -> None:
        """Wait until the events contain all of ``ids``."""
        await until_(lambda: set(ids) <= set(self.count) or self.task.done())
        assert not self.task.done(), self.task.exception()


async def until_(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(trigger: KernelInvocationFinishedTrigger) -> AsyncIterator[Events]:
    """Run the trigger alone, as Airflow before 3.3 does."""
    events = Events(trigger.run())
    yield events
    await ended(events.task)


async def ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


def assert_nothing_remains() -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not kernel_async._shared.here()


async def scanned(proxy, times: int = 1) -> None:
    enough = len([e for e in proxy.seen(LIST) if e.answered_status == 200]) + times
    await until_(lambda: len([e for e in proxy.seen(LIST) if e.answered_status == 200]) >= enough)


class Store:
    """The state store of an asset, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.fails = 0

    async def aget(self, key: str) -> Any:
        self._fail()
        return json.loads(self.values.get(key, "null"))

    async def aset(self, key: str, value: Any) -> None:
        self._fail()
        self.values[key] = json.dumps(value)

    def _fail(self) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("Airflow does not answer")


class Accessors:
    """The state stores of all assets of a trigger."""

    def __init__(self, *stores: Store) -> None:
        self._by_name = {str(number): store for number, store in enumerate(stores)}


class Triggerer:
    """Runs event triggers as Airflow's triggerer does, with Airflow's own SharedStreamManager."""

    def __init__(self, ack_timeout: float = 300.0) -> None:
        from airflow.triggers.shared_stream import SharedStreamManager

        self.manager = SharedStreamManager(ack_timeout=ack_timeout)
        self.ids = iter(range(1000))
        self.unconfirmed: list[int] = []
        self.confirms = True
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, trigger: KernelInvocationFinishedTrigger, *stores: Store) -> Events:
        """Start ``trigger``, whose assets have these stores."""
        if stores:
            trigger.asset_state_store = Accessors(*stores)
        events = Events(self._run(next(self.ids), trigger))
        self.tasks.append(events.task)
        return events

    async def watch(self, store: Store, **arguments: Any) -> Events:
        """Start a trigger whose asset has this store; return after its first scan."""
        events = self.start(trigger(**arguments), store)
        await until_(lambda: store.values)
        return events

    async def _run(self, trigger_id: int, trigger: Any) -> AsyncIterator[base.TriggerEvent]:
        key = trigger.shared_stream_key()
        stream = self.manager.subscribe(trigger_id=trigger_id, trigger=trigger, key=key)
        try:
            async for event in trigger.filter_shared_stream(stream):
                seq = self.manager.bind_pending_event(trigger_id=trigger_id, key=key)
                if seq is not None:
                    self.unconfirmed.append(seq)
                yield event
                self.confirm()
        finally:
            await self.manager.unsubscribe(trigger_id, key)

    def confirm(self) -> None:
        """Confirm that all events are stored, if ``confirms`` is True."""
        if self.confirms:
            self.manager.confirm_persisted(self.unconfirmed)
            self.unconfirmed.clear()

    async def stop(self) -> None:
        for task in self.tasks:
            await ended(task)
        await self.manager.stop_all()


def saved_ids(store: Store) -> set[str]:
    return {one for value in store.values.values() for one in json.loads(value)["seen"]}
