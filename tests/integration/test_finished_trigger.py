"""The watcher of ends, in one event loop, over real HTTP: what Airflow's triggerer does with it, and what can go wrong."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from airflow.triggers import base

from airflow_provider_kernel.api import finished as decisions
from airflow_provider_kernel.api.events import parse_timestamp
from airflow_provider_kernel.hooks import kernel_async
from airflow_provider_kernel.triggers import cursors
from airflow_provider_kernel.triggers import finished as triggers
from airflow_provider_kernel.triggers.finished import KernelInvocationFinishedTrigger
from tests import faults

if not triggers.HAS_WATCHERS:
    pytest.skip("Airflow 2 has no watchers of assets", allow_module_level=True)
needs_shared_streams = pytest.mark.skipif(
    not triggers.HAS_SHARED_STREAMS, reason="Airflow has shared streams from 3.3 on"
)
LIST = "GET /invocations"


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Look many times a second, and wait for nothing."""
    monkeypatch.setattr(triggers, "MIN_POLL_INTERVAL", 0.01)
    monkeypatch.setattr(decisions, "SECONDS_PER_REQUEST", 0.001)
    monkeypatch.setattr(decisions, "MAX_PAUSE", 0.05)
    monkeypatch.setattr(cursors, "STORE_PAUSE", 0.01)


def trigger(action_name: str | None = "echo", **arguments: Any) -> KernelInvocationFinishedTrigger:
    arguments = {"status": "any", "poll_interval": 0.05, **arguments}
    return KernelInvocationFinishedTrigger("tests", action_name, **arguments)


class Events:
    """What a trigger that runs has fired: payloads."""

    def __init__(self, stream: AsyncIterator[base.TriggerEvent]) -> None:
        self.payloads: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self._collect(stream))

    async def _collect(self, stream: AsyncIterator[base.TriggerEvent]) -> None:
        async for event in stream:
            self.payloads.append(event.payload)

    @property
    def count(self) -> Counter[str]:
        return Counter(payload["invocation_id"] for payload in self.payloads)

    async def are(self, *ids: str) -> None:
        """Wait until there is one for each of these."""
        await until(lambda: set(ids) <= set(self.count) or self.task.done())
        assert not self.task.done(), self.task.exception()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(trigger: KernelInvocationFinishedTrigger) -> AsyncIterator[Events]:
    """Run the trigger by itself, as Airflow does before 3.3."""
    events = Events(trigger.run())
    yield events
    await ended(events.task)


async def ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


def nothing_is_left() -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not kernel_async._shared[asyncio.get_running_loop()]


async def looked(proxy, times: int = 1) -> None:
    enough = len([e for e in proxy.seen(LIST) if e.answered_status == 200]) + times
    await until(lambda: len([e for e in proxy.seen(LIST) if e.answered_status == 200]) >= enough)


def test_each_end_is_one_event_and_what_had_ended_before_the_first_look_is_none(proxy, submit, until):
    before = submit("echo", 1)
    until(lambda: before)

    async def main() -> None:
        async with running(trigger()) as ends:
            await looked(proxy, 2)
            one, other, failed = (
                submit("echo", {"s3cret": 1}),
                submit("sleep", {"seconds": 0}),
                submit("echo", 2),
            )
            await ends.are(one, failed)
            await looked(proxy, 3)
            assert ends.count == {one: 1, failed: 1}
            assert other not in ends.count
            payload = next(payload for payload in ends.payloads if payload["invocation_id"] == one)
            assert payload["app_name"] == "tests"
            assert payload["action_name"] == "echo"
            assert payload["status"] == "succeeded"
            assert payload["started_at"] <= payload["finished_at"]
            assert "s3cret" not in json.dumps(ends.payloads)
        nothing_is_left()

    asyncio.run(main())


def test_what_runs_at_the_first_look_is_reported_when_it_ends(proxy, submit):
    async def main() -> None:
        runs = submit("sleep", {"seconds": 1})
        async with running(trigger("sleep")) as ends:
            await looked(proxy, 1)
            assert not ends.payloads
            await ends.are(runs)

    asyncio.run(main())


def test_the_status_that_is_not_wanted_is_no_event(proxy, submit):
    async def main() -> None:
        async with running(trigger(None, status="failed")) as ends:
            await looked(proxy, 2)
            good, bad = submit("echo", 1), submit("fail", {"message": "no"})
            await ends.are(bad)
            await looked(proxy, 3)
            assert ends.count == {bad: 1}
            assert good not in ends.count

    asyncio.run(main())


@pytest.mark.parametrize(
    "fault",
    [
        faults.html(502),
        faults.html(200),
        faults.answer(500),
        faults.answer(401),
        faults.answer(400),
        faults.answer(404),
        faults.answer(200, {"not": "a list"}),
        faults.answer(200, [{"id": 7}]),
        faults.drop_request(),
        faults.drop_reply(reset=True),
        faults.cut_after(size=10),
    ],
    ids=lambda fault: fault.name,
)
def test_whatever_is_answered_it_goes_on(proxy, submit, fault, told):
    async def main() -> None:
        async with running(trigger()) as ends:
            await looked(proxy)
            rule = proxy.on(LIST, fault, times=5)
            one = submit("echo", 1)
            await ends.are(one)
            assert rule.left == 0
            await looked(proxy, 2)
            assert ends.count == {one: 1}

    asyncio.run(main())
    assert "Looking for invocations that have ended" in told()


def test_it_waits_as_long_as_kernel_asks(proxy, submit):
    async def main() -> None:
        async with running(trigger()) as ends:
            await looked(proxy)
            proxy.on(LIST, faults.answer(429, headers={"Retry-After": "1"}), times=1)
            one = submit("echo", 1)
            await ends.are(one)
        refused = next(e for e in proxy.seen(LIST) if e.answered_status == 429)
        following = proxy.seen(LIST)[proxy.seen(LIST).index(refused) + 1]
        assert following.at - refused.at >= 1

    asyncio.run(main())


def test_without_a_connection_it_waits_until_there_is_one(proxy, submit, monkeypatch, told):
    async def main() -> None:
        async with running(trigger(kernel_conn_id="kernel_later")) as ends:
            await until(lambda: "kernel_later" in told())
            assert not ends.task.done()
            monkeypatch.setenv("AIRFLOW_CONN_KERNEL_LATER", proxy.connection_json())
            await looked(proxy)
            one = submit("echo", 1)
            await ends.are(one)

    asyncio.run(main())


def test_a_page_that_failed_is_asked_for_again_and_not_the_list_from_its_start(proxy, submit, monkeypatch):
    monkeypatch.setattr(decisions, "FIRST_PAGE", 1)
    monkeypatch.setattr(decisions, "LARGEST_PAGE", 1)

    async def main() -> None:
        async with running(trigger("async_echo", poll_interval=0.5)) as ends:
            await looked(proxy)
            proxy.on(LIST, faults.html(502), times=2, where=lambda e: "offset=2" in e.path)
            ones = [submit("async_echo", n) for n in range(4)]
            await ends.are(*ones)
            assert set(ends.count.values()) == {1}
        paths = [e.path for e in proxy.seen(LIST)]
        first = next(n for n, e in enumerate(proxy.seen(LIST)) if e.answered_status == 502)
        assert paths[first] == paths[first + 1] == paths[first + 2]

    asyncio.run(main())


def test_no_token_and_no_payload_is_in_what_it_logs(proxy, submit, caplog):
    caplog.set_level("DEBUG")

    async def main() -> None:
        async with running(trigger()) as ends:
            await looked(proxy)
            proxy.on(LIST, faults.answer(401), times=2)
            await ends.are(submit("echo", {"s3cret": 1}))

    asyncio.run(main())
    ours = [r.getMessage() for r in caplog.records if r.name.startswith(("airflow", "aiohttp", "asyncio"))]
    assert any("Kernel answered 401" in line for line in ours)
    assert not [line for line in ours if "sk_emulator" in line or "s3cret" in line]


class Store:
    """The store of an asset, as far as a trigger sees it."""

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
            raise OSError("Airflow is away")


class Accessors:
    """The stores of all assets of a trigger."""

    def __init__(self, *stores: Store) -> None:
        self._by_name = {str(number): store for number, store in enumerate(stores)}


class Triggerer:
    """What Airflow's triggerer does with event triggers: Airflow's own manager of streams, and its loop around it."""

    def __init__(self, ack_timeout: float = 300.0) -> None:
        from airflow.triggers.shared_stream import SharedStreamManager

        self.manager = SharedStreamManager(ack_timeout=ack_timeout)
        self.ids = iter(range(1000))
        self.unconfirmed: list[int] = []
        self.confirms = True
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, trigger: KernelInvocationFinishedTrigger, *stores: Store) -> Events:
        """Start a trigger whose assets have these stores."""
        if stores:
            trigger.asset_state_store = Accessors(*stores)
        events = Events(self._run(next(self.ids), trigger))
        self.tasks.append(events.task)
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
        """Say that all events up to now are stored, unless that is held back."""
        if self.confirms:
            self.manager.confirm_persisted(self.unconfirmed)
            self.unconfirmed.clear()

    async def stop(self) -> None:
        for task in self.tasks:
            await ended(task)
        await self.manager.stop_all()


def kept(store: Store) -> set[str]:
    return {one for value in store.values.values() for one in json.loads(value)["seen"]}


@needs_shared_streams
def test_all_watchers_of_a_connection_share_one_look(proxy, submit):
    async def main() -> None:
        triggerer = Triggerer()
        actions = ("echo", "sleep", None)
        watchers = [triggerer.start(trigger(action, poll_interval=0.4), Store()) for action in actions]
        await looked(proxy, 2)
        before = len(proxy.seen(LIST))
        echo, sleep = submit("echo", 1), submit("sleep", {"seconds": 0})
        for events, expected in zip(watchers, ({echo}, {sleep}, {echo, sleep}), strict=True):
            await events.are(*expected)
        await looked(proxy, 2)
        for events, expected in zip(watchers, ({echo}, {sleep}, {echo, sleep}), strict=True):
            assert events.count == dict.fromkeys(expected, 1)
        seen = [e for e in proxy.seen(LIST)[before:] if "offset=0" in e.path]  # the first pages
        assert all("app_name=tests" in e.path and "action_name" not in e.path for e in seen)
        assert all(b.at - a.at > 0.3 for a, b in pairwise(seen))
        await triggerer.stop()
        nothing_is_left()

    asyncio.run(main())


@needs_shared_streams
def test_one_who_joins_later_begins_at_once_and_disturbs_nobody(proxy, submit):
    async def main() -> None:
        triggerer = Triggerer()
        early = triggerer.start(trigger(poll_interval=1), Store())
        await looked(proxy)
        runs = submit("sleep", {"seconds": 1})
        late = triggerer.start(trigger("sleep", poll_interval=1), store := Store())
        await until(lambda: store.values)
        one = submit("echo", 1)
        await asyncio.gather(early.are(one), late.are(runs))
        assert early.count == {one: 1}
        assert late.count == {runs: 1}
        await triggerer.stop()

    asyncio.run(main())


@needs_shared_streams
def test_the_cursor_is_kept_only_once_the_events_are_stored(proxy, submit):
    async def main() -> None:
        triggerer, store = Triggerer(), Store()
        ends = triggerer.start(trigger(), store)
        await until(lambda: store.values)
        triggerer.confirms = False
        one = submit("echo", 1)
        await ends.are(one)
        await looked(proxy, 4)
        assert one not in kept(store)
        triggerer.confirms = True
        triggerer.confirm()
        await until(lambda: one in kept(store))
        await triggerer.stop()

    asyncio.run(main())


@needs_shared_streams
@pytest.mark.parametrize("was_stored", [True, False])
def test_after_a_restart_what_was_not_stored_is_fired_again_and_what_was_is_not(proxy, submit, was_stored):
    async def main() -> None:
        store = Store()
        triggerer = Triggerer()
        ends = triggerer.start(trigger(), store)
        await until(lambda: store.values)
        triggerer.confirms = was_stored
        one, runs = submit("echo", 1), submit("sleep", {"seconds": 1})
        await ends.are(one)
        if was_stored:
            await until(lambda: one in kept(store))
        await triggerer.stop()
        meanwhile = submit("echo", 2)

        again = Triggerer()
        ends = again.start(trigger(), store)
        await ends.are(meanwhile, *([] if was_stored else [one]))
        last = submit("echo", 3)
        await ends.are(last)
        assert ends.count == dict.fromkeys([meanwhile, last, *([] if was_stored else [one])], 1)
        assert runs not in ends.count
        await again.stop()

    asyncio.run(main())


@needs_shared_streams
def test_what_airflow_never_confirms_ends_the_stream_so_that_it_is_fired_again(proxy, submit, monkeypatch):
    async def main() -> None:
        triggerer, store = Triggerer(ack_timeout=0.5), Store()
        ends = triggerer.start(trigger(), store)
        await until(lambda: store.values)
        triggerer.confirms = False
        one = submit("echo", 1)
        await ends.are(one)
        await until(ends.task.done)
        assert one not in kept(store)

        triggerer.unconfirmed.clear()
        triggerer.confirms = True
        again = triggerer.start(trigger(), store)
        await again.are(one)
        await until(lambda: one in kept(store))
        await triggerer.stop()

    asyncio.run(main())


@needs_shared_streams
def test_a_store_that_fails_is_asked_again_and_misses_nothing(proxy, submit, told):
    async def main() -> None:
        triggerer, store = Triggerer(), Store()
        store.fails = 3
        ends = triggerer.start(trigger(), store)
        await until(lambda: store.values)
        one = submit("echo", 1)
        store.fails = 2
        await ends.are(one)
        await looked(proxy, 1)
        later = submit("echo", 2)
        await ends.are(later)
        await until(lambda: {one, later} <= kept(store))
        assert ends.count == {one: 1, later: 1}
        await triggerer.stop()

    asyncio.run(main())
    assert "Airflow could not be asked where a watcher has stopped: OSError" in told()


@needs_shared_streams
def test_what_another_triggerer_has_reported_meanwhile_is_not_reported_again(proxy, submit, client):
    async def main() -> None:
        triggerer, store = Triggerer(), Store()
        ends = triggerer.start(trigger(), store)
        await until(lambda: store.values)
        rule = proxy.on(LIST, faults.hold(forward=False))
        await until(lambda: rule.held)
        one = submit("echo", 1)
        await until(lambda: client.invocations.retrieve(one).status == "succeeded")
        ((key, value),) = store.values.items()
        state = json.loads(value)
        state["seen"][one] = parse_timestamp(client.invocations.retrieve(one).started_at.isoformat())
        await store.aset(key, state)
        rule.left = 0
        rule.release()
        other = submit("echo", 2)
        await ends.are(other)
        await looked(proxy, 2)
        assert ends.count == {other: 1}
        await triggerer.stop()

    asyncio.run(main())


@needs_shared_streams
def test_the_cursor_is_with_every_asset_so_that_one_may_be_taken_away(proxy, submit):
    async def main() -> None:
        triggerer, stores = Triggerer(), (Store(), Store())
        ends = triggerer.start(trigger(), *stores)
        await until(lambda: all(store.values for store in stores))
        one = submit("echo", 1)
        await ends.are(one)
        await until(lambda: all(one in kept(store) for store in stores))
        await triggerer.stop()

        for store in stores:
            triggerer = Triggerer()
            ends = triggerer.start(trigger(), store)
            await looked(proxy, 2)
            assert not ends.payloads
            await triggerer.stop()

    asyncio.run(main())


@needs_shared_streams
def test_two_watchers_of_one_asset_keep_their_cursors_apart(proxy, submit):
    async def main() -> None:
        triggerer, store = Triggerer(), Store()
        triggerer.start(trigger(status="failed"), store)
        triggerer.start(trigger(status="any"), store)
        triggerer.start(trigger(status="any", poll_interval=7.0), store)
        await until(lambda: len(store.values) == 2)
        await looked(proxy, 2)
        assert len(store.values) == 2
        await triggerer.stop()

    asyncio.run(main())


@needs_shared_streams
def test_a_cursor_that_cannot_be_read_is_left_out_with_a_warning(proxy, submit, told):
    async def main() -> None:
        triggerer, store = Triggerer(), Store()
        triggerer.start(trigger(), store)
        await until(lambda: store.values)
        await triggerer.stop()
        (key,) = store.values
        store.values[key] = '{"format": 99}'

        triggerer = Triggerer()
        ends = triggerer.start(trigger(), store)
        await until(lambda: '"format": 1' in store.values[key])
        await ends.are(submit("echo", 1))
        await triggerer.stop()

    asyncio.run(main())
    assert "cannot be read" in told()


def test_airflow_knows_the_trigger_again_by_its_arguments():
    from airflow.models.trigger import Trigger

    for arguments in ({}, {"action_name": "a", "version": "v", "poll_interval": 60}):
        path, kwargs = KernelInvocationFinishedTrigger("shop", **arguments).serialize()
        row = Trigger(path, kwargs)
        again = KernelInvocationFinishedTrigger(**row.kwargs)
        assert again.serialize() == (path, kwargs)
        assert base.BaseEventTrigger.hash(path, row.kwargs) == base.BaseEventTrigger.hash(path, kwargs)
    whole, broken = (KernelInvocationFinishedTrigger("s", poll_interval=n).serialize()[1] for n in (60, 60.0))
    assert json.dumps(whole) == json.dumps(broken)


@pytest.mark.parametrize("poll_interval", [0, 9, 3601, True, "60", None])
def test_a_poll_interval_that_cannot_be_right_is_refused(poll_interval, monkeypatch):
    monkeypatch.setattr(triggers, "MIN_POLL_INTERVAL", 10.0)
    with pytest.raises(ValueError, match="a number from 10 to 3600"):
        KernelInvocationFinishedTrigger("shop", poll_interval=poll_interval)


def test_an_airflow_without_watchers_is_told_so(monkeypatch):
    monkeypatch.setattr(triggers, "HAS_WATCHERS", False)
    with pytest.raises(RuntimeError, match=r"from version 3\.0 on"):
        KernelInvocationFinishedTrigger("shop")
