"""Times and durations as the API takes them."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.emulator.timestamps import format_timestamp, parse_since

pytestmark = pytest.mark.no_airflow

#: 1970 to 2286.
MOMENTS = st.integers(min_value=0, max_value=10**19)
SECOND = 10**9


@given(MOMENTS)
def test_a_formatted_moment_is_read_back_exactly(timestamp):
    assert parse_since(format_timestamp(timestamp), now=0) == timestamp


@given(MOMENTS, MOMENTS)
def test_formatted_moments_sort_as_the_moments_do(one, two):
    assert (format_timestamp(one) < format_timestamp(two)) == (one < two)


@given(st.datetimes(min_value=datetime(1, 1, 2), timezones=st.sampled_from([UTC])), st.integers(-1439, 1439))
def test_every_offset_means_the_same_moment(utc, minutes):
    text = utc.isoformat(timespec="microseconds")
    timestamp = parse_since(text.replace("+00:00", "Z"), now=0)
    try:
        local = (utc.replace(tzinfo=None) + timedelta(minutes=minutes)).isoformat(timespec="microseconds")
    except OverflowError:
        return
    sign = "-" if minutes < 0 else "+"
    hours, rest = divmod(abs(minutes), 60)

    assert parse_since(f"{local}{sign}{hours:02d}:{rest:02d}", now=0) == timestamp


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("0", 0),
        ("250ms", 0.25),
    ],
)
def test_a_duration_is_counted_back_from_now(text, seconds):
    assert parse_since(text, now=10**13) == 10**13 - int(seconds * SECOND)


@given(
    st.lists(
        st.tuples(st.integers(0, 999), st.sampled_from(["h", "m", "s", "ms", "us", "µs", "ns"])), min_size=1
    )
)
def test_the_steps_of_a_duration_add_up(steps):
    units = {"h": 3600 * SECOND, "m": 60 * SECOND, "s": SECOND, "ms": 10**6, "us": 1000, "µs": 1000, "ns": 1}
    text = "".join(f"{number}{unit}" for number, unit in steps)

    assert parse_since(text, now=0) == -sum(number * units[unit] for number, unit in steps)


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "1d", "-5m", "5 m", "m", ".s", "5m ", "5M", "9" * 30 + "h", "\u0665m"),
        *("2025-06-20", "2025-06-20T12:00:00", "2025-06-20 12:00:00Z", "2025-06-20T12:00:00 00:00"),
        *(
            "2025-13-20T12:00:00Z",
            "2025-06-20T25:00:00Z",
            "0000-01-01T00:00:00Z",
            "2025-06-20T12:00:00+99:00",
        ),
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the caller replaces the message where it is not ours
        parse_since(text, now=0)


@given(st.text(max_size=40))
def test_no_text_raises_anything_but_value_error(text):
    with contextlib.suppress(ValueError):
        assert isinstance(parse_since(text, now=0), int)
