"""The watcher in one event loop, with the emulator: what it reports, also when requests fail."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_kernel.triggers import finished as triggers
from airflow_provider_kernel.watch import ends as decisions
from tests import faults
from tests.integration.finished.watching import (
    LIST,
    assert_nothing_remains,
    running,
    scanned,
    trigger,
    until_,
)

pytestmark = pytest.mark.skipif(not triggers.HAS_WATCHERS, reason="Airflow 2 has no watchers of assets")


async def test_end_is_reported_once_and_not_when_it_was_before_the_first_scan(proxy, submit, client, until):
    before = submit("echo", 1)
    until(lambda: client.invocations.retrieve(before).status == "succeeded")
    async with running(trigger()) as ends:
        await scanned(proxy, 2)
        one, other, failed = (
            submit("echo", {"s3cret": 1}),
            submit("sleep", {"seconds": 0}),
            submit("echo", 2),
        )
        await ends.are(one, failed)
        await scanned(proxy, 3)
        assert ends.count == {one: 1, failed: 1}
        assert other not in ends.count
        end = next(end for end in ends.ends if end["invocation_id"] == one)
        assert end["app_name"] == "tests"
        assert end["action_name"] == "echo"
        assert end["status"] == "succeeded"
        assert end["started_at"] <= end["finished_at"]
        assert "s3cret" not in json.dumps(ends.events)
    assert_nothing_remains()


async def test_ends_of_one_scan_make_one_event_in_order_of_their_ends(proxy, submit, client, until):
    async with running(trigger(None)) as ends:
        await scanned(proxy)
        rule = proxy.on(LIST, faults.hold(forward=False))
        await until_(lambda: rule.held)
        ones = [submit("echo", n) for n in range(5)]
        last = submit("sleep", {"seconds": 0.5})
        ones.append(submit("echo", 5))
        ended = lambda: all(client.invocations.retrieve(i).status == "succeeded" for i in (*ones, last))  # noqa: E731
        until(ended)
        rule.left = 0
        rule.release()
        await ends.are(*ones, last)
        (event,) = ends.events
        assert len(event) == 7
        assert event[-1]["invocation_id"] == last
        assert [end["finished_at"] for end in event] == sorted(end["finished_at"] for end in event)


async def test_next_event_waits_for_event_spacing_and_has_all_ends_since(proxy, submit, monkeypatch):
    monkeypatch.setattr(decisions, "EVENT_SPACING", 2.0)
    fired = []
    async with running(trigger()) as ends:
        await scanned(proxy)
        await ends.are(submit("echo", 0))
        fired.append(asyncio.get_running_loop().time())
        for number in (1, 2):
            submit("echo", number)
            await scanned(proxy, 5)
        assert len(ends.events) == 1
        await until_(lambda: len(ends.events) == 2)
        fired.append(asyncio.get_running_loop().time())
        assert [len(event) for event in ends.events] == [1, 2]
        assert set(ends.count.values()) == {1}
        assert fired[1] - fired[0] > 1.5  # counted from the start of the scans


async def test_end_is_reported_when_the_invocation_runs_at_the_first_scan(proxy, submit):
    runs = submit("sleep", {"seconds": 1})
    async with running(trigger("sleep")) as ends:
        await scanned(proxy, 1)
        assert not ends.ends
        await ends.are(runs)


async def test_end_is_not_reported_when_the_status_does_not_match(proxy, submit):
    async with running(trigger(None, status="failed")) as ends:
        await scanned(proxy, 2)
        succeeded, failed = submit("echo", 1), submit("fail", {"message": "no"})
        await ends.are(failed)
        await scanned(proxy, 3)
        assert ends.count == {failed: 1}
        assert succeeded not in ends.count


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
        faults.answer(200, [{"id": "i1", "status": "failed"}], {"X-Has-More": "true", "X-Next-Offset": "-1"}),
        faults.drop_request(),
        faults.drop_reply(reset=True),
        faults.cut_after(size=10),
    ],
    ids=lambda fault: fault.name,
)
async def test_watcher_tries_again_when_a_request_fails(proxy, submit, fault, told):
    async with running(trigger()) as ends:
        await scanned(proxy)
        rule = proxy.on(LIST, fault, times=5)
        one = submit("echo", 1)
        await ends.are(one)
        assert rule.left == 0
        await scanned(proxy, 2)
        assert ends.count == {one: 1}
    assert "Kernel did not list the invocations of connection" in told()


async def test_page_is_requested_with_smaller_limits_when_a_proxy_refuses_large_pages(proxy, submit):
    async with running(trigger()) as ends:
        proxy.on(LIST, faults.html(502), where=lambda e: limit_of(e) > 3)
        await first_scan_ended(proxy)
        ones = [submit("echo", n) for n in range(5)]
        await ends.are(*ones)
        assert set(ends.count.values()) == {1}


async def first_scan_ended(proxy) -> None:
    """Wait until all pages of the first scan are read."""
    firsts = lambda: [e for e in proxy.seen(LIST) if "offset=0" in e.path and e.answered_status == 200]  # noqa: E731
    await until_(lambda: len(firsts()) >= 2)


def limit_of(exchange) -> int:
    return int(parse_qs(urlsplit(exchange.path).query)["limit"][0])


async def test_unreadable_invocation_is_ignored_with_a_warning(proxy, submit, told):
    async with running(trigger()) as ends:
        await first_scan_ended(proxy)
        items = [
            {"id": 7},
            {"id": "odd", "status": "succeeded", "app_name": "tests", "action_name": "echo"},
        ]
        proxy.on(LIST, faults.answer(200, items), times=1)
        await ends.are("odd")
        await ends.are(submit("echo", 1))
    assert "Kernel listed 1 invocations of connection" in told()


async def test_many_ends_make_several_events_of_one_scan(proxy, submit, client, until, monkeypatch):
    monkeypatch.setattr(decisions, "MAX_ENDS", 2)
    async with running(trigger(poll_interval=1)) as ends:
        await scanned(proxy)
        rule = proxy.on(LIST, faults.hold(forward=False))
        await until_(lambda: rule.held)
        ones = [submit("echo", n) for n in range(5)]
        until(lambda: all(client.invocations.retrieve(one).status == "succeeded" for one in ones))
        before = len(proxy.seen(LIST))
        rule.left = 0
        rule.release()
        await ends.are(*ones)
        assert [len(event) for event in ends.events] == [2, 2, 1]
        assert len(proxy.seen(LIST)) <= before + 1  # the next scan may have started


async def test_watcher_honours_retry_after(proxy, submit):
    async with running(trigger()) as ends:
        await scanned(proxy)
        proxy.on(LIST, faults.answer(429, headers={"Retry-After": "1"}), times=1)
        one = submit("echo", 1)
        await ends.are(one)
    refused = next(e for e in proxy.seen(LIST) if e.answered_status == 429)
    following = proxy.seen(LIST)[proxy.seen(LIST).index(refused) + 1]
    assert following.at - refused.at >= 1


async def test_watcher_waits_when_the_connection_is_missing(proxy, submit, monkeypatch, told):
    async with running(trigger(kernel_conn_id="kernel_later")) as ends:
        await until_(lambda: "kernel_later" in told())
        assert not ends.task.done()
        monkeypatch.setenv("AIRFLOW_CONN_KERNEL_LATER", proxy.connection_json())
        await scanned(proxy)
        one = submit("echo", 1)
        await ends.are(one)


async def test_only_the_failed_page_is_requested_again(proxy, submit, monkeypatch):
    monkeypatch.setattr(decisions, "FIRST_PAGE", 1)
    monkeypatch.setattr(decisions, "LARGEST_PAGE", 1)
    async with running(trigger("async_echo", poll_interval=0.5)) as ends:
        await scanned(proxy)
        proxy.on(LIST, faults.html(502), times=2, where=lambda e: "offset=2" in e.path)
        ones = [submit("async_echo", n) for n in range(4)]
        await ends.are(*ones)
        assert set(ends.count.values()) == {1}
    paths = [e.path for e in proxy.seen(LIST)]
    first = next(n for n, e in enumerate(proxy.seen(LIST)) if e.answered_status == 502)
    assert paths[first] == paths[first + 1] == paths[first + 2]


async def test_log_contains_no_token_and_no_payload(proxy, submit, caplog):
    caplog.set_level("DEBUG")
    async with running(trigger()) as ends:
        await scanned(proxy)
        proxy.on(LIST, faults.answer(401), times=2)
        await ends.are(submit("echo", {"s3cret": 1}))
    ours = [r.getMessage() for r in caplog.records if r.name.startswith(("airflow", "aiohttp", "asyncio"))]
    assert any("Kernel answered 401" in line for line in ours)
    assert not [line for line in ours if "sk_emulator" in line or "s3cret" in line]
