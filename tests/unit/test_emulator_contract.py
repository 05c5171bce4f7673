"""The emulator's request validation and paging, for any input. test_emulator_http.py tests each error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.emulator.contract import (
    ApiError,
    Pagination,
    paginate,
    read_invoke,
    read_pagination,
    read_since,
    read_status,
    read_update,
)

pytestmark = pytest.mark.no_airflow

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    "app_name",
    "action_name",
    "version",
    "payload",
    "async",
    "async_timeout_seconds",
    "status",
    "output",
]


def errors(value, *readers):
    """Return status and code of the errors that the readers raise."""
    found = set()
    for read in readers:
        try:
            read(value)
        except ApiError as error:
            found.add((error.status_code, error.code))
    return found


@given(
    st.binary() | st.dictionaries(st.sampled_from(FIELDS), JSON).map(lambda body: json.dumps(body).encode())
)
def test_any_body_is_accepted_or_refused_with_400(body):
    assert errors(body, read_invoke, read_update) <= {(400, "bad_request")}


@given(st.dictionaries(st.sampled_from(["limit", "offset", "since", "status"]), st.text(max_size=12)))
def test_any_query_is_accepted_or_refused_with_400(query):
    assert errors(query, read_pagination, read_status, lambda query: read_since(query, 0)) <= {
        (400, "bad_request")
    }


WHITE_SPACE = st.text(" \t\r\n", max_size=5)


@given(JSON.filter(lambda value: value == value), WHITE_SPACE, WHITE_SPACE)
def test_payload_keeps_its_text_for_any_json_and_white_space(value, before, after):
    try:
        text = before + json.dumps(value, allow_nan=False) + after
    except ValueError:
        return
    body = {"app_name": "a", "action_name": "b", "version": "latest", "payload": text}

    assert read_invoke(json.dumps(body).encode()).payload == text


def test_missing_fields_have_kernels_defaults():
    request = read_invoke(b'{"app_name": "a", "action_name": "b", "version": "latest", "unknown": 1}')

    assert (request.payload, request.is_async, request.async_timeout) == (None, False, 900)
    assert read_pagination({}) == Pagination(limit=20, offset=0)
    assert read_since({}, 0) is read_status({}) is None


@pytest.mark.parametrize("seconds", [10, 3600])
def test_time_limit_accepts_its_bounds(seconds):
    body = {"app_name": "a", "action_name": "b", "version": "1", "async_timeout_seconds": seconds}

    assert read_invoke(json.dumps(body).encode()).async_timeout == seconds


@given(st.integers(0, 300), st.integers(1, 100))
def test_next_offset_leads_to_each_item_once(count, limit):
    items, seen, offset = list(range(count)), [], 0
    while True:
        page, headers = paginate(items, Pagination(limit, offset))
        seen += page
        assert (headers["X-Limit"], headers["X-Offset"]) == (str(limit), str(offset))
        assert headers["X-Has-More"] == str(headers["X-Next-Offset"] != "0").lower()
        offset = int(headers["X-Next-Offset"])
        if offset == 0:
            break

    assert seen == items


def test_page_beyond_the_end_is_empty_and_the_last():
    page, headers = paginate([1, 2], Pagination(limit=1, offset=5))

    assert (page, headers["X-Has-More"], headers["X-Next-Offset"]) == ([], "false", "0")
