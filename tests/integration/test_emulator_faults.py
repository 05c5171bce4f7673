"""Faults on purpose, as clients meet them: the official SDK, httpx and a bare socket, against a real emulator."""

import json
import socket
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection, IncompleteRead
from urllib.parse import urlsplit

import httpx
import kernel
import pytest

from airflow_provider_kernel.emulator import __main__ as command_line
from airflow_provider_kernel.testing import KernelEmulator
from dev.wait import wait_until
from tests.integration.conftest import APP
from tests.integration.emulator_process import emulator_process

pytestmark = [pytest.mark.no_airflow]

HEARTBEAT = 0.2
KEY = "sk_faults"
ECHO = {"app_name": "tests", "action_name": "echo", "version": "latest", "payload": '"x"', "async": True}
LOGS = ECHO | {"action_name": "logs", "payload": '{"n": 5}'}


@pytest.fixture(scope="module")
def running():
    """An emulator that sends a heartbeat five times a second."""
    with KernelEmulator([APP], api_key=KEY, heartbeat=HEARTBEAT) as emulator:
        yield emulator


@pytest.fixture
def http(running):
    """A client of that emulator, which has no faults before and after the test."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=running.base_url, headers=headers, timeout=20) as client:
        yield client
        assert client.delete("/_emulator/faults").status_code == 204
        client.patch("/_emulator/settings", json={"max_concurrency": None, "refuse": None}).raise_for_status()


@pytest.fixture
def sdk(running):
    """The official SDK's client of that emulator; it repeats nothing."""
    with kernel.Kernel(base_url=running.base_url, api_key=KEY, max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
def fault(http):
    """``fault(status=503)`` adds a fault and returns its id."""

    def add(**fields):
        reply = http.post("/_emulator/faults", json=fields)
        assert reply.status_code == 201, reply.text
        return reply.json()["id"]

    return add


def applied(http):
    """Return how often each fault was applied."""
    return [fault["applied"] for fault in http.get("/_emulator/faults").json()["faults"]]


def invoke(sdk, **options):
    """Invoke the action ``echo`` asynchronously; return the response."""
    options = {"action_name": "echo", "payload": '"x"', "async_": True} | options
    return sdk.invocations.create(app_name="tests", version="latest", **options)


def count(http):
    """Return the number of invocations."""
    return int(http.get("/page/invocations").json()["total"])


def finished(http, body=LOGS):
    """Run an invocation to its end; return its id."""
    invocation_id = http.post("/invocations", json=body).json()["id"]
    wait_until(
        lambda: http.get(f"/invocations/{invocation_id}").json()["status"] == "succeeded", 30, "it succeeds"
    )
    return invocation_id


def connect(url):
    """Return a socket that is connected to an emulator."""
    address = urlsplit(url)
    return closing(socket.create_connection((address.hostname, address.port), 20))


def request_bytes(method, path, body=b""):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def kinds(data):
    """Return the kinds of the events in what came of a stream."""
    return [
        json.loads(line.partition(b"data: ")[2])["event"] for line in data.split(b"\n") if b"data: " in line
    ]


def test_latency_delays_the_request_and_not_others(http, sdk, fault):
    fault(method="POST", path="/invocations", latency=0.4, times=1)
    assert sdk.apps.list().items
    assert applied(http) == [0]
    started = time.monotonic()
    invocation = invoke(sdk)

    assert time.monotonic() - started >= 0.4
    assert sdk.invocations.retrieve(invocation.id).action_name == "echo"
    assert applied(http) == [1]


def test_delayed_request_takes_effect_when_its_client_has_left(http, running, fault):
    fault(method="POST", path="/invocations", latency=0.3)
    before = count(http)
    with connect(running.base_url) as client:
        client.sendall(request_bytes("POST", "/invocations", json.dumps(ECHO).encode()))
        wait_until(lambda: applied(http) == [1], 10, "the request arrives")

    wait_until(lambda: count(http) == before + 1, 10, "the request takes effect")


@pytest.mark.parametrize("status", [400, 403, 429, 500, 501, 503, 529, 599])
def test_status_is_answered_in_kernels_place_and_the_request_takes_no_effect(http, sdk, fault, status):
    before = count(http)
    fault(method="POST", status=status, retry_after=7)

    with pytest.raises(kernel.APIStatusError) as caught:
        invoke(sdk)

    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "7"
    assert "x-should-retry" not in caught.value.response.headers
    assert caught.value.body["message"] == "injected fault"
    assert set(caught.value.body) == {"code", "message"}
    assert count(http) == before


def test_latency_and_status_go_together(http, fault):
    fault(latency=0.3, status=503)
    started = time.monotonic()

    reply = http.get("/apps")

    assert (reply.status_code, "retry-after" in reply.headers) == (503, False)
    assert time.monotonic() - started >= 0.3


def test_sdk_repeats_the_request_after_an_error_that_happens_once(http, running, fault):
    fault(path="/apps", status=503, retry_after=0, times=1)
    with kernel.Kernel(base_url=running.base_url, api_key=KEY, max_retries=1) as client:
        assert client.apps.list().items

    assert applied(http) == [1]


def test_lost_reply_leaves_one_invocation_and_no_byte_of_a_response(http, sdk, running, fault):
    before = count(http)
    fault(method="POST", path="/invocations", lose_reply=True)
    with pytest.raises(kernel.APIConnectionError):
        invoke(sdk)
    assert count(http) == before + 1

    with connect(running.base_url) as client:
        client.sendall(request_bytes("POST", "/invocations", json.dumps(ECHO | {"async": False}).encode()))
        assert client.recv(1) == b""
    assert count(http) == before + 2
    assert http.get("/invocations").json()[0]["status"] == "succeeded"


def test_lost_reply_closes_a_connection_that_has_served_before(http, running, fault):
    fault(path="/apps", lose_reply=True)
    with connect(running.base_url) as client:
        client.sendall(request_bytes("GET", "/_emulator/settings"))
        received = b""
        while b'"refuse"' not in received:
            received += client.recv(4096)
        client.sendall(request_bytes("GET", "/apps"))
        assert client.recv(1) == b""


@pytest.mark.parametrize("events", [0, 1, 4])
def test_cut_stream_is_a_broken_body_after_so_many_events(http, running, fault, events):
    invocation_id = finished(http)
    fault(cut_after=events)
    address = urlsplit(running.base_url)
    with closing(HTTPConnection(address.hostname, address.port, timeout=20)) as client:
        client.request("GET", f"/invocations/{invocation_id}/events", headers=http.headers)
        reply = client.getresponse()
        with pytest.raises(IncompleteRead) as caught:
            reply.read()

    assert kinds(caught.value.partial) == ["log"] * events
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        http.get(f"/invocations/{invocation_id}/events")
    assert applied(http) == [2]


def test_stream_that_ends_before_it_is_cut_ends_well(http, fault):
    invocation_id = finished(http)
    fault(cut_after=100)

    assert kinds(http.get(f"/invocations/{invocation_id}/events").content) == ["log"] * 5 + [
        "invocation_state"
    ]


def test_heartbeats_do_not_count_as_events(http, fault):
    fault(cut_after=2)
    slow = LOGS | {"payload": '{"n": 5, "delay": 0.5}'}
    invocation_id = http.post("/invocations", json=slow).json()["id"]
    received = []

    with http.stream("GET", f"/invocations/{invocation_id}/events") as reply, pytest.raises(httpx.HTTPError):
        received.extend(reply.iter_raw())

    assert len([kind for kind in kinds(b"".join(received)) if kind != "sse_heartbeat"]) == 2


def test_silent_stream_sends_nothing_more_and_stays_open(http, running, fault):
    fault_id = fault(silent_after=1, times=1)
    minute = ECHO | {"action_name": "minute"}
    minute.pop("payload")
    invocation_id = http.post("/invocations", json=minute).json()["id"]
    path = f"/invocations/{invocation_id}/events"
    with connect(running.base_url) as silent, connect(running.base_url) as other:
        silent.sendall(request_bytes("GET", path))
        received = b""
        while b"\n\n\r\n" not in received:
            received += silent.recv(4096)
        assert kinds(received) == ["invocation_state"]
        http.delete(f"/_emulator/faults/{fault_id}")
        # Its times are up, so another client gets several heartbeats meanwhile.
        other.sendall(request_bytes("GET", path))
        beats = b""
        while beats.count(b"sse_heartbeat") < 4:
            beats += other.recv(4096)
        http.patch(f"/invocations/{invocation_id}", json={"status": "failed"}).raise_for_status()
        while b"0\r\n\r\n" not in beats:
            beats += other.recv(4096)
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.recv(1)


def test_stream_faults_concern_event_streams_alone(http, fault):
    fault(cut_after=0)

    assert http.get("/invocations").status_code == 200
    assert applied(http) == [0]
    assert http.get("/invocations/unknown/events").status_code == 404


def test_rate_and_times_choose_requests(http, fault):
    fault(path="/apps", status=503, rate=0.5, times=2)

    assert [http.get("/apps").status_code for _ in range(6)] == [200, 503, 200, 503, 200, 200]
    assert applied(http) == [2]


def test_removed_faults_have_no_effect(http, fault):
    first, _ = fault(path="/apps", status=503), fault(path="/apps", status=502)
    assert http.get("/apps").status_code == 503

    assert http.delete(f"/_emulator/faults/{first}").status_code == 204
    assert http.get("/apps").status_code == 502
    assert http.delete(f"/_emulator/faults/{first}").status_code == 404
    assert http.delete("/_emulator/faults").status_code == 204
    assert http.get("/apps").status_code == 200
    assert http.get("/_emulator/faults").json() == {"faults": []}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "The body must be a JSON object"),
        (b"{", "The body is not JSON"),
        (b'{"status": 200}', "status must be an error's status, from 400 to 599"),
        (b'{"path": "/apps"}', "A fault needs an effect: "),
    ],
)
def test_wrong_fault_is_refused(http, body, message):
    reply = http.post("/_emulator/faults", content=body)

    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert reply.json()["message"].startswith(message)
    assert http.get("/_emulator/faults").json() == {"faults": []}


def test_the_emulators_own_endpoints_and_the_page_have_no_faults_and_are_not_refused(http, fault):
    http.patch("/_emulator/settings", json={"refuse": "spending-cap"}).raise_for_status()
    fault(status=500)

    assert http.get("/apps").status_code == 500
    assert http.post("/invocations", json=ECHO).status_code == 403
    for path in ("/", "/page/page.css", "/page/invocations", "/_emulator/faults", "/_emulator/settings"):
        assert http.get(path).status_code in (200, 404), path
    assert applied(http) == [1]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer other"}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
def test_the_emulators_own_endpoints_check_key_host_and_origin(http, headers, status):
    for method, path in (
        ("POST", "faults"),
        ("GET", "faults"),
        ("DELETE", "faults/1"),
        ("PATCH", "settings"),
    ):
        assert http.request(method, f"/_emulator/{path}", headers=headers).status_code == status


def test_settings_change_while_the_emulator_runs(http, sdk):
    assert http.get("/_emulator/settings").json() == {"max_concurrency": None, "refuse": None}
    minute = invoke(sdk, action_name="minute", payload=kernel.omit)
    changed = http.patch("/_emulator/settings", json={"max_concurrency": 1})
    assert (changed.status_code, changed.json()) == (200, {"max_concurrency": 1, "refuse": None})

    with pytest.raises(kernel.RateLimitError, match="Limit of 1 concurrent"):
        invoke(sdk)
    http.patch("/_emulator/settings", json={"refuse": "spending-cap"})
    with pytest.raises(kernel.PermissionDeniedError, match="spending cap"):
        invoke(sdk)

    both = http.patch("/_emulator/settings", json={"max_concurrency": None, "refuse": None})
    assert both.json() == {"max_concurrency": None, "refuse": None}
    invoke(sdk)
    sdk.invocations.update(minute.id, status="failed")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_concurrency": 0}, "max_concurrency must be a positive whole number, or null for no limit"),
        ({"max_concurrency": 1.5}, "max_concurrency must be"),
        ({"max_concurrency": True}, "max_concurrency must be"),
        ({"refuse": "everything"}, "refuse must be one of spending-cap, insufficient-scope, other-project, "),
        ({"refuse": []}, "refuse must be"),
        ({"max_concurrency": 1, "refuse": ""}, "refuse must be"),
        ({"heartbeat": 1}, "There is no setting 'heartbeat'; there are max_concurrency, refuse"),
    ],
)
def test_wrong_settings_are_refused_and_change_nothing(http, settings, message):
    reply = http.patch("/_emulator/settings", json=settings)

    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert reply.json()["message"].startswith(message)
    assert http.get("/_emulator/settings").json() == {"max_concurrency": None, "refuse": None}


def test_faults_of_the_command_line_are_printed_as_such_and_stay():
    faults = ["POST status=503 times=1", "/apps lose_reply latency=0.1", "*/events cut_after=0"]
    with emulator_process(APP, *(f"--fault={fault}" for fault in faults)) as emulator:
        emulator.client.delete("/_emulator/faults", cast_to=object)
        with pytest.raises(kernel.InternalServerError):
            emulator.invoke("echo", "tests", payload="1")
        with pytest.raises(kernel.APIConnectionError):
            emulator.client.apps.list()
        done = emulator.invoke("echo", "tests", payload="1")
        path = f"/invocations/{done.id}/events"
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{emulator.url}{path}", headers={"Authorization": "Bearer x"})
        emulator.stop()
        lines = [line for line in emulator.lines if not line.startswith(done.id[:8])]

    assert lines == [
        "503 POST /invocations: injected fault",
        "GET /apps: injected fault: latency=0.1 lose_reply",
        f"GET {path}: injected fault: cut_after=0",
    ]


def test_what_faults_hold_ends_without_a_word_when_the_emulator_stops():
    faults = ["PATCH latency=60", "silent_after=0"]
    with (
        ExitStack() as stack,
        emulator_process(APP, "--quiet", *(f"--fault={fault}" for fault in faults)) as emulator,
    ):
        invocation_id = emulator.invoke("minute", "tests", async_=True).id
        path = f"/invocations/{invocation_id}"
        http = stack.enter_context(httpx.Client(base_url=emulator.url, headers={"Authorization": "Bearer x"}))
        delayed, left, silent = (stack.enter_context(connect(emulator.url)) for _ in range(3))
        for client in (delayed, left):
            client.sendall(request_bytes("PATCH", path, b'{"status": "failed"}'))
        silent.sendall(request_bytes("GET", f"{path}/events"))
        assert silent.recv(4096).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: applied(http) == [2, 1], 10, "the requests arrive")
        left.close()
        emulator.stop()
        assert delayed.recv(1) == silent.recv(1) == b""
        assert emulator.lines == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("POST /invocations", "A fault needs an effect"),
        ("status=503 please", "'please' is not understood"),
        ("status=503 rate=2", "rate must be a number above 0, at most 1"),
    ],
)
def test_wrong_fault_on_the_command_line_is_refused_with_one_sentence(text, message, capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.main(["app.py", "--fault", text])

    assert caught.value.code == 2
    assert f"argument --fault: {message}" in capsys.readouterr().err
