"""The faulty proxy does what it says, and nothing else."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests import faults
from tests.faulty import FaultyProxy

pytestmark = pytest.mark.no_airflow

POST = "POST /invocations"
LOOK = "GET /invocations/{id}"
STREAM = "GET /invocations/{id}/events"


@pytest.fixture
def http(proxy, emulator):
    """A client that goes through the proxy."""
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    with httpx.Client(base_url=proxy.base_url, headers=headers, timeout=10) as http:
        yield http


@pytest.fixture
def listed(client):
    """How many invocations the emulator has that carry a mark in their payload."""
    return lambda mark: sum(mark in (one.payload or "") for one in client.invocations.list(limit=100))


def invocation(mark="", action="echo"):
    return {
        "app_name": "tests",
        "action_name": action,
        "version": "latest",
        "async": True,
        "payload": json.dumps({"mark": mark, "n": 3, "seconds": 60}),
    }


def lines(http, invocation_id):
    with http.stream("GET", f"/invocations/{invocation_id}/events") as reply:
        for line in reply.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_a_request_without_a_rule_passes(proxy, http, emulator):
    invocation_id = http.post("/invocations", json=invocation("passes")).json()["id"]
    assert [event["event"] for event in lines(http, invocation_id)][-1] == "invocation_state"
    direct = httpx.get(
        f"{emulator.base_url}/invocations/{invocation_id}", headers={"Authorization": "Bearer x"}
    )
    assert http.get(f"/invocations/{invocation_id}").json() == direct.json()
    assert http.delete(f"/invocations/{invocation_id}/browsers").status_code == 204
    assert http.get("/invocations/none").status_code == 404
    assert {exchange.did for exchange in proxy.exchanges} == {"pass"}
    assert [exchange.answered_status for exchange in proxy.exchanges] == [202, 200, 200, 204, 404]
    assert len(proxy._clients) == 1
    assert [exchange.json["action_name"] for exchange in proxy.accepted] == ["echo"]


def test_events_pass_before_the_stream_ends(http):
    invocation_id = http.post("/invocations", json=invocation(action="sleep")).json()["id"]
    events = lines(http, invocation_id)
    assert next(event for event in events if event["event"] == "log")["message"] == "sleeping"
    events.close()
    http.patch(f"/invocations/{invocation_id}", json={"status": "failed"})


@pytest.mark.parametrize(
    ("fault", "arrives"),
    [
        (faults.drop_reply(), 1),
        (faults.drop_reply(reset=True), 1),
        (faults.cut_after(size=5), 1),
        (faults.drop_request(), 0),
    ],
    ids=["drop_reply", "drop_reply, reset", "cut_after", "drop_request"],
)
def test_a_lost_reply_is_recorded_with_the_upstream_status(proxy, http, listed, fault, arrives):
    mark = f"lost {fault.name} {id(fault)}"
    proxy.on(POST, fault, times=1)
    with pytest.raises(httpx.TransportError):
        http.post("/invocations", json=invocation(mark))
    assert listed(mark) == arrives == len(proxy.accepted)
    http.post("/invocations", json=invocation(mark))
    assert listed(mark) == arrives + 1 == len(proxy.accepted)


def test_an_answer_is_injected_before_or_after_the_request_took_effect(proxy, http, listed):
    proxy.on(POST, faults.answer(429, headers={"Retry-After": "7"}), times=1)
    proxy.on(POST, faults.html(502, after=True), times=1, where=lambda exchange: b"injected" in exchange.body)
    busy = http.post("/invocations", json=invocation("injected"))
    assert (busy.status_code, busy.headers["Retry-After"], busy.json()["code"]) == (429, "7", "injected")
    assert listed("injected") == 0
    assert http.post("/invocations", json=invocation("other")).status_code == 202
    bad = http.post("/invocations", json=invocation("injected"))
    assert (bad.status_code, bad.headers["Content-Type"]) == (502, "text/html")
    assert listed("injected") == 1
    assert [exchange.did for exchange in proxy.seen(POST)] == ["answer 429", "pass", "answer_after 502"]
    assert [exchange.upstream_status for exchange in proxy.seen(POST)] == [None, 202, 202]


def test_streams_break_or_fall_silent_after_some_events(proxy, http):
    invocation_id = http.post("/invocations", json=invocation(action="logs")).json()["id"]
    proxy.on(STREAM, faults.cut_after(events=2), times=1)
    proxy.on(STREAM, faults.cut_after(events=1, reset=True), times=1)
    proxy.on(STREAM, faults.half_open(events=1), times=1)
    proxy.on(STREAM, faults.garble(), times=1)
    for count, trouble in (
        (2, httpx.TransportError),
        (1, httpx.TransportError),
        (1, httpx.ReadTimeout),
    ):
        seen = []
        http.timeout = httpx.Timeout(10, read=0.5 if trouble is httpx.ReadTimeout else 10)
        with pytest.raises(trouble):  # noqa: PT012 - the events before the trouble count
            for event in lines(http, invocation_id):
                seen.append(event)
        assert len(seen) == count
    http.timeout = 10
    with pytest.raises(json.JSONDecodeError):
        list(lines(http, invocation_id))
    assert list(lines(http, invocation_id))[-1]["event"] == "invocation_state"


def test_replies_come_late_or_byte_by_byte(proxy, http):
    proxy.on("GET /apps", faults.delay(0.2), times=1)
    proxy.on("GET /apps", faults.delay(0.2, reply=True), times=1)
    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            http.get("/apps", timeout=0.1)
    proxy.on("GET /auth/context", faults.trickle(0.001), times=1)
    with http.stream("GET", "/auth/context") as reply:
        assert len(list(reply.iter_raw())) > 20


@pytest.mark.parametrize("forward", [True, False])
def test_a_request_is_held_until_it_is_released(proxy, http, listed, forward):
    mark = f"held {forward}"
    rule = proxy.on(POST, faults.hold(forward=forward), times=1)
    with ThreadPoolExecutor() as pool:
        posting = pool.submit(http.post, "/invocations", json=invocation(mark))
        rule.wait_until_held(10)
        assert listed(mark) == forward
        assert not posting.done()
        rule.release()
        assert posting.result(10).status_code == 202
    assert listed(mark) == 1


def test_a_request_held_by_a_lifted_rule_never_arrives(proxy, http, listed):
    rule = proxy.on(POST, faults.hold(forward=False))
    with ThreadPoolExecutor() as pool:
        posting = pool.submit(http.post, "/invocations", json=invocation("lifted"))
        rule.wait_until_held(10)
        rule.lift()
        with pytest.raises(httpx.TransportError):
            posting.result(10)
    assert listed("lifted") == 0
    assert http.post("/invocations", json=invocation("lifted")).status_code == 202


def test_the_api_goes_down_and_comes_back_at_the_same_address(proxy, http, until):
    invocation_id = http.post("/invocations", json=invocation(action="sleep")).json()["id"]
    events = lines(http, invocation_id)
    next(events)
    proxy.go_down()
    with pytest.raises(httpx.TransportError):
        list(events)
    for _ in range(2):
        with pytest.raises(httpx.ConnectError):
            http.get("/apps")
    proxy.come_up()
    assert http.get("/apps").status_code == 200

    proxy.on("GET /apps", faults.refuse(0.2), times=1)
    with pytest.raises(httpx.TransportError):
        http.get("/apps")
    with pytest.raises(httpx.ConnectError):
        http.get("/apps")

    def is_up():
        try:
            return http.get("/apps").status_code == 200
        except httpx.ConnectError:
            return False

    until(is_up)
    http.patch(f"/invocations/{invocation_id}", json={"status": "failed"})


def test_a_stopped_emulator_is_a_bad_gateway():
    with FaultyProxy("http://127.0.0.1:1") as proxy:
        assert httpx.get(f"{proxy.base_url}/apps").status_code == 502


def test_a_random_plan_is_the_same_for_the_same_seed(proxy, http):
    weights = {POST: {faults.answer(500): 0.3, faults.answer(429): 0.2}, LOOK: {faults.html(502): 1.0}}

    def run(seed):
        proxy.exchanges.clear()
        proxy.plan = faults.random_plan(seed, weights)
        for _ in range(40):
            http.post("/invocations", json=invocation())
        return [exchange.did for exchange in proxy.exchanges]

    first = run(1)
    assert run(1) == first != run(2)
    assert {"pass", "answer 500", "answer 429"} == set(first)
    assert http.get("/invocations/any").status_code == 502
    assert http.get("/apps").status_code == 200


def test_the_threads_of_the_proxy_end_with_it(emulator, http, proxy, until):
    before = threading.active_count()
    with FaultyProxy(emulator.base_url) as other:
        rule = other.on("GET /apps", faults.hold(forward=False))
        with ThreadPoolExecutor() as pool:
            asking = pool.submit(httpx.get, f"{other.base_url}/apps")
            rule.wait_until_held(10)
            other.__exit__()
            with pytest.raises(httpx.TransportError):
                asking.result(10)
    until(lambda: threading.active_count() == before)
