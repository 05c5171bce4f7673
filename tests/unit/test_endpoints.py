"""What is sent to Kernel, and how each reply is read; cancelling, step by step."""

from __future__ import annotations

import json

import pytest
from requests.structures import CaseInsensitiveDict

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.endpoints import MAX_RETRY_AFTER, Cancellation, Page, read_reply
from airflow_provider_kernel.api.errors import KernelApiError, KernelError, KernelTransportError
from airflow_provider_kernel.api.models import Invocation, InvocationRequest
from airflow_provider_kernel.lifecycle.conversation import cancel

pytestmark = pytest.mark.no_airflow

SECRET = "hunter2"
GET = endpoints.get_invocation("i1")
PAGE = [{"id": "i1", "status": "failed"}]


def reply(call, status=200, body=b"", **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_reply(call, status, CaseInsensitiveDict(named), body)


def error_of(call, status, body=b"", **headers) -> KernelError:
    with pytest.raises(KernelError) as caught:
        reply(call, status, body, **headers)
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize(
    ("invocation_id", "path"),
    [
        ("rr33xuugxj9h0bkf1rdt2bet", "/invocations/rr33xuugxj9h0bkf1rdt2bet"),
        ("a.b:c~d_-", "/invocations/a.b%3Ac~d_-"),
    ],
)
def test_invocation_id_is_one_segment_of_the_path(invocation_id, path):
    assert endpoints.get_invocation(invocation_id).path == path
    assert endpoints.end_invocation(invocation_id).path == path
    assert endpoints.delete_browsers(invocation_id).path == f"{path}/browsers"
    assert endpoints.follow_events(invocation_id).path == f"{path}/events"


@pytest.mark.parametrize(
    "invocation_id",
    [
        "",
        " ",
        "\n",
        None,
        7,
        b"i1",
        ["i1"],
        ".",
        "..",
        " .. ",
        "a/../b",
        "a?b",
        "a#b",
        "a%2fb",
        "a\n",
        "é",
        "i" * 201,
    ],
)
@pytest.mark.parametrize(
    "call",
    [endpoints.get_invocation, endpoints.end_invocation, endpoints.delete_browsers, endpoints.follow_events],
)
def test_request_raises_when_the_invocation_id_is_not_valid(call, invocation_id):
    with pytest.raises(ValueError, match="An invocation id is a text such as"):
        call(invocation_id)


def test_only_invoke_is_not_repeatable():
    request = InvocationRequest("shop", "price", {"password": SECRET})
    invoke = endpoints.invoke(request)
    assert (invoke.method, invoke.path, invoke.body) == ("POST", "/invocations", request.body())
    others = [
        GET,
        endpoints.end_invocation("i"),
        endpoints.delete_browsers("i"),
        endpoints.follow_events("i"),
    ]
    others += [endpoints.list_invocations(), endpoints.list_apps(), endpoints.auth_context()]
    lost = KernelTransportError("no reply", sent=True)
    assert not invoke.may_repeat(lost)
    assert all(call.may_repeat(lost) for call in others)
    assert SECRET not in repr(invoke) + repr(endpoints.end_invocation("i", f'"{SECRET}"'))


def test_synchronous_invoke_has_a_longer_timeout_than_kernels_limit():
    assert endpoints.invoke(InvocationRequest("a", "b", async_=False)).min_timeout > 100
    assert endpoints.invoke(InvocationRequest("a", "b")).min_timeout == 0


def test_end_invocation_sends_failed_and_the_output():
    assert endpoints.end_invocation("i").body == {"status": "failed"}
    assert endpoints.end_invocation("i", '{"by": "us"}').body == {
        "status": "failed",
        "output": '{"by": "us"}',
    }


def test_request_omits_parameters_that_are_not_set():
    assert endpoints.list_invocations(app_name="shop", limit=100, offset=0, since=None).params == {
        "app_name": "shop",
        "limit": "100",
        "offset": "0",
    }
    assert endpoints.follow_events("i", None).params == {}
    assert endpoints.follow_events("i", "5m").params == {"since": "5m"}


@pytest.mark.parametrize("status", [200, 201, 202])
def test_read_reply_returns_the_result_for_every_2xx_status(status):
    assert reply(GET, status, {"id": "i1", "status": "queued"}) == Invocation("i1", "queued")


def test_read_reply_accepts_an_empty_body_when_the_request_has_no_result():
    assert reply(endpoints.delete_browsers("i1"), 204) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{",
        b'{"id": "i1", "stat',
        b'{"id": "i1"}',
        b"[]",
        b"null",
        b"7",
        b"\xff\xfe",
        b"[" * 200000,
        b'{"id": NaN}',
        b'{"id": "i1", "status": ' + b"9" * 5000 + b"}",
    ],
)
def test_read_reply_raises_a_transport_error_when_a_success_is_not_kernels(body):
    assert isinstance(error_of(GET, 200, body), KernelTransportError)


@pytest.mark.parametrize("call", [GET, endpoints.end_invocation("i1")])
def test_read_reply_raises_when_the_reply_is_another_invocation(call):
    assert reply(call, 200, {"id": "i1", "status": "failed"}).id == "i1"
    assert isinstance(error_of(call, 200, {"id": "i2", "status": "failed"}), KernelTransportError)


@pytest.mark.parametrize("kind", ["text/html", "application/json", "", None])
def test_check_stream_raises_when_the_content_type_is_not_an_event_stream(kind):
    for good in ("text/event-stream", "Text/Event-Stream; charset=utf-8"):
        endpoints.check_stream({"Content-Type": good})
    with pytest.raises(KernelTransportError, match="The reply to a request for events is"):
        endpoints.check_stream({} if kind is None else {"Content-Type": kind})


def test_read_reply_names_the_content_type_when_the_reply_is_html():
    error = error_of(GET, 200, f"<h1>{SECRET}</h1>".encode(), **{"content_type": "text/html; charset=x"})
    assert str(error) == (
        "GET /invocations/i1 was answered 200 with text/html that is not Kernel's reply; "
        "a proxy may have answered."
    )


@pytest.mark.parametrize(
    ("headers", "next_offset"),
    [
        ({}, None),
        ({"X_Has_More": "true", "X_Next_Offset": "100"}, 100),
        ({"x_next_offset": "100"}, 100),
        ({"X_Has_More": "false", "X_Next_Offset": "0"}, None),
        ({"X_Has_More": "False", "X_Next_Offset": "100"}, None),
        ({"X_Has_More": "true", "X_Next_Offset": "0"}, None),
    ],
)
def test_page_takes_the_next_offset_from_the_headers(headers, next_offset):
    page = reply(endpoints.list_invocations(), 200, PAGE, **headers)
    assert page == Page([Invocation("i1", "failed")], next_offset, size=len(json.dumps(PAGE)))


@pytest.mark.parametrize("following", ["20", "10", "-1"])
@pytest.mark.parametrize("ask", [endpoints.list_invocations, endpoints.list_apps])
def test_page_raises_when_the_next_offset_does_not_advance(ask, following):
    assert isinstance(error_of(ask(offset=20), 200, PAGE, X_Next_Offset=following), KernelTransportError)
    assert reply(ask(offset=20), 200, PAGE, X_Next_Offset="21").next_offset == 21


def test_page_has_none_for_an_unreadable_item_when_skip_unreadable_is_set():
    items = [*PAGE, {"id": "i2"}, {"status": "failed"}, None]
    page = reply(endpoints.list_invocations(skip_unreadable=True), 200, items)
    assert page.items == [Invocation("i1", "failed"), None, None, None]


@pytest.mark.parametrize("ask", [endpoints.list_invocations, endpoints.list_apps])
def test_page_raises_when_it_has_too_many_items_or_a_wrong_next_offset(ask):
    items = [{"id": f"i{n}", "status": "failed"} for n in range(101)]
    assert isinstance(error_of(ask(), 200, items), KernelTransportError)
    assert isinstance(error_of(ask(limit=5), 200, items[:6]), KernelTransportError)
    assert len(reply(ask(limit=5), 200, items[:5], X_Next_Offset="5").items) == 5
    assert isinstance(error_of(ask(limit=5), 200, items[:5], X_Next_Offset="4"), KernelTransportError)
    assert isinstance(error_of(ask(), 200, PAGE, X_Next_Offset=str(10**9)), KernelTransportError)


@pytest.mark.parametrize("limit", [-1, 10**12, 1.5, "5", None])
def test_entitlements_raise_when_a_limit_is_not_a_whole_number(limit):
    assert isinstance(
        error_of(endpoints.entitlements(), 200, {"limits": {"max_concurrent_invocations": limit}}),
        KernelTransportError,
    )


def test_empty_page_is_the_last_page_with_any_headers():
    page = reply(endpoints.list_apps(), 200, [], X_Has_More="true", X_Next_Offset="100")
    assert (page.items, page.next_offset) == ([], None)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (PAGE, {"X_Next_Offset": "soon"}),
        (PAGE, {"X_Has_More": "true"}),  # but not where it goes on
        (PAGE, {"X_Has_More": "true", "X_Next_Offset": ""}),
        ({"items": []}, {}),
        ("text", {}),
        (None, {}),
        ([None], {}),
        (["text"], {}),
        ([{"id": "i1"}], {}),
    ],
)
def test_page_raises_a_transport_error_when_it_is_malformed(body, headers):
    assert isinstance(error_of(endpoints.list_invocations(), 200, body, **headers), KernelTransportError)


@pytest.mark.parametrize("body", [None, 7, "text", [7]])
def test_auth_context_raises_a_transport_error_when_it_is_malformed(body):
    assert isinstance(error_of(endpoints.auth_context(), 200, body), KernelTransportError)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"code": "bad_request", "message": "No such app"}, "bad_request", "No such app"),
        ({"message": "No such app"}, None, "No such app"),
        ({"code": 7, "message": "No such app"}, None, "No such app"),
        (
            {
                "code": "c",
                "message": "Invalid",
                "details": [{"code": "d", "message": "app_name"}, {"code": "x"}, "text", {"message": 7}],
                "inner_error": {"code": "e", "message": "too long"},
            },
            "c",
            "Invalid. app_name. too long.",
        ),
        ({"code": "c", "message": "Invalid", "details": None, "inner_error": None}, "c", "Invalid"),
    ],
)
def test_api_error_contains_kernels_message_and_its_details(body, code, message):
    error = error_of(GET, 400, body)
    assert isinstance(error, KernelApiError)
    assert (error.status_code, error.code, error.message) == (400, code, message)
    assert error.is_refusal


@pytest.mark.parametrize(
    "body",
    [
        b"<html><h1>hunter2</h1>",
        b"",
        b"{",
        b"[]",
        b"null",
        b'"message"',
        b'{"code": "c"}',
        b"\xff",
        b'{"message": 7}',
        b'{"message": null}',
        b"[" * 200000,
        b"7",
    ],
)
@pytest.mark.parametrize("status", [401, 502, 529, 600, 101])
def test_api_error_names_the_content_type_when_the_body_is_not_kernels(status, body):
    error = error_of(GET, status, body, Content_Type="text/html; charset=utf-8")
    assert isinstance(error, KernelApiError)
    assert (error.status_code, error.code) == (status, None)
    assert "the body is text/html and not Kernel's" in str(error)
    assert SECRET not in str(error)


def test_api_error_shortens_a_long_message():
    assert len(str(error_of(GET, 500, {"code": "c", "message": "x" * 100_000}))) < 1_200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
@pytest.mark.parametrize(
    ("location", "target"),
    [
        (f"https://user:{SECRET}@login.example:8443/path?next={SECRET}#{SECRET}", "login.example:8443"),
        (f"//login.example/{SECRET}", "login.example"),
        (f"/login?token={SECRET}", "another address"),
        ("", "another address"),
        (None, "another address"),
        ("http://[bad", "another address"),
        ("https://[::1", "another address"),
        ("//[x]/", "another address"),
    ],
)
def test_redirect_raises_and_names_only_the_host(status, location, target):
    error = error_of(GET, status, b"<html>", **({} if location is None else {"Location": location}))
    assert isinstance(error, KernelApiError)
    assert error.is_refusal
    assert f"a redirect to {target}, which is not followed" in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ({"X_Request_Id": "r1"}, "r1"),
        ({"x_kernel_request_id": "r2"}, "r2"),
        ({"CF_Ray": "r3"}, "r3"),
        ({"X_Request_Id": "", "CF_Ray": "r3"}, "r3"),
        ({}, None),
    ],
)
def test_api_error_has_the_request_id(headers, request_id):
    assert error_of(GET, 500, **headers).request_id == request_id


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("-1", None),
        ("99999999", MAX_RETRY_AFTER),
        ("1e999", MAX_RETRY_AFTER),
        ("inf", MAX_RETRY_AFTER),
        ("nan", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_when_it_is_a_number_of_seconds(value, seconds):
    headers = {} if value is None else {"Retry_After": value}
    assert error_of(GET, 429, **headers).retry_after == seconds


REFUSED = KernelApiError("already ended", status_code=409)
BROKEN = KernelTransportError("reset")


def invocation(status: str) -> Invocation:
    return Invocation("i1", status)


GONE = KernelApiError("no browsers", status_code=404)


def run(script: list) -> tuple[list[str], Cancellation | KernelError]:
    """Feed the cancellation with a script of replies; return what it asked, and what came of it."""
    steps, asked = cancel("i1", "us"), []
    try:
        call = next(steps)
        for answer in script:
            asked.append(f"{call.method} {call.path.removeprefix('/invocations/i1')}".strip())
            call = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration as stop:
        assert len(asked) == len(script)
        return asked, stop.value
    except KernelError as error:
        return asked, error
    raise AssertionError(f"The script is too short: {call} is asked.")


@pytest.mark.parametrize(
    ("script", "asked", "outcome"),
    [
        pytest.param(
            [invocation("running"), invocation("failed"), None],
            ["GET", "PATCH", "DELETE /browsers"],
            Cancellation(invocation("failed"), True),
            id="cancelled",
        ),
        pytest.param(
            [invocation("new status"), invocation("failed"), None],
            ["GET", "PATCH", "DELETE /browsers"],
            Cancellation(invocation("failed"), True),
            id="an unknown status is no end",
        ),
        pytest.param(
            [invocation("succeeded")],
            ["GET"],
            Cancellation(invocation("succeeded"), False),
            id="had succeeded and keeps its browsers",
        ),
        pytest.param(
            [invocation("failed"), None],
            ["GET", "DELETE /browsers"],
            Cancellation(invocation("failed"), False),
            id="had failed and may have left browsers",
        ),
        pytest.param(
            [invocation("running"), REFUSED, invocation("succeeded")],
            ["GET", "PATCH", "GET"],
            Cancellation(invocation("succeeded"), False),
            id="succeeded in between",
        ),
        pytest.param(
            [invocation("running"), REFUSED, invocation("failed"), None],
            ["GET", "PATCH", "GET", "DELETE /browsers"],
            Cancellation(invocation("failed"), False),
            id="failed in between",
        ),
        pytest.param(
            [invocation("running"), REFUSED, invocation("running")],
            ["GET", "PATCH", "GET"],
            REFUSED,
            id="refused though it runs",
        ),
        pytest.param(
            [invocation("running"), REFUSED, invocation("new status")],
            ["GET", "PATCH", "GET"],
            REFUSED,
            id="refused and unknown",
        ),
        pytest.param(
            [invocation("running"), REFUSED, BROKEN], ["GET", "PATCH", "GET"], BROKEN, id="cannot look again"
        ),
        pytest.param(
            [invocation("running"), BROKEN, invocation("failed"), None],
            ["GET", "PATCH", "GET", "DELETE /browsers"],
            Cancellation(invocation("failed"), False),
            id="only the reply was lost",
        ),
        pytest.param(
            [invocation("running"), BROKEN, invocation("running")],
            ["GET", "PATCH", "GET"],
            BROKEN,
            id="the request broke",
        ),
        pytest.param([BROKEN], ["GET"], BROKEN, id="cannot look"),
        pytest.param(
            [invocation("running"), invocation("failed"), BROKEN],
            ["GET", "PATCH", "DELETE /browsers"],
            Cancellation(invocation("failed"), True, BROKEN),
            id="browsers may be left",
        ),
        pytest.param(
            [invocation("failed"), GONE],
            ["GET", "DELETE /browsers"],
            Cancellation(invocation("failed"), False),
            id="had no browsers that Kernel knows of",
        ),
    ],
)
def test_cancel_polls_first_and_reports_only_what_kernel_confirms(script, asked, outcome):
    assert run(script) == (asked, outcome)


@pytest.mark.parametrize(
    "call", [GET, endpoints.list_invocations(), endpoints.list_apps(), endpoints.auth_context()]
)
def test_read_reply_raises_a_transport_error_when_a_result_is_missing(call):
    assert isinstance(error_of(call, 204), KernelTransportError)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"\xff"])
def test_read_reply_ignores_the_body_when_the_request_has_no_result(body):
    assert reply(endpoints.delete_browsers("i1"), 200, body) is None


def test_request_raises_without_quoting_when_the_id_is_a_dict():
    with pytest.raises(ValueError, match="not dict") as refused:
        endpoints.get_invocation({"sku": "A"})  # type: ignore[arg-type]
    assert "sku" not in str(refused.value)


def test_cancel_reports_not_cancelled_when_the_invocation_succeeded_first():
    outcome = run([invocation("running"), invocation("succeeded")])
    assert outcome == (["GET", "PATCH"], Cancellation(invocation("succeeded"), False))
