"""The emulator and clients that mean harm: idle connections, floods of headers, hostile JSON, hostile uploads."""

import json
import statistics
from contextlib import ExitStack, suppress

import pytest
from starlette.requests import Request

from airflow_provider_kernel.emulator.browsers import routes
from airflow_provider_kernel.emulator.contract import ApiError
from tests.integration.test_emulator_http import raw

pytestmark = pytest.mark.no_airflow

ECHO = {"app_name": "tests", "action_name": "echo", "version": "latest", "payload": "1"}
POST = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n"


def response_to(emulator, *pieces):
    """Return the status of the response to a raw request; None if the connection is closed without one."""
    received = b""
    with raw(emulator) as client, suppress(OSError):
        for piece in pieces:
            client.sendall(piece)
        while piece := client.recv(65_536):
            received += piece
            if b"\r\n\r\n" in received:
                break
    return int(received.split()[1]) if received else None


def test_connections_that_stay_idle_or_drip_stop_nobody(emulator, http):
    with ExitStack() as stack:
        for number in range(300):
            client = stack.enter_context(raw(emulator))
            client.sendall([b"", b"GET / HT", POST, POST + b"Content-Length: 100\r\n\r\n{"][number % 4])
        latencies = [http.get("/auth/context").elapsed.total_seconds() for _ in range(20)]

        assert http.post("/invocations", json=ECHO).json()["status"] == "succeeded"
    assert statistics.median(latencies) < 0.5


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"X-%d: y\r\n" % number for number in range(20_000)),
        b"X: " + b"y" * 1_000_000 + b"\r\n",
        b"Cookie: " + b"a=b; " * 50_000 + b"\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: 99999999999999999999999999\r\n",
        b"X: a\r\n b\r\n\x00: c\r\n",
    ],
    ids=range(8),
)
def test_hostile_headers_are_refused_and_harm_nobody(emulator, http, headers):
    status = response_to(emulator, POST + headers + b"\r\n", b"x" * 65_536, b"0\r\n\r\n")

    assert status is None or 400 <= status < 500
    assert http.get("/auth/context").status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        # The last one counts, as in other parsers of JSON.
        (json.dumps(ECHO)[:-1] + ', "app_name": "unknown"}', 404),
        ('{"app_name": "unknown", ' + json.dumps(ECHO)[1:], 200),
        (json.dumps(ECHO | {"payload": "[" * 100_000}), 400),
        (json.dumps(ECHO)[:-1] + ', "more": ' + '{"a":' * 100_000, 400),
        (json.dumps(ECHO)[:-1] + ', "more": ' + "9" * 100_000 + "}", 400),
        (json.dumps(ECHO)[:-1] + ', "async_timeout_seconds": 1e999}', 400),
        (json.dumps(ECHO)[:-1] + ', "async_timeout_seconds": -99999999999999999999}', 400),
        (json.dumps(ECHO)[:-1] + ', "async_timeout_seconds": NaN}', 400),
        (json.dumps(ECHO)[:-1].encode() + b', "more": "\xff\xfe"}', 400),
        (json.dumps(ECHO)[:-1].encode("utf-16"), 400),
    ],
    ids=range(10),
)
def test_hostile_json_is_refused(http, body, status):
    assert http.post("/invocations", content=body).status_code == status


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_form_of_another_sites_page_is_refused(http, kind, site):
    headers = {"Content-Type": kind, "Origin": "https://evil.example", "Sec-Fetch-Site": site}

    assert http.post("/invocations", content=json.dumps(ECHO), headers=headers).status_code == 403


async def test_upload_beyond_the_limit_is_refused_while_it_is_read(monkeypatch):
    monkeypatch.setattr(routes, "MAX_UPLOAD_BYTES", 1_000)
    start = b'--x\r\nContent-Disposition: form-data; name="zip_file"; filename="a"\r\n\r\n'
    pieces = [start, *[b"y" * 100] * 100]
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]

    async def receive():
        return {"type": "http.request", "body": pieces.pop(0), "more_body": True}

    request = routes._limited(Request({"type": "http", "headers": headers}, receive))
    with pytest.raises(ApiError, match="The body is too large"):
        await request.form()
    assert len(pieces) > 80
