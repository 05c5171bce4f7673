"""The emulator over HTTP: errors, the event stream on the wire, and clients that misbehave."""

import json
import re
import socket
import threading
from contextlib import closing, suppress

import httpx
import pytest

pytestmark = pytest.mark.no_airflow

ECHO = {"app_name": "tests", "action_name": "echo", "version": "latest", "payload": "1"}


def events(http, invocation_id, **query):
    """Return the decoded events of a whole stream."""
    with http.stream("GET", f"/invocations/{invocation_id}/events", params=query) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["x-sse-content-type"] == "application/json"
        text = reply.read().decode()
    assert text.endswith("\n\n")
    pieces = text.removesuffix("\n\n").split("\n\n")
    assert all(piece.startswith("data: ") for piece in pieces)
    return [json.loads(piece.removeprefix("data: ")) for piece in pieces]


def messages(found):
    return [event["message"] for event in found if event["event"] == "log"]


def raw(emulator):
    """Return a socket that is connected to the emulator."""
    return closing(socket.create_connection(emulator.base_url.removeprefix("http://").split(":"), timeout=10))


def request_bytes(path):
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "evil.example"}, 421, "misdirected_request"),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 421, "misdirected_request"),
        ({"Origin": "https://evil.example"}, 403, "forbidden"),
        ({"Origin": "null"}, 403, "forbidden"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "forbidden"),
    ],
)
@pytest.mark.parametrize("path", ["/invocations", "/nowhere"])
def test_request_is_refused_when_it_comes_from_a_foreign_web_page(http, headers, status, code, path):
    before = http.get("/invocations").json()

    for token in (http.headers["Authorization"], ""):
        reply = http.post(path, json=ECHO, headers={**headers, "Authorization": token})

        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert set(reply.json()) == {"code", "message"}
        assert "evil" not in reply.text
    assert http.get("/invocations").json() == before


@pytest.mark.parametrize(
    "head",
    [
        "POST /invocations HTTP/1.0",
        "POST /invocations HTTP/1.1",
        "POST /invocations HTTP/1.1\r\nHost:",
        "POST /invocations HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        "POST /invocations HTTP/1.1\r\nHost: evil.example\r\nHost: localhost",
        "POST /invocations HTTP/1.1\r\nHost: localhost@evil.example",
        "POST http://evil.example/invocations HTTP/1.1\r\nHost: localhost",
        "POST http://localhost/invocations HTTP/1.1\r\nHost: evil.example",
    ],
)
def test_request_is_refused_unless_it_names_exactly_one_served_host(emulator, http, head):
    before = http.get("/invocations").json()
    body = json.dumps(ECHO)
    with raw(emulator) as client:
        length = f"Content-Length: {len(body)}\r\nConnection: close"
        client.sendall(f"{head}\r\nAuthorization: Bearer x\r\n{length}\r\n\r\n{body}".encode())

        assert client.recv(65_536).split()[1] in (b"400", b"404", b"421")
    assert http.get("/invocations").json() == before


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://evil.example"])
def test_preflight_gets_no_permission(http, origin):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for token in (http.headers["Authorization"], ""):
        reply = http.options("/invocations", headers={**asked, "Origin": origin, "Authorization": token})

        assert reply.status_code in (401, 403, 405)
        assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer"}])
@pytest.mark.parametrize("path", ["/invocations", "/auth/context", "/nowhere"])
def test_request_is_unauthorized_without_a_bearer_token(emulator, headers, path):
    reply = httpx.get(emulator.base_url + path, headers=headers)

    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/invocations/", 404),
        ("GET", "/invocations/unknown", 404),
        ("PATCH", "/invocations/unknown", 404),
        ("GET", "/invocations/unknown/events", 404),
        ("GET", "/invocations/unknown/browsers", 404),
        ("DELETE", "/invocations/unknown/browsers", 404),
        ("PUT", "/invocations", 405),
        ("GET", "/invocations?limit=0", 400),
        ("GET", "/invocations?limit=101", 400),
        ("GET", "/invocations?limit=1.5", 400),
        ("GET", "/invocations?limit=", 400),
        ("GET", "/invocations?offset=-1", 400),
        ("GET", "/invocations?status=cancelled", 400),
        ("GET", "/invocations?since=yesterday", 400),
        ("GET", "/invocations?since=2025-06-20T12:00:00", 400),
        ("GET", "/apps?limit=101", 400),
    ],
)
def test_error_has_kernels_error_body(http, method, path, status):
    reply = http.request(method, path)

    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"code", "message"}


def test_head_of_an_event_stream_is_not_allowed(http):
    assert http.head("/invocations/any/events").status_code == 405


@pytest.mark.parametrize(
    "change",
    [
        {"payload": {"an": "object"}},
        {"payload": None},
        {"payload": "NaN"},
        {"payload": ""},
        {"payload": json.dumps("x" * 4_500_000)},
        {"app_name": ""},
        {"action_name": " "},
        {"version": None},
        {"async": "true"},
        {"async": 1},
        {"async_timeout_seconds": 9},
        {"async_timeout_seconds": 3601},
        {"async_timeout_seconds": 10.0},
        {"async_timeout_seconds": True},
    ],
    ids=lambda change: json.dumps(change)[:50],
)
def test_submission_is_refused_when_a_field_is_invalid(http, change):
    reply = http.post("/invocations", json=ECHO | change)

    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("missing", ["app_name", "action_name", "version"])
def test_submission_is_refused_by_name_when_a_field_is_missing(http, missing):
    reply = http.post("/invocations", json={key: value for key, value in ECHO.items() if key != missing})

    assert (reply.status_code, reply.json()["message"]) == (400, f"Missing required field: {missing}")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_submission_is_refused_when_the_body_is_no_json_object(http, body):
    assert http.post("/invocations", content=body).status_code == 400


def test_largest_payload_is_accepted(http):
    payload = json.dumps("x" * (4_500_000 - 2))

    assert http.post("/invocations", json=ECHO | {"payload": payload}).json()["output"] == payload


def test_endless_body_is_refused_before_it_is_read(emulator):
    def endless():
        for _ in range(40):
            yield b" " * 2**20

    try:
        headers = {"Authorization": "Bearer x"}
        reply = httpx.post(emulator.base_url + "/invocations", content=endless(), headers=headers, timeout=20)
    except httpx.WriteError:  # The response came before the end of the request.
        return
    assert reply.status_code == 400


def test_response_to_an_asynchronous_submission_has_three_fields(http):
    reply = http.post("/invocations", json=ECHO | {"async": True})

    assert reply.status_code == 202
    assert set(reply.json()) == {"id", "action_name", "status"}
    assert re.fullmatch("[a-z0-9]{24}", reply.json()["id"])


def test_invocation_has_times_in_nanoseconds_and_no_empty_fields(http, submit):
    active = http.get(f"/invocations/{submit('sleep', {'seconds': 600})}").json()
    http.patch(f"/invocations/{active['id']}", json={"status": "failed"})

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", active["started_at"])
    assert not {"finished_at", "output", "status_reason"} & set(active)


def test_list_has_paging_headers_with_an_absolute_next_offset(http, submit):
    ids = [submit("async_echo", 1) for _ in range(3)]

    first = http.get("/invocations", params={"action_name": "async_echo", "limit": 2})
    assert [invocation["id"] for invocation in first.json()] == ids[:0:-1]
    assert (first.headers["x-limit"], first.headers["x-offset"]) == ("2", "0")
    assert (first.headers["x-has-more"], first.headers["x-next-offset"]) == ("true", "2")

    everything = http.get("/invocations", params={"query": ids[1]})
    assert [invocation["id"] for invocation in everything.json()] == [ids[1]]
    assert (everything.headers["x-has-more"], everything.headers["x-next-offset"]) == ("false", "0")


def test_list_is_filtered(http, submit):
    invocation_id = submit("fail", {"message": "x"})
    events(http, invocation_id)
    invocation = {"app_name": "tests", "action_name": "fail", "version": "emulator", "status": "failed"}

    def listed(**query):
        found = http.get("/invocations", params={"query": invocation_id} | query).json()
        return [invocation["id"] for invocation in found]

    assert listed(**invocation, since="1m") == [invocation_id]
    for name in invocation:
        assert listed(**{name: "succeeded"}) == []
    assert listed(since="0") == listed(deployment_id="unknown") == listed(version="latest") == []


@pytest.mark.parametrize("body", [{}, {"status": "running"}, {"status": "failed", "output": "plain text"}])
def test_update_is_refused_without_effect_when_the_body_is_invalid(http, submit, body):
    path = f"/invocations/{submit('sleep', {'seconds': 600})}"

    assert http.patch(path, json=body).status_code == 400
    assert http.get(path).json()["status"] in ("queued", "running")
    assert http.patch(path, json={"status": "failed"}).status_code == 200


def test_update_is_refused_when_the_invocation_has_ended(http):
    path = f"/invocations/{http.post('/invocations', json=ECHO).json()['id']}"

    assert http.patch(path, json={"status": "failed"}).status_code == 400
    assert http.get(path).json()["status"] == "succeeded"


def test_refused_update_returns_after_the_invocation_has_ended(http, submit, until):
    path = f"/invocations/{submit('sleep', {'seconds': 600})}"
    until(lambda: http.get(path).json()["status"] == "running")
    found = []

    def cancel():
        code = http.patch(path, json={"status": "failed"}).status_code
        found.append((code, http.get(path).json()["status"]))

    threads = [threading.Thread(target=cancel) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found) == [(200, "failed"), *[(400, "failed")] * 7]


def test_stream_sends_a_line_while_the_action_is_running(http, submit):
    path = f"/invocations/{submit('sleep', {'seconds': 600})}"

    with http.stream("GET", f"{path}/events") as stream:
        assert any('"sleeping"' in line for line in stream.iter_lines())
        assert http.get(path).json()["status"] == "running"
        http.patch(path, json={"status": "failed"})


def test_stream_sends_heartbeats_when_nothing_happens(http, submit):
    path = f"/invocations/{submit('sleep', {'seconds': 600})}"

    with http.stream("GET", f"{path}/events") as stream:
        beat = next(line for line in stream.iter_lines() if "sse_heartbeat" in line)
        http.patch(path, json={"status": "failed"})

    assert set(json.loads(beat.removeprefix("data: "))) == {"event", "timestamp"}


def test_stream_loses_no_line_and_has_the_terminal_state_last(http, submit):
    found = events(http, submit("logs", {"n": 30_000}))

    assert messages(found) == [f"line {number}" for number in range(30_000)]
    assert found[-1]["invocation"]["status"] == "succeeded"
    assert all(
        event["event"] == "log" or event["invocation"]["status"] != "succeeded" for event in found[:-1]
    )


def test_stream_has_a_log_event_for_output_that_is_hard_to_print(http, submit):
    found = messages(events(http, submit("noise", 0)))

    assert found == [
        "caf\ufffd",
        "y" * 65_536,
        "",
        "to stderr",
        "INFO app: an info record",
        "\\ud800 half a pair",
        "no newline",
    ]


def test_log_has_the_traceback_from_the_action_on(http, submit):
    found = messages(events(http, submit("fail", {"message": "no stock"})))

    assert found[0] == "Traceback (most recent call last):"
    assert "apps/app.py" in found[1]
    assert found[-1] == "ValueError: no stock"


@pytest.mark.parametrize("since", ["0", "0.5ns", "2999-01-01T00:00:00Z"])
def test_since_leaves_out_older_lines_but_not_the_terminal_state(http, submit, since):
    invocation_id = submit("logs", {"n": 3})
    events(http, invocation_id)

    (only,) = events(http, invocation_id, since=since)

    assert only["invocation"]["status"] == "succeeded"


def test_since_is_refused_when_it_is_neither_time_nor_duration(http, submit):
    assert http.get(f"/invocations/{submit('no_payload')}/events?since=1d").status_code == 400


def test_response_replaces_half_a_surrogate_pair(http):
    reply = http.post("/invocations", json=ECHO | {"payload": '"\\ud800"'})

    assert reply.status_code == 200
    assert reply.json()["output"] == '"?"'


def test_client_that_does_not_read_its_stream_delays_no_other_client(emulator, http, submit):
    invocation_id = submit("logs", {"n": 50_000})
    with raw(emulator) as slow:
        slow.sendall(request_bytes(f"/invocations/{invocation_id}/events"))

        assert len(messages(events(http, invocation_id))) == 50_000
        assert http.get("/auth/context").elapsed.total_seconds() < 5


def test_client_that_disconnects_from_its_stream_does_no_harm(emulator, http, submit):
    invocation_id = submit("sleep", {"seconds": 600})
    for _ in range(20):
        with raw(emulator) as leaving:
            leaving.sendall(request_bytes(f"/invocations/{invocation_id}/events"))
            assert leaving.recv(100).startswith(b"HTTP/1.1 200")

    assert http.patch(f"/invocations/{invocation_id}", json={"status": "failed"}).status_code == 200
    assert events(http, invocation_id)[-1]["invocation"]["status"] == "failed"


def test_invocation_continues_when_its_synchronous_client_disconnects(emulator, http, until):
    body = json.dumps(ECHO | {"action_name": "sleep", "payload": '{"seconds": 0.3}'})
    head = f"POST /invocations HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Length: {len(body)}\r\n\r\n"
    with raw(emulator) as leaving:
        leaving.sendall((head + body).encode())
        query = {"action_name": "sleep", "status": "running"}
        (running,) = until(lambda: http.get("/invocations", params=query).json())

    until(lambda: http.get(f"/invocations/{running['id']}").json()["status"] == "succeeded")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\x00\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 200_000,
        b"POST /invocations HTTP/1.1\r\nAuthorization: Bearer x\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nAuthorization: Bearer x\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=range(6),
)
def test_client_that_sends_garbage_does_no_harm(emulator, http, garbage):
    reply = b""
    with raw(emulator) as client, suppress(OSError):  # The server may close the connection at any time.
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        while piece := client.recv(65_536):
            reply += piece
    assert b" 200 " not in reply.partition(b"\r\n")[0]
    assert http.post("/invocations", json=ECHO).json()["status"] == "succeeded"


def test_concurrent_invocations_get_their_own_outputs(emulator, http):
    outputs = {}

    def invoke(number):
        outputs[number] = http.post("/invocations", json=ECHO | {"payload": str(number)}).json()["output"]

    threads = [threading.Thread(target=invoke, args=[number]) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outputs == {number: str(number) for number in range(40)}
