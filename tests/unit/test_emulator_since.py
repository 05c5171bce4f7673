"""The query parameter since: a timestamp or a duration."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.api.timestamps import format_timestamp
from airflow_provider_kernel.emulator.since import parse_since

pytestmark = pytest.mark.no_airflow

SECOND = 10**9


@given(st.integers(min_value=0, max_value=10**19))
def test_timestamp_means_itself(timestamp):
    assert parse_since(format_timestamp(timestamp), now=0) == timestamp


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0001-01-01T00:00:00Z", -62_135_596_800), ("2025-06-20T14:00:00+02:00", 1_750_420_800)],
)
def test_timestamp_may_have_any_year_and_offset(text, seconds):
    assert parse_since(text, now=0) == seconds * SECOND


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
def test_duration_counts_back_from_now(text, seconds):
    assert parse_since(text, now=10**13) == 10**13 - int(seconds * SECOND)


@given(
    st.lists(
        st.tuples(st.integers(0, 999), st.sampled_from(["h", "m", "s", "ms", "us", "µs", "ns"])), min_size=1
    )
)
def test_steps_of_a_duration_add_up(steps):
    units = {"h": 3600 * SECOND, "m": 60 * SECOND, "s": SECOND, "ms": 10**6, "us": 1000, "µs": 1000, "ns": 1}
    text = "".join(f"{number}{unit}" for number, unit in steps)

    assert parse_since(text, now=0) == -sum(number * units[unit] for number, unit in steps)


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "1d", "-5m", "5 m", "m", ".s", "5m ", "5m\n", "5M", "9" * 30 + "h", "\u0665m"),
        *("2025-06-20", "2025-06-20T12:00:00", "2025-06-20 12:00:00Z", "2025-06-20T12:00:00 00:00"),
        *("2025-06-20t12:00:00Z", "2025-06-20T12:00:00z", "2025-06-20T12:00:00Z\n"),
        *(
            "2025-13-20T12:00:00Z",
            "2025-06-20T25:00:00Z",
            "0000-01-01T00:00:00Z",
            "2025-06-20T12:00:00+99:00",
        ),
    ],
)
def test_any_other_text_is_refused(text):
    with pytest.raises(ValueError, match="neither an RFC 3339 time nor a duration"):
        parse_since(text, now=0)


@given(st.text(max_size=40))
def test_no_text_raises_another_error_than_value_error(text):
    with contextlib.suppress(ValueError):
        assert isinstance(parse_since(text, now=0), int)
