"""Hostile servers, over real sockets, asked by both hooks: bounded in memory and in time, and nothing comes back."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import resource
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_provider_kernel.api.endpoints import follow_events
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelError,
    KernelInvocationFailedError,
    KernelInvocationTimeoutError,
    KernelLostReplyError,
    KernelResponseTooLargeError,
    KernelTransportError,
)
from airflow_provider_kernel.api.models import InvocationRequest
from airflow_provider_kernel.api.payload import parse_json
from airflow_provider_kernel.api.settings import KernelSettings
from airflow_provider_kernel.hooks import connection_test
from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.lifecycle import wait_machine
from airflow_provider_kernel.lifecycle.log_buffer import app_lines
from airflow_provider_kernel.transport import aio, errors
from dev.wait import wait_until
from tests.hostile import bomb, for_ever, head, listening
from tests.integration.conftest import TOKEN
from tests.integration.scripted import Reply, Stream, invocation, log, state

pytestmark = pytest.mark.one_airflow

GET, STREAM = "GET /invocations/inv1", "GET /invocations/inv1/events"
GZIP = {"Content-Encoding": "gzip"}
CHUNKED = {"Transfer-Encoding": "chunked"}
#: Far more than the limits of these tests, and far less than for ever.
LONG = 25.0


@pytest.fixture(autouse=True)
def little_patience(monkeypatch, no_backoff):
    monkeypatch.setattr(errors, "MAX_ATTEMPTS", 1)
    monkeypatch.setattr(wait_machine, "FINAL_POLL_GRACE", 0.5)
    monkeypatch.setattr(wait_machine, "RECONNECT_SPREAD", 0.01)


class TestSize:
    def test_gigabyte_in_a_megabyte_of_gzip_is_not_decoded(self, ask, connect):
        packed = bomb()

        def converse(sock, request):
            sock.sendall(
                head(200, {**GZIP, "Content-Type": "application/json", "Content-Length": len(packed)})
            )
            sock.sendall(packed)

        with listening(converse) as url:
            connect(host=url, password=TOKEN)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with pytest.raises(KernelResponseTooLargeError, match="larger than 64 MB"):
                ask("get_invocation", "inv1")
            assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 250

    def test_maximum_reply_size_is_the_connections(self, server, ask, connect):
        server.on(GET, invocation("succeeded", output='"' + "x" * 2_000_000 + '"'))
        connect(host=server.url, password=TOKEN, extra={"max_response_mb": 3})
        assert len(ask("get_invocation", "inv1").output) == 2_000_000
        connect(host=server.url, password=TOKEN, extra={"max_response_mb": 1})
        with pytest.raises(KernelResponseTooLargeError, match=r"larger than 1 MB.*max_response_mb"):
            ask("get_invocation", "inv1")

    def test_compressed_reply_is_read(self, server, ask):
        body = gzip.compress(json.dumps(invocation("succeeded", output='"é"').body).encode())
        server.on(GET, Reply(200, body, GZIP))
        assert ask("get_invocation", "inv1").output == "é"
        assert server.seen(GET)[0].headers["Accept-Encoding"] == "gzip"

    @pytest.mark.parametrize("status", [200, 500])
    def test_endless_body_is_left(self, ask, connect, status):
        def converse(sock, request):
            sock.sendall(head(status, {"Content-Type": "application/json", **CHUNKED}))
            for_ever(sock, b"10000\r\n" + b"x" * 65_536 + b"\r\n")

        with listening(converse) as url:
            connect(host=url, password=TOKEN, extra={"max_response_mb": 2})
            with pytest.raises(KernelError) as error:
                ask("get_invocation", "inv1")
        if status == 200:
            assert isinstance(error.value, KernelResponseTooLargeError)
        else:
            assert error.value.status_code == 500

    def test_unused_body_may_have_any_length(self, ask, connect):
        def converse(sock, request):
            if request.startswith("DELETE"):
                sock.sendall(head(200, CHUNKED))
                for_ever(sock, b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            else:
                body = json.dumps(invocation("failed").body).encode()
                sock.sendall(head(200, {"Content-Length": len(body), "Connection": "close"}) + body)

        with listening(converse) as url:
            connect(host=url, password=TOKEN)
            cancellation = ask("cancel_invocation", "inv1")
        assert cancellation.browsers_error is None

    def test_encoded_stream_is_refused_and_the_wait_polls(self, wait, connect):
        packed = bomb()

        def converse(sock, request):
            if "/events" in request:
                sock.sendall(head(200, {**GZIP, "Content-Type": "text/event-stream", "Connection": "close"}))
                with suppress(OSError):
                    sock.sendall(packed)
            else:
                body = json.dumps(invocation("succeeded").body).encode()
                sock.sendall(head(200, {"Content-Length": len(body), "Connection": "close"}) + body)

        with listening(converse) as url:
            connect(host=url, password=TOKEN)
            assert wait("inv1", on_log=lambda line: None).status == "succeeded"

    @pytest.mark.parametrize(
        "piece",
        [
            b"data: " + b"x" * 65_530,
            b"data: {}\n\n" * 6_000,
            b"data:\n" * 10_000,
            b"data: ab\n" * 7_000,
            b":\n" * 30_000,
            b"\n" * 65_536,
        ],
        ids=["a line", "events", "empty lines of data", "lines of data", "comments", "line ends"],
    )
    def test_flooding_stream_is_left_at_the_deadline_and_takes_little_memory(self, wait, connect, piece):
        def converse(sock, request):
            if "/events" in request:
                sock.sendall(head(200, {"Content-Type": "text/event-stream", "Connection": "close"}))
                for_ever(sock, piece)
            else:
                body = json.dumps(invocation("running").body).encode()
                sock.sendall(head(200, {"Content-Length": len(body), "Connection": "close"}) + body)

        with listening(converse) as url:
            connect(host=url, password=TOKEN)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with pytest.raises(KernelInvocationTimeoutError):
                wait("inv1", timeout=1.0)
            assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 60

    def test_endless_list_of_versions_is_left(self, server, connect):
        def page(request):
            offset = int(request.path.partition("offset=")[2].partition("&")[0] or 0)
            return Reply(200, [{"app": "x" * 1000}] * 100, {"X-Next-Offset": str(offset + 100)})

        server.on("GET /apps", page)
        connect(host=server.url, password=TOKEN, extra={"max_response_mb": 1})
        with (
            KernelHook() as hook,
            pytest.raises(KernelResponseTooLargeError, match="does not come to an end"),
        ):
            hook.get_app_versions()
        assert len(server.seen("GET /apps")) < 20

    def test_many_keys_that_become_equal_are_parsed_in_time(self):
        # Each is half a surrogate pair, which is replaced; it took the cube of their number, hours for one event.
        def seconds(count):
            keys = [f"\\u{0xD800 + n % 1024:x}\\u{0xD800 + n // 1024:x}" for n in range(count)]
            text = "{" + ",".join(f'"{key}": 0' for key in keys) + "}"
            began = time.process_time()
            assert len(parse_json(text)) == count
            return time.process_time() - began

        assert seconds(20_000) < 200 * max(0.01, min(seconds(2_000) for _ in range(3)))  # and not 1,000

    def test_too_large_page_is_requested_with_fewer_items(self, server, connect):
        def page(request):
            limit = int(request.path.partition("limit=")[2].partition("&")[0])
            offset = int(request.path.partition("offset=")[2].partition("&")[0] or 0)
            items = [
                {**invocation("succeeded", output="x" * 400_000).body, "id": f"inv{n}"}
                for n in range(offset, min(offset + limit, 5))
            ]
            following = offset + limit if offset + limit < 5 else 0
            return Reply(200, items, {"X-Next-Offset": str(following)})

        server.on("GET /invocations", page)
        connect(host=server.url, password=TOKEN, extra={"max_response_mb": 1})
        with KernelHook() as hook:
            assert [found.id for found in hook.list_invocations()] == [f"inv{n}" for n in range(5)]


def dripped(sock, data: bytes) -> None:
    """Send each byte so soon after the other that no time-out of the socket is over; then for ever the last."""
    with suppress(OSError):
        for byte in data:
            sock.sendall(bytes([byte]))
            time.sleep(0.02)
        while True:
            sock.sendall(data[-1:])
            time.sleep(0.02)


#: How a server may never come to the end of what it says.
DRIPS = {
    "a head": lambda sock: dripped(sock, b"HTTP/1.1 200 OK\r\nX-Header: " + b"x" * 60_000),
    "a status line": lambda sock: dripped(sock, b"HTTP/1.1 200 " + b"O" * 60_000),
    "headers": lambda sock: dripped(
        sock, b"HTTP/1.1 200 OK\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(90))
    ),
    "100 Continue": lambda sock: for_ever_slowly(sock, b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body": lambda sock: dripped(sock, head(200, {"Content-Length": 10_000_000}) + b"{"),
    "chunks": lambda sock: dripped(sock, head(200, CHUNKED) + b"1\r\n{\r\n" * 5000),
    "a trailer": lambda sock: dripped(sock, head(200, CHUNKED) + b"0\r\n" + b"x: y\r\n" * 5000),
    "nothing": lambda sock: time.sleep(LONG),
}


def for_ever_slowly(sock, piece: bytes) -> None:
    with suppress(OSError):
        while True:
            sock.sendall(piece)
            time.sleep(0.02)


class TestTime:
    @pytest.mark.parametrize("drip", DRIPS)
    def test_wait_ends_soon_after_its_timeout(self, wait, connect, drip):
        with listening(lambda sock, request: DRIPS[drip](sock)) as url:
            connect(host=url, password=TOKEN)
            began = time.monotonic()
            with pytest.raises(KernelInvocationTimeoutError):
                wait("inv1", timeout=0.5)
            assert time.monotonic() - began < LONG

    @pytest.mark.parametrize("drip", DRIPS)
    def test_request_ends_after_ten_times_the_timeout_and_its_head_after_the_timeout(
        self, ask, connect, drip
    ):
        with listening(lambda sock, request: DRIPS[drip](sock)) as url:
            connect(host=url, password=TOKEN, extra={"timeout": 0.15})
            began = time.monotonic()
            with pytest.raises(KernelTransportError, match="did not reply in time"):
                ask("get_invocation", "inv1")
            assert time.monotonic() - began < LONG

    def test_log_drain_ends_with_the_timeout_of_the_wait(self, wait, connect, monkeypatch):
        monkeypatch.setattr(wait_machine, "LOG_DRAIN_IDLE_TIMEOUT", LONG)

        def converse(sock, request):
            if "/events" in request:
                sock.sendall(head(200, {"Content-Type": "text/event-stream", "Connection": "close"}))
                with suppress(OSError):
                    for number in range(100_000):
                        sock.sendall(
                            b"data: " + json.dumps(log(f"line {number} of {time.time()}")).encode() + b"\n\n"
                        )
                        time.sleep(0.02)
            else:
                body = json.dumps(invocation("succeeded").body).encode()
                sock.sendall(head(200, {"Content-Length": len(body), "Connection": "close"}) + body)

        lines = []
        with listening(converse) as url:
            connect(host=url, password=TOKEN)
            began = time.monotonic()
            assert wait("inv1", timeout=0.5, on_log=lines.append).status == "succeeded"
            assert time.monotonic() - began < LONG
        assert "the rest of the log could not be read" in lines[-1]

    async def test_stream_that_always_has_more_to_read_is_left_in_time(self):
        class Flood:
            """What aiohttp reads of one: it never waits, and no time-out of it strikes."""

            async def iter_any(self):
                while True:
                    yield b"data: {}\n\n" * 10_000

        response = SimpleNamespace(status=200, headers={"Content-Type": "text/event-stream"}, content=Flood())
        request, until = follow_events("inv1", None), time.monotonic() + 0.1
        with pytest.raises(TimeoutError):
            async for _ in aio.events_of(request, response, KernelSettings(TOKEN), until, asyncio.Lock()):
                pass

    def test_large_chunk_is_decoded_in_small_pieces(self):
        pieces = list(aio._pieces(bytes(3 * aio.CHUNK_BYTES + 1), time.monotonic() + 60))
        assert [len(piece) for piece in pieces] == [aio.CHUNK_BYTES] * 3 + [1]

    def test_tls_handshake_ends_at_the_timeout(self, ask, connect):
        import socket

        listener = socket.create_server(("127.0.0.1", 0))

        def drip():
            with suppress(OSError):
                sock, _ = listener.accept()
                sock.recv(1)
                dripped(sock, b"\x16\x03\x03\x40\x00" + bytes(16_000))

        threading.Thread(target=drip, daemon=True).start()
        with listener:
            connect(
                host=f"https://127.0.0.1:{listener.getsockname()[1]}", password=TOKEN, extra={"timeout": 0.5}
            )
            began = time.monotonic()
            with pytest.raises(KernelTransportError, match="in time"):
                ask("get_invocation", "inv1")
            assert time.monotonic() - began < LONG

    def test_proxy_tunnel_ends_at_the_timeout(self, ask, connect):
        with listening(lambda sock, request: dripped(sock, b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000)) as url:
            connect(host="https://kernel.example", password=TOKEN, extra={"proxy": url, "timeout": 0.5})
            began = time.monotonic()
            with pytest.raises(KernelTransportError, match="in time"):
                ask("get_invocation", "inv1")
            assert time.monotonic() - began < LONG

    def test_request_on_a_kept_connection_ends_at_the_timeout(self, connect):
        answered = []

        def converse(sock, request):
            body = json.dumps(invocation("running").body).encode()
            sock.sendall(head(200, {"Content-Length": len(body)}) + body)
            sock.recv(65_536)
            answered.append(1)
            dripped(sock, b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000)

        with listening(converse) as url:
            connect(host=url, password=TOKEN, extra={"timeout": 0.5})
            with KernelHook() as hook:
                hook.get_invocation("inv1")
                began = time.monotonic()
                with pytest.raises(KernelTransportError, match="did not reply in time"):
                    hook.get_invocation("inv1")
                assert time.monotonic() - began < LONG
                assert answered

    def test_request_during_a_stream_has_its_own_deadline_and_connection(self, server):
        server.on(STREAM, Stream(log("one"), log("two"), state("succeeded")))
        server.on(GET, invocation("succeeded"))
        with KernelHook() as hook:
            first, second = hook.follow_invocation("inv1"), hook.follow_invocation("inv1")
            seen = [next(first), next(second), hook.get_invocation("inv1").status]
            first.close()
            seen += [len(list(second)), hook.get_invocation("inv1").status]
        assert seen[2:] == ["succeeded", 2, "succeeded"]

    def test_connection_test_leaves_no_thread_behind(self, connect, monkeypatch):
        monkeypatch.setattr(connection_test, "TEST_SECONDS", 0.5)
        before = set(threading.enumerate())
        with listening(lambda sock, request: DRIPS["a head"](sock)) as url:
            connect(host=url, password=TOKEN)
            good, said = KernelHook().test_connection()
            assert not good
            assert "did not" in said
            names = ("_ask", "ask", "Timer")
            wait_until(
                lambda: (
                    not [
                        t
                        for t in set(threading.enumerate()) - before
                        if t.name.endswith(names) or "ask" in t.name
                    ]
                ),
                LONG,
                "the threads of the button have ended",
            )


OK = b"HTTP/1.1 200 OK\r\n"
#: What is no HTTP, or more than any server says.
RAW = {
    "nothing": b"",
    "garbage": b"garbage\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x15\x03\x03\x00\x02\x02\x28",
    "no status": b"HTTP/1.1\r\n\r\n",
    "status abc": b"HTTP/1.1 abc OK\r\n\r\n",
    "status 0": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 99999": b"HTTP/1.1 99999 OK\r\n\r\n",
    "status 101": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "status 103": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
    "status 204 with a body": b"HTTP/1.1 204 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status 304": b"HTTP/1.1 304 OK\r\n\r\n",
    "version 9": b"HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "length -1": OK + b"Content-Length: -1\r\n\r\n{}",
    "length 1,1": OK + b"Content-Length: 1,1\r\n\r\n{}",
    "length x": OK + b"Content-Length: x\r\n\r\n{}",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a huge length": OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{}",
    "too short": OK + b"Content-Length: 100\r\n\r\n{}",
    "length and chunks": OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk zz": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "chunk -1": OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n",
    "a huge chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n{}\r\n",
    "a long extension": OK
    + b"Transfer-Encoding: chunked\r\n\r\n2;"
    + b"x" * 200_000
    + b"\r\n{}\r\n0\r\n\r\n",
    "cut in a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n100\r\n{}",
    "encoding gzip of nothing": OK + b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
    "transfer-encoding gzip": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "no colon": OK + b"header\r\n\r\n",
    "NUL": OK + b"X: \x00\r\n\r\n",
    "a folded header": OK + b"X: a\r\n\tb\r\n\r\n",
    "bytes that are no text": OK + b"X: \xff\xfe\r\nContent-Type: \xff\r\n\r\n",
    "bare line ends": b"HTTP/1.1 200 OK\nX: y\n\n{}",
    "a thousand headers": OK + b"".join(b"H%d: x\r\n" % n for n in range(1000)) + b"\r\n",
    "a long header": OK + b"X: " + b"x" * 200_000 + b"\r\n\r\n",
    "a long reason": b"HTTP/1.1 200 " + b"x" * 200_000 + b"\r\n\r\n",
    "a charset": OK + b"Content-Type: application/json; charset=nonsense\r\n\r\n{}",
    "a date": OK + b"Date: Thu, 99 Foo 99999 99:99:99 GMT\r\nContent-Length: 2\r\n\r\n[]",
    "a cookie": OK + b"Set-Cookie: \x1b=\xff; expires=never; domain=..\r\nContent-Length: 2\r\n\r\n{}",
}


class TestHTTP:
    @pytest.mark.parametrize("raw", RAW)
    def test_malformed_reply_raises_a_kernel_error(self, ask, wait, connect, caplog, raw):
        def converse(sock, request):
            sock.sendall(RAW[raw])

        with listening(converse) as url:
            connect(host=url, password=TOKEN, extra={"timeout": 5})
            with pytest.raises(KernelError) as error:
                ask("get_invocation", "inv1")
            assert str(error.value).isprintable()
            assert len(str(error.value)) < 500
            with pytest.raises(KernelError):
                wait("inv1", timeout=0.2)

    @pytest.mark.parametrize("raw", RAW)
    def test_malformed_reply_to_a_post_raises_a_lost_reply_error(self, connect, raw):
        with listening(lambda sock, request: sock.sendall(RAW[raw])) as url, KernelHook() as hook:
            connect(host=url, password=TOKEN, extra={"timeout": 5})
            refused = "status 304" if raw == "status 304" else None  # a redirect: Kernel has not taken it
            with pytest.raises(KernelApiError if refused else KernelLostReplyError):
                hook._submit(InvocationRequest("shop", "price"), lambda error: False)


#: Ids that no address, file or log line may hold.
IDS = ["..", ".", "", " ", "a/b", "a?b", "a%2fb", "x\n", "\x1b[2J", "i" * 1_000_000, 5, None, ["inv1"]]


class TestIds:
    @pytest.mark.parametrize("invocation_id", IDS, ids=lambda value: repr(value)[:12])
    def test_invoke_raises_a_lost_reply_error_when_the_id_is_not_valid(self, server, invocation_id):
        server.on(
            "POST /invocations", Reply(202, {"id": invocation_id, "status": "queued", "action_name": "a"})
        )
        with KernelHook() as hook, pytest.raises(KernelLostReplyError, match="may be running") as error:
            hook._submit(InvocationRequest("shop", "price"), lambda error: False)
        assert len(str(error.value)) < 500

    @pytest.mark.parametrize("invocation_id", IDS, ids=lambda value: repr(value)[:12])
    def test_wait_raises_a_kernel_error_when_the_id_is_not_valid(self, server, wait, invocation_id):
        with pytest.raises(KernelError):
            wait(invocation_id, timeout=5)
        assert server.requests == []


class TestTimes:
    @pytest.mark.parametrize(
        "at",
        ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0000-00-00T00:00:00Z", "", "soon", "x" * 100_000],
    )
    def test_line_with_any_time_is_written(self, server, wait, at, no_line_is_late):
        lines = []
        server.on(
            STREAM,
            Stream({**log("one"), "timestamp": at}, {**log("two"), "timestamp": at}, state("succeeded")),
        )
        server.on(GET, invocation("succeeded", started_at=at, finished_at=at))
        wait("inv1", on_log=lines.append, replayed_before=time.time())
        assert [line for line in lines if not line.startswith("…")] == ["one", "two"]


NASTY = "a\x1b[31mred\x1b[0m\x1b]0;t\x07\r\n2026-01-01 00:00:00 ERROR forged \u202e\u2028\x9b"
SAFE = r"ared\x1b]0;t\x07\r\n2026-01-01 00:00:00 ERROR forged \u202e\u2028\x9b"


class TestText:
    def test_kernels_message_is_shown_on_one_line_and_shortened(self, server, ask):
        server.on(
            GET,
            Reply(400, {"code": NASTY + "x" * 500_000, "message": NASTY, "details": [{"message": NASTY}]}),
        )
        with pytest.raises(KernelApiError) as error:
            ask("get_invocation", "inv1")
        assert SAFE in str(error.value)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 3000

    def test_failure_has_its_reason_on_one_line_and_keeps_lines_of_the_output(self, server, wait):
        server.on(STREAM, Stream(state("failed")))
        server.on(GET, invocation("failed", status_reason=NASTY, output="one\n\ttwo\x1b[2J"))
        with pytest.raises(KernelInvocationFailedError) as error:
            wait("inv1").result()
        assert str(error.value) == f"Kernel invocation inv1 failed: {SAFE}.\nIts output: one\n\ttwo\\x1b[2J"

    def test_log_line_of_an_app_cannot_imitate_airflows(self, server, wait, no_line_is_late):
        lines = []
        server.on(STREAM, Stream(log(NASTY), state("succeeded")))
        server.on(GET, invocation("succeeded"))
        wait("inv1", on_log=lines.append)
        shown = app_lines("\n".join(lines)).split("\n")
        assert shown == [
            r"[app] ared\x1b]0;t\x07",
            r"[app] 2026-01-01 00:00:00 ERROR forged \u202e\u2028\x9b",
        ]


class TestSecrets:
    PROXY_PASSWORD = "hunter2-p@ss"

    @pytest.mark.parametrize(
        "reply",
        [
            lambda quoted: Reply(
                400, {"code": quoted, "message": f"Bad header: {quoted}", "details": [{"message": quoted}]}
            ),
            lambda quoted: Reply(403, {"code": "c", "message": "m"}, {"X-Request-Id": quoted}),
            lambda quoted: Reply(502, b"<html>", {"Content-Type": quoted}),
            lambda quoted: Reply(302, b"", {"Location": f"https://{quoted.split()[-1]}/"}),
            lambda quoted: Reply(200, b"<html>", {"Content-Type": quoted}),
            lambda quoted: Reply(200, b"{}", {"Content-Encoding": quoted}),
            lambda quoted: Reply(200, {"id": "inv1", "status": quoted}),
        ],
    )
    def test_token_is_redacted_when_a_server_quotes_the_header(self, server, ask, caplog, reply):
        caplog.set_level(logging.DEBUG)
        server.on(GET, lambda request: reply(request.headers["Authorization"]))
        said = ""
        try:
            said = repr(ask("get_invocation", "inv1"))
        except KernelError as error:
            said = str(error)
        assert server.seen(GET)[0].headers["Authorization"] == f"Bearer {TOKEN}"
        assert TOKEN not in said + caplog.text

    def test_token_is_redacted_when_an_app_prints_it(self, server, wait):
        lines = []
        server.on(STREAM, Stream(log(f"my token is {TOKEN}"), state("failed")))
        server.on(GET, invocation("failed", status_reason=TOKEN, output=json.dumps({"env": TOKEN})))
        found = wait("inv1", on_log=lines.append)
        assert TOKEN not in repr(found) + str(found.output) + str(found.failure()) + "".join(lines)

    def test_connection_test_does_not_show_the_token(self, server):
        server.on(
            "GET /auth/context",
            lambda request: Reply(401, {"code": "c", "message": request.headers["Authorization"]}),
        )
        good, said = KernelHook().test_connection()
        assert not good
        assert "Bearer ***" in said
        assert TOKEN not in said

    @pytest.mark.parametrize(
        "line", ["{}", ": {}", "X {}: y", " {}", "X: {}\r\n\tmore", "X: \x00{}", "Content-Length: {}"]
    )
    def test_http_clients_do_not_log_malformed_headers(self, ask, connect, caplog, line):
        caplog.set_level(logging.DEBUG)

        def converse(sock, request):
            bad = line.format(f"Bearer {TOKEN}")
            sock.sendall(f"HTTP/1.1 200 Bearer {TOKEN}\r\n{bad}\r\nConnection: close\r\n\r\n{{}}".encode())

        with listening(converse) as url:
            connect(host=url, password=TOKEN)
            with pytest.raises(KernelError) as error:
                ask("get_invocation", "inv1")
        assert TOKEN not in f"{error.value}{caplog.text}"

    @pytest.mark.parametrize("status", [407, 502])
    def test_proxy_login_is_redacted_when_the_proxy_quotes_it(self, ask, connect, caplog, status):
        caplog.set_level(logging.DEBUG)
        seen = []

        def converse(sock, request):
            seen.append(request)
            sock.sendall(
                f"HTTP/1.1 {status} you are user:{self.PROXY_PASSWORD} dXNlcjpodW50ZXIyLXBAc3M= \x1b[2J\r\n\r\n".encode()
            )

        with listening(converse) as url:
            proxy = url.replace("://", "://user:hunter2-p%40ss@")
            connect(host="https://kernel.example", password=TOKEN, extra={"proxy": proxy})
            with pytest.raises(KernelTransportError) as error:
                ask("get_invocation", "inv1")
        assert seen
        said = str(error.value)
        assert str(status) in said
        for secret in (self.PROXY_PASSWORD, "hunter2", "dXNlcjpodW50", "\x1b"):
            assert secret not in said

    def test_secrets_of_the_environments_proxy_are_redacted(self, ask, connect, monkeypatch):
        def converse(sock, request):
            sock.sendall(b"HTTP/1.1 407 you said Basic dXNlcjpwcm94eXNlY3JldDk5\r\n\r\n")

        with listening(converse) as url:
            monkeypatch.setenv("HTTPS_PROXY", url.replace("://", "://user:proxysecret99@"))
            connect(host="https://kernel.example", password=TOKEN)
            with pytest.raises(KernelTransportError, match=r"407 you said Basic \*\*\*"):
                ask("get_invocation", "inv1")

    @pytest.mark.parametrize(
        "fields",
        [
            {"conn_type": TOKEN},
            {"host": TOKEN},
            {"host": f"https://api.example/{TOKEN}"},
            {"schema": TOKEN},
            {"login": TOKEN},
            {"extra": {"project": TOKEN}},
            {"extra": {TOKEN: 1}},
            {"extra": {"verify": TOKEN}},
            {"extra": {"timeout": TOKEN}},
            {"extra": {"max_response_mb": TOKEN}},
            {"extra": {"proxy": TOKEN}},
            {"extra": {"allow_http": TOKEN}},
            {"extra": {"dashboard_url": TOKEN}},
            {"extra": {"proxy": f"http://{TOKEN}:3128"}},
        ],
        ids=str,
    )
    def test_token_in_a_wrong_field_is_not_quoted(self, connect, caplog, fields):
        caplog.set_level(logging.WARNING)
        connect(**{"host": "http://127.0.0.1:1", "password": "sk_other_0123456789"} | fields)
        good, said = KernelHook().test_connection()
        assert not good
        # Airflow itself, before 3.1, warns of a type that is none for an address, and quotes it.
        ours = [
            record.getMessage()
            for record in caplog.records
            if record.name.startswith("airflow_provider_kernel")
        ]
        assert TOKEN not in said + "".join(ours)

    def test_token_in_place_of_a_connection_id_is_not_quoted(self, monkeypatch):
        from airflow_provider_kernel.hooks import connection

        monkeypatch.setattr(connection, "_secrets_backends", list)
        monkeypatch.setattr(connection, "ASK_AGAIN_AFTER", 0)
        with pytest.raises(KernelError) as error:
            KernelHook(TOKEN).settings  # noqa: B018 - it is read
        assert TOKEN not in str(error.value)


class TestFiles:
    @pytest.fixture(
        params=[
            "missing",
            "fifo",
            "device",
            "endless device",
            "no certificates",
            "socket",
            "too large",
            "of the kernel",
            "empty folder",
            "folder with a fifo",
        ]
    )
    def path(self, request, tmp_path):
        import os
        import socket

        path = tmp_path / "file"
        match request.param:
            case "fifo":
                os.mkfifo(path)
            case "device":
                path = Path("/dev/null")
            case "endless device":
                path = Path("/dev/zero")
            case "no certificates":
                path.write_text("garbage")
            case "of the kernel":
                path = Path(
                    "/proc/self/environ"
                )  # a regular file of no bytes, as the one whose reading never ends
            case "empty folder":
                path.mkdir()
            case "folder with a fifo":
                path.mkdir()
                os.mkfifo(path / "0a1b2c3d.0")
            case "socket":
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.bind(str(path))
            case "too large":
                with path.open("wb") as file:
                    file.truncate(10**12)
        return path

    def test_unusable_file_of_certificates_raises_the_same_message_without_blocking(self, ask, connect, path):
        connect(host="https://127.0.0.1:1", password=TOKEN, extra={"verify": str(path)})
        with pytest.raises(KernelConfigurationError) as error:
            ask("get_invocation", "inv1")
        assert str(error.value).replace(str(path), "PATH") == (
            "The TLS certificates in 'PATH' cannot be read. Write the path of a file of certificates in PEM format, "
            "or of a folder of them, that Airflow's processes may read."
        )
