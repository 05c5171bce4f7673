"""When a request is sent again, how one without a reply reads, and how a connection of Airflow is read."""

from __future__ import annotations

import errno
import io
import json
import socket
import tracemalloc
from types import SimpleNamespace

import pytest
from tenacity import Future, RetryCallState

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.errors import KernelApiError, KernelConfigurationError, KernelTransportError
from airflow_provider_kernel.api.models import InvocationRequest
from airflow_provider_kernel.api.settings import KernelSettings
from airflow_provider_kernel.hooks.connection import settings_of
from airflow_provider_kernel.transport.errors import (
    MAX_ATTEMPTS,
    MAX_WAIT,
    retrying,
    root_causes,
    transport_error,
)
from airflow_provider_kernel.transport.sync import result_of

TOKEN = "sk_live_0123456789"
GET = endpoints.get_invocation("i1")
POST = endpoints.invoke(InvocationRequest("shop", "price"))


def after(error: BaseException, attempt: int = 1) -> RetryCallState:
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = attempt
    state.outcome = Future.construct(attempt, error, has_exception=True)
    return state


def answered(status: int, retry_after: float | None = None) -> KernelApiError:
    return KernelApiError("so", status_code=status, retry_after=retry_after)


@pytest.mark.parametrize(
    ("error", "get", "post"),
    [
        (KernelTransportError("refused", sent=False), True, True),
        (KernelTransportError("lost"), True, False),
        (answered(429), True, True),
        (answered(529), True, True),
        (answered(429, retry_after=MAX_WAIT), True, True),
        (answered(429, retry_after=MAX_WAIT + 1), False, False),
        (answered(500), True, False),
        (answered(503, retry_after=1), True, False),
        (answered(408), True, False),
        (answered(400), False, False),
        (answered(401), False, False),
        (answered(404), False, False),
        (answered(302), False, False),
        (KernelConfigurationError("no token"), False, False),
        (ValueError("ours"), False, False),
        (KeyboardInterrupt(), False, False),
    ],
)
def test_request_is_retried_only_when_that_is_safe(error, get, post):
    assert (retrying(GET)["retry"](after(error)), retrying(POST)["retry"](after(error))) == (get, post)


@pytest.mark.parametrize("attempt", range(1, MAX_ATTEMPTS + 1))
def test_retries_have_growing_bounded_pauses_and_a_maximum_number(attempt):
    pause = retrying(GET)["wait"](after(answered(500), attempt))
    assert 0.5 <= pause <= 21
    assert retrying(GET)["stop"](after(answered(500), attempt)) is (attempt == MAX_ATTEMPTS)


def chained(error: BaseException, **attributes) -> BaseException:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def test_root_causes_are_the_exceptions_that_libraries_wrap():
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    for wrapping in (
        OSError(refused),
        chained(Exception("retries"), reason=refused),
        chained(Exception("so"), __cause__=refused),
        OSError(chained(Exception("retries"), reason=chained(Exception("new"), __cause__=refused))),
    ):
        assert next(iter(root_causes(wrapping))) is wrapping
        assert refused in list(root_causes(wrapping))


def test_root_causes_exclude_the_exception_context():
    earlier = ConnectionRefusedError("an earlier attempt: nothing was sent")
    assert list(root_causes(chained(TimeoutError("lost"), __context__=earlier))) != [earlier]
    assert earlier not in list(root_causes(chained(TimeoutError("lost"), __context__=earlier)))
    inner = chained(Exception("inner"), __context__=earlier)
    assert earlier not in list(root_causes(chained(OSError(inner), __cause__=inner)))


@pytest.mark.parametrize(
    ("cause", "sent", "timed_out", "message"),
    [
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.1', 443)"),
            False,
            False,
            "https://k.example could not be reached (Connection refused).",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            False,
            False,
            "https://k.example could not be reached (Name or service not known).",
        ),
        (TimeoutError(), False, True, "https://k.example could not be reached in time."),
        (TimeoutError("timed out"), True, True, "https://k.example did not reply in time."),
        (
            ConnectionResetError(errno.ECONNRESET, "x"),
            True,
            False,
            "The connection to https://k.example broke (Connection reset by peer).",
        ),
        (
            Exception(f"http://user:{TOKEN}@proxy refused"),
            True,
            False,
            "The connection to https://k.example broke.",
        ),
        (OSError(f"http://user:{TOKEN}@proxy"), False, False, "https://k.example could not be reached."),
    ],
)
def test_transport_error_describes_a_request_without_a_reply(cause, sent, timed_out, message):
    error = transport_error(
        KernelSettings("sk_x", base_url="https://k.example"),
        root_causes(cause),
        sent=sent,
        timed_out=timed_out,
    )
    assert str(error) == message
    assert error.sent is sent


def connection(**fields) -> SimpleNamespace:
    empty = dict.fromkeys(("login", "password", "host", "schema", "port", "extra"))
    return SimpleNamespace(
        **{**empty, "conn_type": "kernel", "conn_id": "kernel_default", "password": TOKEN, **fields}
    )


@pytest.mark.parametrize("conn_type", ["kernel", "generic", "", None])
def test_connection_is_accepted_when_it_has_no_specific_type(conn_type):
    assert settings_of(connection(conn_type=conn_type)).api_key == TOKEN


def test_connection_is_read_with_its_extra():
    found = settings_of(connection(host="localhost", port=8484, extra='{"project": "p", "timeout": "5"}'))
    assert (found.api_key, found.base_url, found.project, found.timeout) == (
        TOKEN,
        "http://localhost:8484",
        "p",
        5.0,
    )


@pytest.mark.parametrize("extra", [None, "", "{}"])
def test_connection_is_accepted_without_an_extra(extra):
    assert settings_of(connection(extra=extra)).timeout == 30


@pytest.mark.parametrize("extra", ["[]", "null", '"text"', "7", "{", "timeout=5"])
def test_connection_raises_when_the_extra_is_not_an_object(extra):
    with pytest.raises(
        KernelConfigurationError, match="The extra of the Airflow connection 'kernel_default'"
    ):
        settings_of(connection(extra=extra))


@pytest.mark.parametrize(
    "item",
    [{"title": "A light in the attic", "price": 51.77}, {"title": "Bücher/📚\x1b[0m\n"}],
    ids=["plain", "escapes"],
)
def test_reading_an_output_takes_at_most_three_times_its_size(item):
    output = json.dumps([item] * 100_000)
    body = io.BytesIO(json.dumps({"id": "i1", "status": "succeeded", "output": output}).encode())
    raw = SimpleNamespace(read1=lambda size, decode_content: body.read1(size))
    response = SimpleNamespace(status_code=200, headers={}, raw=raw)
    tracemalloc.start()
    try:
        found = result_of(GET, response, KernelSettings(TOKEN))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.raw_output == output
    assert peak < 3 * len(output)
