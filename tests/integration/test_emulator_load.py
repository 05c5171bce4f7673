"""The emulator with what is large or many: payloads, invocations, streams, and clients that read slowly or never."""

import json
import resource
import socket
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import psutil
import pytest

from airflow_provider_kernel.testing import KernelEmulator
from dev.wait import wait_until
from tests.integration.conftest import APP

pytestmark = pytest.mark.no_airflow

ECHO = {"app_name": "tests", "action_name": "echo", "version": "latest"}
LARGEST = 4_500_000
MB = 2**20


@pytest.fixture
def own():
    """An emulator of each test's own: its memory is measured."""
    with KernelEmulator([APP], heartbeat=0.5) as emulator:
        yield emulator


@pytest.fixture
def own_http(own):
    headers = {"Authorization": "Bearer x"}
    with httpx.Client(base_url=own.base_url, headers=headers, timeout=60) as http:
        yield http


def rss(emulator):
    return psutil.Process(emulator.pid).memory_info().rss


def median_latency(http, times=20):
    return statistics.median(http.get("/auth/context").elapsed.total_seconds() for _ in range(times))


@contextmanager
def unread(emulator, path, count):
    """Have clients request a path and read nothing of the response but its first byte."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n".encode()
    address = emulator.base_url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(30)
            client.connect((address[0], int(address[1])))
            client.sendall(request)
            clients.append(client)
        for client in clients:
            assert client.recv(1) == b"H"
        yield clients


def submit(http, action, payload=None, **fields):
    body = ECHO | {"action_name": action, "async": True} | fields
    if payload is not None:
        body["payload"] = json.dumps(payload)
    reply = http.post("/invocations", json=body)
    assert reply.status_code == 202, reply.text
    return reply.json()["id"]


def wait_for_end(http, invocation_id):
    def found():
        invocation = http.get(f"/invocations/{invocation_id}").json()
        return invocation["status"] in ("succeeded", "failed") and invocation

    return wait_until(found, 30, "the invocation ends", interval=0.05)


@pytest.mark.parametrize("text", ["x", "é", "\\u0001"], ids=["ascii", "utf-8", "escaped"])
def test_largest_payload_and_output_come_back_byte_for_byte(http, text):
    payload = '"' + text * ((LARGEST - 2) // len(text.encode())) + '"'
    payload += " " * (LARGEST - len(payload.encode()))
    reply = http.post("/invocations", json=ECHO | {"payload": payload}).json()
    stored = http.get(f"/invocations/{reply['id']}").json()

    assert stored["payload"] == payload
    assert stored["output"] == reply["output"]
    assert json.loads(reply["output"]) == json.loads(payload)
    assert http.post("/invocations", json=ECHO | {"payload": payload + " "}).status_code == 400


def test_a_thousand_invocations_are_listed_by_pages_while_new_ones_come(own_http):
    with ThreadPoolExecutor(8) as pool:
        known = set(pool.map(lambda number: submit(own_http, "echo", number), range(1_000)))
    found, offset, new = [], 0, []
    while True:
        page = own_http.get("/invocations", params={"limit": 100, "offset": offset})
        found += [it["id"] for it in page.json()]
        if page.headers["x-has-more"] == "false":
            break
        offset = int(page.headers["x-next-offset"])
        if len(new) < 5:
            new.append(submit(own_http, "minute"))

    assert known <= set(found)
    # The newest come first, so that each new one moves one invocation to the next page.
    assert len(found) == len(known) + len(new)


def test_two_hundred_streams_have_the_same_lines_and_the_end(own, own_http):
    invocation_id = submit(own_http, "logs", {"n": 100, "delay": 0.02})
    path = f"{own.base_url}/invocations/{invocation_id}/events"

    def follow(_):
        with httpx.Client(headers={"Authorization": "Bearer x"}, verify=False, timeout=60) as http:
            lines = [json.loads(it[6:]) for it in http.get(path).text.splitlines() if it]
        return [it["message"] for it in lines if it["event"] == "log"], lines[-1]["invocation"]["status"]

    with ThreadPoolExecutor(200) as pool:
        results = list(pool.map(follow, range(200)))

    assert results == [([f"line {number}" for number in range(100)], "succeeded")] * 200


def test_streams_may_be_more_than_the_soft_limit_of_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            emulator = stack.enter_context(KernelEmulator([APP]))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        headers = {"Authorization": "Bearer x"}
        http = stack.enter_context(httpx.Client(base_url=emulator.base_url, headers=headers, timeout=60))
        invocation_id = submit(http, "minute")
        with unread(emulator, f"/invocations/{invocation_id}/events", 300):
            assert http.get("/auth/context").status_code == 200


def test_unread_streams_of_long_lines_need_little_memory_and_slow_nobody(own, own_http):
    invocation_id = submit(own_http, "long_lines", {"n": 120})
    wait_for_end(own_http, invocation_id)
    alone, before = median_latency(own_http), rss(own)

    with unread(own, f"/invocations/{invocation_id}/events", 50):
        beside, needed = median_latency(own_http), rss(own) - before

    # Less than a megabyte for each; the log has seven.
    assert needed < 40 * MB
    assert beside < max(10 * alone, 0.5)


def test_unread_outputs_need_bounded_memory_and_slow_nobody(own, own_http):
    invocation_id = submit(own_http, "big", {"n": LARGEST - 2})
    wait_for_end(own_http, invocation_id)
    alone, before = median_latency(own_http), rss(own)

    for path in (f"/invocations/{invocation_id}/events", f"/invocations/{invocation_id}"):
        with unread(own, path, 20):
            beside, needed = median_latency(own_http), rss(own) - before
        # All streams share the output; each other response has a copy in what is waiting to be sent.
        assert needed < (40 if path.endswith("events") else 20 * 3 * 4.5) * MB
        assert beside < max(10 * alone, 0.5)


def test_list_of_large_invocations_is_made_piece_by_piece_and_slows_nobody(own, own_http):
    payload = '"' + "x" * (LARGEST - 2) + '"'
    for _ in range(12):
        own_http.post("/invocations", json=ECHO | {"payload": payload, "action_name": "fail"})
    one = own_http.get("/invocations?limit=1").elapsed.total_seconds()
    before = rss(own)
    longest, peak = 0.0, 0
    with (
        httpx.Client(base_url=own.base_url, headers=own_http.headers, timeout=60) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        listing = pool.submit(other.get, "/invocations?limit=100")
        while not listing.done():
            longest = max(longest, own_http.get("/auth/context").elapsed.total_seconds())
            peak = max(peak, rss(own) - before)

    assert len(listing.result().json()) == 12
    assert peak < 6 * LARGEST
    assert longest < max(4 * one, 1.0)
