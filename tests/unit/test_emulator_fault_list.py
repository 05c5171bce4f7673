"""Faults on purpose: how they are written, which requests they concern, and whose turn it is."""

import re

import pytest

from airflow_provider_kernel.emulator.faults import Fault, FaultList, parse_fault, read_fault

pytestmark = [pytest.mark.no_airflow]

STREAM = "/invocations/k3j9/events"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("status=503", Fault(status=503)),
        ("POST lose_reply", Fault(method="POST", lose_reply=True)),
        ("post lose_reply=true", Fault(method="POST", lose_reply=True)),
        ("/browsers* latency=0.5", Fault(path="/browsers*", latency=0.5)),
        ("* latency=2 status=529", Fault(latency=2, status=529)),
        ("latency=1 lose_reply=false", Fault(latency=1)),
        (
            "POST /invocations status=429 retry_after=0 rate=0.2 times=1",
            Fault(method="POST", path="/invocations", status=429, retry_after=0, rate=0.2, times=1),
        ),
        (
            "GET /invocations/*/events cut_after=3",
            Fault(method="GET", path="/invocations/*/events", cut_after=3),
        ),
        ("  silent_after=0  ", Fault(silent_after=0)),
    ],
)
def test_text_is_read(text, fault):
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "A fault needs an effect: latency, status, lose_reply, cut_after or silent_after"),
        ("POST /invocations", "A fault needs an effect"),
        ("lose_reply=false", "A fault needs an effect"),
        ("HEAD status=503", "'HEAD' is not understood: write a method, a path and NAME=VALUE in this order"),
        ("/apps POST status=503", "'POST' is not understood"),
        ("status", "'status' is not understood"),
        ("statsu=503", "A fault has no 'statsu'; it has method, path, rate, times, latency, status, "),
        ("status=503 status=500", "status is there twice"),
        ("status=200", "status must be an error's status, from 400 to 599"),
        ("status=503.0", "status must be"),
        ("status=busy", "status must be"),
        ("status=503 rate=0", "rate must be a number above 0, at most 1"),
        ("status=503 rate=nan", "rate must be"),
        ("status=503 times=0", "times must be a positive whole number"),
        ("status=503 retry_after=-1", "retry_after must be a whole number of seconds, at least 0"),
        ("latency=inf", "latency must be a positive number of seconds, at most 86400"),
        ("latency=0", "latency must be"),
        ("lose_reply=1", "lose_reply must be true or false"),
        ("cut_after=-1", "cut_after must be a whole number of events, at least 0"),
        ("status=503 lose_reply", "A fault cannot have both status and lose_reply: add one fault for each"),
        ("cut_after=1 silent_after=1", "A fault cannot have both cut_after and silent_after"),
        ("latency=1 retry_after=1", "retry_after needs status: it is a header of the error"),
        ("POST cut_after=1", "cut_after concerns event streams, which are requested with GET"),
    ],
)
def test_wrong_text_is_refused_with_one_sentence(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse_fault(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"status": 503, "method": "HEAD"}, "method must be one of GET, POST, PUT, PATCH, DELETE"),
        ({"status": 503, "method": 1}, "method must be"),
        ({"status": 503, "path": "invocations"}, "path must be a glob that begins with / or *"),
        ({"status": 503, "path": 1}, "path must be"),
        ({"status": True}, "status must be"),
        ({"status": "503"}, "status must be"),
        ({"status": 503, "rate": True}, "rate must be"),
        ({"status": 503, "times": 1.0}, "times must be"),
        ({"latency": 10**400}, "latency must be"),
        ({"latency": "1"}, "latency must be"),
        ({"cut_after": False}, "cut_after must be"),
    ],
)
def test_wrong_json_is_refused_with_one_sentence(data, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read_fault(data)


def test_null_counts_as_missing():
    data = {
        "method": None, "path": None, "rate": None, "times": None, "status": 500, "latency": None, "cut_after": None
    }  # fmt: skip

    assert read_fault(data) == Fault(status=500)


@pytest.mark.parametrize(
    ("text", "method", "path", "is_concerned"),
    [
        ("status=500", "PATCH", "/invocations/a", True),
        ("POST status=500", "GET", "/invocations", False),
        ("/invocations status=500", "GET", "/invocations/a", False),
        ("/Invocations status=500", "GET", "/invocations", False),
        ("/browsers* status=500", "POST", "/browsers/a/computer/screenshot", True),
        ("/invocations/*/events status=500", "GET", STREAM, True),
        ("cut_after=1", "GET", STREAM, True),
        ("silent_after=1", "GET", "/invocations/a", False),
        ("cut_after=1", "POST", STREAM, False),
    ],
)
def test_fault_concerns_requests_by_method_path_and_kind(text, method, path, is_concerned):
    assert parse_fault(text).concerns(method, path) is is_concerned


def turns(faults: FaultList, count: int) -> list[int]:
    """Return the numbers of the requests that have a fault."""
    return [number for number in range(1, count + 1) if faults.choose("POST", "/invocations")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status=500", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("status=500 rate=0.2", [5, 10]),
        ("status=500 rate=0.5 times=3", [2, 4, 6]),
        ("status=500 rate=0.7", [2, 3, 5, 6, 8, 9, 10]),
        ("status=500 times=2", [1, 2]),
    ],
)
def test_rate_and_times_choose_the_same_requests_in_each_run(text, expected):
    assert turns(FaultList([parse_fault(text)]), 10) == expected


@pytest.mark.parametrize("hundredths", range(1, 101))
def test_share_is_exact_whatever_the_rate(hundredths):
    faults = FaultList([Fault(status=500, rate=hundredths / 100)])

    assert len(turns(faults, 100)) == hundredths


def test_third_of_requests_is_each_third():
    assert turns(FaultList([Fault(status=500, rate=1 / 3)]), 9) == [3, 6, 9]


def test_first_fault_that_applies_is_chosen_and_counted():
    faults = FaultList([Fault(status=500, times=1)])
    faults.add(Fault(status=502, rate=0.5))
    faults.add(Fault(status=503, method="POST"))
    chosen = [faults.choose("POST", "/apps") for _ in range(5)]

    assert [fault and fault.status for fault in chosen] == [500, 503, 502, 503, 502]
    assert faults.choose("GET", "/apps") is None
    assert [(it["status"], it["applied"]) for it in faults.as_json()] == [(500, 1), (502, 2), (503, 2)]


def test_faults_are_listed_with_all_fields():
    faults = FaultList()

    added = faults.add(Fault(method="POST", path="/apps", latency=0.5))

    assert added == {
        "id": added["id"], "method": "POST", "path": "/apps", "rate": 1, "times": None, "latency": 0.5, "status": None,
        "retry_after": None, "lose_reply": False, "cut_after": None, "silent_after": None, "applied": 0,
    }  # fmt: skip
    assert faults.as_json() == [added]


def test_clear_keeps_the_permanent_faults_and_no_id_is_used_twice():
    faults = FaultList([Fault(status=500)])
    first = faults.add(Fault(status=502))
    faults.clear()
    second = faults.add(Fault(status=503))

    assert [it["status"] for it in faults.as_json()] == [500, 503]
    assert first["id"] != second["id"]
    faults.remove(second["id"])
    with pytest.raises(KeyError):
        faults.remove(second["id"])
    assert [it["status"] for it in faults.as_json()] == [500]


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "bad_request"), (418, "bad_request"), (429, "rate_limit_exceeded"), (507, "internal_error")],
)
def test_error_has_a_code_of_kernel_and_says_that_it_is_on_purpose(status, code):
    error = Fault(status=status, retry_after=3).error()

    assert (error.status_code, error.code, error.message) == (status, code, "injected fault")
    assert error.headers == {"Retry-After": "3"}
    assert Fault(status=status).error().headers is None


def test_effects_are_written_as_on_the_command_line():
    text = "latency=0.5 status=429 retry_after=2"

    assert parse_fault(f"POST {text} rate=0.5").effects == text
    assert parse_fault("lose_reply").effects == "lose_reply"
    assert parse_fault("cut_after=0").effects == "cut_after=0"
