"""The watchers of one connection in Airflow 3.3 and later: they share a scan, and each has a cursor."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest

from airflow_provider_kernel.api.timestamps import parse_timestamp
from airflow_provider_kernel.triggers import finished as triggers
from airflow_provider_kernel.watch import ends as decisions
from tests import faults
from tests.integration.finished.watching import (
    LIST,
    Store,
    Triggerer,
    assert_nothing_remains,
    saved_ids,
    scanned,
    trigger,
    until_,
)

pytestmark = pytest.mark.skipif(
    not triggers.HAS_SHARED_STREAMS, reason="Airflow has shared streams from 3.3 on"
)


async def test_watchers_of_a_connection_share_one_scan(proxy, submit):
    triggerer = Triggerer()
    actions = ("echo", "sleep", None)
    watchers = [triggerer.start(trigger(action, poll_interval=0.4), Store()) for action in actions]
    await scanned(proxy, 2)
    before = len(proxy.seen(LIST))
    echo, sleep = submit("echo", 1), submit("sleep", {"seconds": 0})
    for events, expected in zip(watchers, ({echo}, {sleep}, {echo, sleep}), strict=True):
        await events.are(*expected)
    await scanned(proxy, 2)
    for events, expected in zip(watchers, ({echo}, {sleep}, {echo, sleep}), strict=True):
        assert events.count == dict.fromkeys(expected, 1)
    seen = [e for e in proxy.seen(LIST)[before:] if "offset=0" in e.path]  # the first page of each scan
    assert all("app_name=tests" in e.path and "action_name" not in e.path for e in seen)
    assert all(b.at - a.at > 0.3 for a, b in pairwise(seen))
    await triggerer.stop()
    assert_nothing_remains()


async def test_new_watcher_is_scanned_at_once_without_effect_on_the_others(proxy, submit):
    triggerer = Triggerer()
    early = triggerer.start(trigger(poll_interval=1), Store())
    await scanned(proxy)
    runs = submit("sleep", {"seconds": 1})
    late = triggerer.start(trigger("sleep", poll_interval=1), store := Store())
    await until_(lambda: store.values)
    one = submit("echo", 1)
    await asyncio.gather(early.are(one), late.are(runs))
    assert early.count == {one: 1}
    assert late.count == {runs: 1}
    await triggerer.stop()


@pytest.mark.parametrize("dies", [False, True])
async def test_many_ends_make_several_events_of_one_scan_and_none_is_lost_when_the_triggerer_restarts(
    proxy, submit, client, until, monkeypatch, dies
):
    monkeypatch.setattr(decisions, "MAX_ENDS", 2)
    store, slow = Store(), {"poll_interval": 3600}
    triggerer = Triggerer()
    await triggerer.watch(store, **slow)
    await triggerer.stop()
    ones = [submit("echo", n) for n in range(7)]
    until(lambda: all(client.invocations.retrieve(one).status == "succeeded" for one in ones))

    triggerer = Triggerer()
    other = triggerer.start(trigger("sleep", **slow), Store())
    first = ends = triggerer.start(trigger(**slow), store)
    before = store.values.copy()
    if dies:
        await until_(lambda: store.values != before)
        await triggerer.stop()
        triggerer = Triggerer()
        ends = triggerer.start(trigger(**slow), store)
    await until_(lambda: set(ones) <= set(first.count + ends.count))
    assert not other.ends
    assert all(len(event) <= 2 for event in first.events + ends.events)
    if not dies:
        assert [len(event) for event in ends.events] == [2, 2, 2, 1]
        assert len(proxy.seen(LIST)) <= 3
    await triggerer.stop()


async def test_cursor_is_stored_only_after_airflow_stored_the_events(proxy, submit):
    triggerer, store = Triggerer(), Store()
    ends = await triggerer.watch(store)
    triggerer.confirms = False
    one = submit("echo", 1)
    await ends.are(one)
    await scanned(proxy, 4)
    assert one not in saved_ids(store)
    triggerer.confirms = True
    triggerer.confirm()
    await until_(lambda: one in saved_ids(store))
    await triggerer.stop()


@pytest.mark.parametrize("was_stored", [True, False])
async def test_only_unconfirmed_ends_are_reported_again_after_a_restart(proxy, submit, was_stored):
    store = Store()
    triggerer = Triggerer()
    ends = await triggerer.watch(store)
    triggerer.confirms = was_stored
    one, runs = submit("echo", 1), submit("sleep", {"seconds": 1})
    await ends.are(one)
    if was_stored:
        await until_(lambda: one in saved_ids(store))
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


async def test_stream_ends_and_reports_again_when_airflow_does_not_confirm(proxy, submit, monkeypatch):
    triggerer, store = Triggerer(ack_timeout=0.5), Store()
    ends = await triggerer.watch(store)
    triggerer.confirms = False
    one = submit("echo", 1)
    await ends.are(one)
    await until_(ends.task.done)
    assert one not in saved_ids(store)

    triggerer.unconfirmed.clear()
    triggerer.confirms = True
    again = triggerer.start(trigger(), store)
    await again.are(one)
    await until_(lambda: one in saved_ids(store))
    await triggerer.stop()


async def test_no_end_is_missed_when_the_store_fails(proxy, submit, told):
    triggerer, store = Triggerer(), Store()
    store.fails = 3
    ends = await triggerer.watch(store)
    one = submit("echo", 1)
    store.fails = 2
    await ends.are(one)
    await scanned(proxy, 1)
    later = submit("echo", 2)
    await ends.are(later)
    await until_(lambda: {one, later} <= saved_ids(store))
    assert ends.count == {one: 1, later: 1}
    await triggerer.stop()
    assert "The watcher's cursor could not be read from Airflow: OSError" in told()


async def test_end_is_not_reported_again_when_another_triggerer_has_reported_it(proxy, submit, client):
    triggerer, store = Triggerer(), Store()
    ends = await triggerer.watch(store)
    rule = proxy.on(LIST, faults.hold(forward=False))
    await until_(lambda: rule.held)
    one = submit("echo", 1)
    await until_(lambda: client.invocations.retrieve(one).status == "succeeded")
    ((key, value),) = store.values.items()
    state = json.loads(value)
    state["seen"][one] = parse_timestamp(client.invocations.retrieve(one).started_at.isoformat())
    await store.aset(key, state)
    rule.left = 0
    rule.release()
    other = submit("echo", 2)
    await ends.are(other)
    await scanned(proxy, 2)
    assert ends.count == {other: 1}
    await triggerer.stop()


async def test_cursor_is_stored_with_every_asset(proxy, submit):
    triggerer, stores = Triggerer(), (Store(), Store())
    ends = triggerer.start(trigger(), *stores)
    await until_(lambda: all(store.values for store in stores))
    one = submit("echo", 1)
    await ends.are(one)
    await until_(lambda: all(one in saved_ids(store) for store in stores))
    await triggerer.stop()

    for store in stores:
        triggerer = Triggerer()
        ends = triggerer.start(trigger(), store)
        await scanned(proxy, 2)
        assert not ends.ends
        await triggerer.stop()


async def test_watchers_of_one_asset_with_different_filters_have_separate_cursors(proxy, submit):
    triggerer, store = Triggerer(), Store()
    triggerer.start(trigger(status="failed"), store)
    triggerer.start(trigger(status="any"), store)
    triggerer.start(trigger(status="any", poll_interval=7.0), store)
    await until_(lambda: len(store.values) == 2)
    await scanned(proxy, 2)
    assert len(store.values) == 2
    await triggerer.stop()


async def test_unreadable_cursor_is_ignored_with_a_warning(proxy, submit, told):
    triggerer, store = Triggerer(), Store()
    await triggerer.watch(store)
    await triggerer.stop()
    (key,) = store.values
    store.values[key] = '{"format": 99}'

    triggerer = Triggerer()
    ends = triggerer.start(trigger(), store)
    await until_(lambda: '"format": 1' in store.values[key])
    await ends.are(submit("echo", 1))
    await triggerer.stop()
    assert "is not readable" in told()
