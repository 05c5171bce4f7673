"""An event stream decodes to the same events however it is written and cut, in bounded memory and time."""

from __future__ import annotations

import itertools
import json
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_kernel.api.events import ErrorEvent, EventDecoder, Heartbeat, LogEvent, StateEvent
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.api.text import MAX_NAME, clean
from airflow_provider_kernel.api.timestamps import format_timestamp, parse_timestamp

pytestmark = pytest.mark.no_airflow

AT = "2026-01-01T00:00:00.123456789Z"
# Without NUL, which becomes a question mark.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def log(message: str, at: str = AT) -> dict:
    return {"event": "log", "timestamp": at, "message": message}


def one(fields: object, end: bytes = b"\n") -> bytes:
    return b"data: " + json.dumps(fields).encode() + 2 * end


def decode(*chunks: bytes, **options) -> tuple[list, int]:
    decoder = EventDecoder(**options)
    return [event for chunk in chunks for event in decoder.feed(chunk)], decoder.skipped


@st.composite
def events(draw) -> tuple[dict, object]:
    """Return an event as JSON, and as it is to be decoded (None: passed over)."""
    at = draw(text)
    message = draw(text)
    return draw(
        st.sampled_from(
            [
                (log(message, at), LogEvent(at, message)),
                (
                    {
                        "event": "invocation_state",
                        "timestamp": at,
                        "invocation": {"id": "i", "status": message},
                    },
                    StateEvent(at, Invocation("i", clean(message, MAX_NAME))) if message else None,
                ),
                (
                    {
                        "event": "error",
                        "timestamp": at,
                        "error": {"code": "c", "message": message, "details": []},
                    },
                    ErrorEvent(at, "c", message),
                ),
                ({"event": "sse_heartbeat", "timestamp": at}, Heartbeat(at)),
                ({"event": "sse_heartbeat"}, Heartbeat("")),
                ({"event": message + "?", "timestamp": at}, None),
                ({"event": "log", "timestamp": at, "message": 7}, None),
                ({"timestamp": at}, None),
                (["log"], None),
            ]
        )
    )


noise = st.sampled_from(
    ["", ": ping", ":", "id: 7", "event: log", "retry: 10", "other", "dat: {}", "database: {}"]
)


@st.composite
def streams(draw) -> tuple[bytes, list, int]:
    """Return the bytes of a stream, the events in it and how many are passed over."""
    expected, skipped, lines = [], 0, []
    for fields, event in draw(st.lists(events(), max_size=5)):
        lines += [line for line in draw(st.lists(noise, max_size=2)) if line]
        for line in json.dumps(fields, indent=draw(st.sampled_from([None, 0, 2])), ensure_ascii=False).split(
            "\n"
        ):
            lines.append(draw(st.sampled_from(["data: ", "data:"])) + line)
            lines += [line for line in draw(st.lists(noise, max_size=1)) if line]
        lines += [""] * draw(st.integers(1, 3))
        expected += [event] if event else []
        skipped += not event
    ends = draw(st.sampled_from(["\n", "\r\n", "\r", "mixed"]))
    written = "".join(
        line + (draw(st.sampled_from(["\n", "\r\n"])) if ends == "mixed" else ends) for line in lines
    )
    # After a last CR the decoder waits for more, which may be its LF.
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + written.encode() + b":", expected, skipped


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in itertools.pairwise(borders)] + [b""]


@settings(max_examples=200, deadline=None)
@given(streams(), st.lists(st.integers(0, 10_000), max_size=30))
def test_events_are_the_same_with_any_line_ends_and_cuts(stream, places):
    written, expected, skipped = stream
    assert decode(written) == (expected, skipped)
    assert decode(*cut(written, places)) == (expected, skipped)
    assert decode(*(bytes([byte]) for byte in written)) == (expected, skipped)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=20))
@example(b"data\n\n" * 3 + b"data:\n\n", [4])
def test_decoder_raises_nothing_for_any_bytes(stream, places):
    assert decode(*cut(stream, places)) == decode(stream)


pieces = st.sampled_from(
    [b"data:", b"data: ", b"data", b"d", b"\r", b"\n", b"\r\n", b"\n\n", b":", b"x" * 7, b"{}", b" "]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(pieces | st.just(one(log("a"))), max_size=40),
    st.lists(st.integers(0, 400), max_size=30),
    st.integers(0, 100),
)
def test_size_limit_is_the_same_with_any_cuts(parts, places, limit):
    stream = b"".join(parts)
    whole = decode(stream, max_event_bytes=limit)
    assert decode(*cut(stream, places), max_event_bytes=limit) == whole
    assert decode(*(bytes([byte]) for byte in stream), max_event_bytes=limit) == whole


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("prefix", [b"data:", b"data: "])
def test_event_is_read_up_to_the_exact_size_limit(prefix, end):
    data = json.dumps(log("x" * 50)).encode()
    stream = prefix + data + 2 * end + one(log("next"), end) + b":"
    for chunks in ([stream], [bytes([byte]) for byte in stream]):
        events_, skipped = decode(*chunks, max_event_bytes=len(data))
        assert ([event.message for event in events_], skipped) == (["x" * 50, "next"], 0)
        # The last event is shorter than the limit by more than a byte.
        events_, skipped = decode(*chunks, max_event_bytes=len(data) - 1)
        assert ([event.message for event in events_], skipped) == (["next"], 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"7",
        b"[]",
        b'"log"',
        b"{}",
        b"NaN",
        b'{"event": "log"}',
        b"\xff\xfe",
        b"[" * 100000,
        b'{"event": "log", "message": null}',
        b'{"event": ["log"]}',
        b'{"event": "new", "message": "m"}',
        b'{"event": "invocation_state"}',
        b'{"event": "invocation_state", "invocation": {"id": "i"}}',
        b'{"event": "invocation_state", "invocation": []}',
        b'{"event": "error"}',
        b'{"event": "error", "error": 7}',
        b'{"event": "log", "message": "m", "n": ' + b"9" * 5000 + b"}",
    ],
)
def test_decoder_drops_and_counts_unreadable_events(data):
    events_, skipped = decode(b"data: " + data + b"\n\n" + one(log("next")))
    assert events_ == [LogEvent(AT, "next")]
    assert skipped == (1 if data else 0)


def test_decoder_drops_an_event_that_the_end_of_the_stream_cuts():
    whole = one(log("a"))
    assert decode(whole[:-1]) == ([], 0)
    assert decode(whole[:-2]) == ([], 0)


def test_invalid_utf_8_replaces_a_character_and_keeps_the_line():
    stream = b'data: {"event": "log", "timestamp": "t", "message": "a\xffb"}\n\n'
    assert decode(stream) == ([LogEvent("t", "a\ufffdb")], 0)


def test_decoder_keeps_unicode_line_separators():
    message = "a\u2028b\u2029c\x0bd\x0ce\x85f"
    stream = f'data: {{"event": "log", "timestamp": "t", "message": "{message}"}}\n\n'.encode()
    # \x0b and \x0c are no JSON when they stand bare; the rest is.
    assert decode(stream) == ([], 1)
    message = "a\u2028b\u2029c\x85f"
    stream = f'data: {{"event": "log", "timestamp": "t", "message": "{message}"}}\n\n'.encode()
    assert decode(stream) == ([LogEvent("t", message)], 0)


def memory(decoder: EventDecoder) -> int:
    held = vars(decoder).values()
    return sum(
        sys.getsizeof(value) + (sum(map(sys.getsizeof, value)) if isinstance(value, list) else 0)
        for value in held
    )


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(b"x" * 65_536, id="one line"),
        pytest.param(b"data: " + b"x" * 65_525 + b"\r\n", id="many data lines"),
        pytest.param(b": " + b"x" * 65_530, id="a comment"),
        pytest.param(b"x" * 65_535 + b"\r", id="unknown fields"),
    ],
)
@pytest.mark.parametrize("start", [b"data: ", b": ", b"event: "])
def test_endless_event_takes_bounded_memory_and_the_next_event_is_read(start, chunk):
    decoder = EventDecoder()
    decoder.feed(start)
    most = 0
    for number in range(10_000_000 // len(chunk)):
        assert decoder.feed(chunk) == []
        most = max(most, memory(decoder) if number % 16 == 0 else 0)
    assert most < 3_000_000
    assert decoder.feed(b"\n\n" + one(log("next"))) == [LogEvent(AT, "next")]
    assert decoder.skipped <= 1


def test_decoding_time_is_linear_in_the_number_of_lines():
    def seconds(lines: int) -> float:
        stream = b"".join(one(log(f"{number} " + "x" * 100)) for number in range(lines))
        decoder, count, start = EventDecoder(), 0, time.process_time()
        for place in range(0, len(stream), 65_536):
            count += len(decoder.feed(stream[place : place + 65_536]))
        assert count == lines
        return time.process_time() - start

    assert seconds(32_000) < 24 * min(seconds(4_000) for _ in range(3))  # if it grew as their square: 64


def second(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)


@given(st.integers(0, 253_370_764_799 * 10**9))
def test_timestamp_round_trips(nanoseconds):
    assert parse_timestamp(format_timestamp(nanoseconds)) == nanoseconds


@given(
    st.datetimes(min_value=datetime(1970, 1, 3), max_value=datetime(9998, 12, 29)),
    st.text("0123456789", max_size=12),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
    st.sampled_from("Tt "),
)
def test_timestamp_is_parsed_with_any_precision_and_zone(moment, fraction, offset, separator):
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    local = moment.replace(tzinfo=None) + timedelta(minutes=offset)
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
    written = (
        f"{local:%Y-%m-%d}{separator}{local:%H:%M:%S}".zfill(19) + (f".{fraction}" if fraction else "") + zone
    )
    assert parse_timestamp(written) == second(moment) * 10**9 + int(f"{fraction:0<9.9}")


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:59:59-05:00",
        "1969-12-31T23:59:59Z",
    ],
)
def test_timestamp_is_none_when_python_cannot_represent_it(text):
    assert parse_timestamp(text) is None


@pytest.mark.parametrize("zone", ["Z", "z", "+00:00", "-00:00"])
def test_timestamp_is_parsed_with_every_notation_of_utc(zone):
    assert parse_timestamp(f"1970-01-01T00:00:01.5{zone}") == 1_500_000_000


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        "",
        "now",
        "5m",
        "2026",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-13-01T00:00:00Z",
        "1767225600",
        "2026-01-01T00:00:60Z",
        "2026-02-30T00:00:00Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00Zx",
        "2026-01-01T25:00:00Z",
        "2026-01-01T00:00:00+99:00",
        "x2026-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
    ],
)
def test_timestamp_is_none_for_other_text(garbage):
    assert parse_timestamp(garbage) is None


@pytest.mark.parametrize("line", [b"data\n", b"data:\n", b"data: \r\n"])
def test_endless_empty_data_lines_take_bounded_memory(line):
    decoder = EventDecoder(max_event_bytes=10_000)
    for _ in range(20):
        decoder.feed(line * 5_000)
    assert memory(decoder) < 1_000_000
    assert decoder.feed(b"\n" + one(log("next"))) == [LogEvent(AT, "next")]
    assert decoder.skipped == 1


def test_line_ends_between_data_lines_count_towards_the_limit():
    assert decode(b"data: 1\ndata: 2\n\n" + one({}), max_event_bytes=2) == ([], 2)
    decoder = EventDecoder(max_event_bytes=100)
    assert decoder.feed(b'data: {"event": "sse_heartbeat"\n' + b"data\n" * 73 + b"data: }\n\n") == [
        Heartbeat("")
    ]
    assert decoder.feed(b'data: {"event": "sse_heartbeat"\n' + b"data\n" * 74 + b"data: }\n\n") == []
    assert decoder.skipped == 1


def test_decoding_time_is_linear_in_the_length_of_a_line_in_small_pieces():
    data = one(log("x" * 900_000))
    decoder, start = EventDecoder(), time.process_time()
    for place in range(0, len(data) - 1, 50):
        assert decoder.feed(data[place : place + 50]) == [] or place > 900_000
    assert decoder.feed(data[-1:]) + decoder.feed(one(log("next")))
    assert time.process_time() - start < 2
