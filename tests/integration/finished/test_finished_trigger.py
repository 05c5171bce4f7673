"""The watcher of ends, in one event loop, over real HTTP: what it reports, and what can go wrong."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_kernel.triggers import finished as triggers
from airflow_provider_kernel.watch import ends as decisions
from tests import faults
from tests.integration.finished.watching import LIST, looked, nothing_is_left, running, trigger, until_

pytestmark = pytest.mark.skipif(not triggers.HAS_WATCHERS, reason="Airflow 2 has no watchers of assets")


async def test_each_end_is_reported_once_and_what_had_ended_before_the_first_look_is_not(
    proxy, submit, client, until
):
    before = submit("echo", 1)
    until(lambda: client.invocations.retrieve(before).status == "succeeded")
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
        end = next(end for end in ends.ends if end["invocation_id"] == one)
        assert end["app_name"] == "tests"
        assert end["action_name"] == "echo"
        assert end["status"] == "succeeded"
        assert end["started_at"] <= end["finished_at"]
        assert "s3cret" not in json.dumps(ends.events)
    nothing_is_left()


async def test_all_that_have_ended_by_a_look_are_one_event_in_the_order_of_their_ends(
    proxy, submit, client, until
):
    async with running(trigger(None)) as ends:
        await looked(proxy)
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


async def test_the_next_event_is_not_too_soon_and_has_all_that_ended_meanwhile(proxy, submit, monkeypatch):
    monkeypatch.setattr(decisions, "EVENT_SPACING", 2.0)
    fired = []
    async with running(trigger()) as ends:
        await looked(proxy)
        await ends.are(submit("echo", 0))
        fired.append(asyncio.get_running_loop().time())
        for number in (1, 2):
            submit("echo", number)
            await looked(proxy, 5)
        assert len(ends.events) == 1
        await until_(lambda: len(ends.events) == 2)
        fired.append(asyncio.get_running_loop().time())
        assert [len(event) for event in ends.events] == [1, 2]
        assert set(ends.count.values()) == {1}
        assert fired[1] - fired[0] > 1.5  # from the beginning of the looks


async def test_what_runs_at_the_first_look_is_reported_when_it_ends(proxy, submit):
    runs = submit("sleep", {"seconds": 1})
    async with running(trigger("sleep")) as ends:
        await looked(proxy, 1)
        assert not ends.ends
        await ends.are(runs)


async def test_the_status_that_is_not_wanted_is_no_event(proxy, submit):
    async with running(trigger(None, status="failed")) as ends:
        await looked(proxy, 2)
        good, bad = submit("echo", 1), submit("fail", {"message": "no"})
        await ends.are(bad)
        await looked(proxy, 3)
        assert ends.count == {bad: 1}
        assert good not in ends.count


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
async def test_whatever_is_answered_it_goes_on(proxy, submit, fault, told):
    async with running(trigger()) as ends:
        await looked(proxy)
        rule = proxy.on(LIST, fault, times=5)
        one = submit("echo", 1)
        await ends.are(one)
        assert rule.left == 0
        await looked(proxy, 2)
        assert ends.count == {one: 1}
    assert "Kernel did not list the invocations of connection" in told()


async def test_a_page_that_is_too_large_for_the_way_there_is_asked_for_again_until_it_is_small_enough(
    proxy, submit
):
    async with running(trigger()) as ends:
        proxy.on(LIST, faults.html(502), where=lambda e: limit_of(e) > 3)
        await began_again(proxy)
        ones = [submit("echo", n) for n in range(5)]
        await ends.are(*ones)
        assert set(ends.count.values()) == {1}


async def began_again(proxy) -> None:
    """Wait until the first look is over, all pages of it."""
    firsts = lambda: [e for e in proxy.seen(LIST) if "offset=0" in e.path and e.answered_status == 200]  # noqa: E731
    await until_(lambda: len(firsts()) >= 2)


def limit_of(exchange) -> int:
    return int(parse_qs(urlsplit(exchange.path).query)["limit"][0])


async def test_what_cannot_be_read_in_a_list_is_left_out_with_a_warning(proxy, submit, told):
    async with running(trigger()) as ends:
        await began_again(proxy)
        items = [
            {"id": 7},
            {"id": "odd", "status": "succeeded", "app_name": "tests", "action_name": "echo"},
        ]
        proxy.on(LIST, faults.answer(200, items), times=1)
        await ends.are("odd")
        await ends.are(submit("echo", 1))
    assert "Kernel listed 1 invocations of connection" in told()


async def test_many_ends_are_several_events_without_waiting_for_the_next_look(
    proxy, submit, client, until, monkeypatch
):
    monkeypatch.setattr(decisions, "MAX_ENDS", 2)
    async with running(trigger(poll_interval=1)) as ends:
        await looked(proxy)
        rule = proxy.on(LIST, faults.hold(forward=False))
        await until_(lambda: rule.held)
        ones = [submit("echo", n) for n in range(5)]
        until(lambda: all(client.invocations.retrieve(one).status == "succeeded" for one in ones))
        before = len(proxy.seen(LIST))
        rule.left = 0
        rule.release()
        await ends.are(*ones)
        assert [len(event) for event in ends.events] == [2, 2, 1]
        assert len(proxy.seen(LIST)) <= before + 1  # the next look may have begun


async def test_it_waits_as_long_as_kernel_asks(proxy, submit):
    async with running(trigger()) as ends:
        await looked(proxy)
        proxy.on(LIST, faults.answer(429, headers={"Retry-After": "1"}), times=1)
        one = submit("echo", 1)
        await ends.are(one)
    refused = next(e for e in proxy.seen(LIST) if e.answered_status == 429)
    following = proxy.seen(LIST)[proxy.seen(LIST).index(refused) + 1]
    assert following.at - refused.at >= 1


async def test_without_a_connection_it_waits_until_there_is_one(proxy, submit, monkeypatch, told):
    async with running(trigger(kernel_conn_id="kernel_later")) as ends:
        await until_(lambda: "kernel_later" in told())
        assert not ends.task.done()
        monkeypatch.setenv("AIRFLOW_CONN_KERNEL_LATER", proxy.connection_json())
        await looked(proxy)
        one = submit("echo", 1)
        await ends.are(one)


async def test_a_page_that_failed_is_asked_for_again_and_not_the_list_from_its_start(
    proxy, submit, monkeypatch
):
    monkeypatch.setattr(decisions, "FIRST_PAGE", 1)
    monkeypatch.setattr(decisions, "LARGEST_PAGE", 1)
    async with running(trigger("async_echo", poll_interval=0.5)) as ends:
        await looked(proxy)
        proxy.on(LIST, faults.html(502), times=2, where=lambda e: "offset=2" in e.path)
        ones = [submit("async_echo", n) for n in range(4)]
        await ends.are(*ones)
        assert set(ends.count.values()) == {1}
    paths = [e.path for e in proxy.seen(LIST)]
    first = next(n for n, e in enumerate(proxy.seen(LIST)) if e.answered_status == 502)
    assert paths[first] == paths[first + 1] == paths[first + 2]


async def test_no_token_and_no_payload_is_in_what_it_logs(proxy, submit, caplog):
    caplog.set_level("DEBUG")
    async with running(trigger()) as ends:
        await looked(proxy)
        proxy.on(LIST, faults.answer(401), times=2)
        await ends.are(submit("echo", {"s3cret": 1}))
    ours = [r.getMessage() for r in caplog.records if r.name.startswith(("airflow", "aiohttp", "asyncio"))]
    assert any("Kernel answered 401" in line for line in ours)
    assert not [line for line in ours if "sk_emulator" in line or "s3cret" in line]
