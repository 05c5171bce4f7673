"""RFC 3339 timestamps of any year, and what is not one. test_events.py has the timestamps of API fields."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.api.timestamps import format_timestamp, parse_rfc3339, parse_timestamp

pytestmark = pytest.mark.no_airflow

#: 1970 to 2286.
TIMES = st.integers(min_value=0, max_value=10**19)
SECOND = 10**9


@given(TIMES)
def test_formatted_timestamp_is_parsed_exactly(timestamp):
    assert parse_rfc3339(format_timestamp(timestamp)) == timestamp


@given(TIMES, TIMES)
def test_formatted_timestamps_sort_as_the_times_do(one, two):
    assert (format_timestamp(one) < format_timestamp(two)) == (one < two)


@given(st.datetimes(min_value=datetime(1, 1, 2), timezones=st.sampled_from([UTC])), st.integers(-1439, 1439))
def test_offset_does_not_change_the_time(utc, minutes):
    text = utc.isoformat(timespec="microseconds")
    timestamp = parse_rfc3339(text.replace("+00:00", "Z"))
    try:
        local = (utc.replace(tzinfo=None) + timedelta(minutes=minutes)).isoformat(timespec="microseconds")
    except OverflowError:
        return
    sign = "-" if minutes < 0 else "+"
    hours, rest = divmod(abs(minutes), 60)

    assert timestamp is not None
    assert parse_rfc3339(f"{local}{sign}{hours:02d}:{rest:02d}") == timestamp


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0001-01-01T00:00:00Z", -62_135_596_800),
        ("1969-12-31T23:59:59.5Z", -0.5),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
    ],
)
def test_years_outside_of_1970_to_9998_are_parsed_but_no_time_of_a_field(text, seconds):
    assert parse_rfc3339(text) == int(seconds * SECOND)
    assert parse_timestamp(text) is None


@pytest.mark.parametrize("end", ["\n", " ", "\r\n", "\0"])
def test_timestamp_is_refused_when_text_follows(end):
    assert parse_timestamp("2026-01-01T00:00:00Z") is not None
    assert parse_timestamp(f"2026-01-01T00:00:00Z{end}") is None
    assert parse_rfc3339(f"2026-01-01T00:00:00Z{end}") is None


@pytest.mark.parametrize(
    "text", ["2026-01-01T00:00:0\u0665Z", "2026-01-01T00:00:00.\u0665Z", "\u0662026-01-01T00:00:00Z"]
)
def test_digits_are_ascii_only(text):
    assert parse_rfc3339(text) is None


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_none(text):
    assert isinstance(parse_rfc3339(text), int | None)
    assert isinstance(parse_timestamp(text), int | None)
