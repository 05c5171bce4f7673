"""No line of an invocation's log is lost or doubled over reconnects, and no flood reaches Airflow."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_kernel.api.events import ErrorEvent, Heartbeat, LogEvent
from airflow_provider_kernel.api.timestamps import format_timestamp, parse_timestamp
from airflow_provider_kernel.lifecycle import log_buffer
from airflow_provider_kernel.lifecycle.log_buffer import (
    BURST_RECORDS,
    MAX_RECORD,
    OVERLAP_NANOSECONDS,
    RECORDS_PER_SECOND,
    REPLAY,
    REPLAY_OVER,
    LogBuffer,
)

pytestmark = pytest.mark.no_airflow

SECOND = 10**9
#: In nanoseconds, as lines have it, and in seconds, as who reads them does.
START = 1_800_000_000 * SECOND
NOW = START / SECOND


def line(message: str, nanoseconds: int = START) -> LogEvent:
    return LogEvent(format_timestamp(nanoseconds), message)


def stream(log: list[LogEvent], since: str | None, *, inclusive: bool) -> list[LogEvent]:
    """Return what the server sends to one who asks for the log since then."""
    if since is None:
        return log
    border = parse_timestamp(since)
    assert border is not None
    times = [parse_timestamp(event.timestamp) or 0 for event in log]
    return [e for e, at in zip(log, times, strict=True) if at > border or (inclusive and at == border)]


def follow(log: list[LogEvent], cuts: list[int], *, inclusive: bool) -> list[str]:
    """Follow the log over streams that are cut when so many of its lines are there; return what is written."""
    remote, written = LogBuffer(), []
    for there in [*sorted(cut % (len(log) + 1) for cut in cuts), len(log)]:
        for event in stream(log[:there], remote.open_stream(), inclusive=inclusive):
            written += remote.add(event, (parse_timestamp(event.timestamp) or 0) / SECOND)
    return "\n".join(written).split("\n") if written else []


steps = st.sampled_from([0, 0, 1, 1_000, SECOND // 2, SECOND, SECOND + 1, 60 * SECOND])
lines = st.lists(st.tuples(steps, st.sampled_from(["tick", "tock", "ré", ""])), max_size=40)


def log_of(parts: list[tuple[int, str]]) -> list[LogEvent]:
    at, log = START, []
    for step, message in parts:
        at += step
        log.append(line(message, at))
    return log


@settings(max_examples=300, deadline=None)
@given(lines, st.lists(st.integers(0, 40), max_size=8), st.booleans())
def test_no_line_is_lost_or_doubled_over_reconnects(parts, cuts, inclusive):
    log = log_of(parts)
    assert follow(log, cuts, inclusive=inclusive) == [event.message for event in log]


def test_the_whole_log_is_asked_for_until_a_line_was_seen():
    remote = LogBuffer()
    assert remote.open_stream() is None
    remote.add(Heartbeat(format_timestamp(START)), NOW)
    assert remote.open_stream() is None
    remote.add(line("a"), NOW)
    assert remote.open_stream() == format_timestamp(START - OVERLAP_NANOSECONDS)


def test_lines_without_a_readable_time_are_written_once():
    log = [LogEvent("", "a"), LogEvent("soon", "b"), LogEvent("", "a")]
    remote = LogBuffer()
    assert [r for e in log for r in remote.add(e, NOW)] == ["a", "b", "a"]
    assert remote.open_stream() is None
    assert [r for e in [*log, LogEvent("", "c")] for r in remote.add(e, NOW)] == ["c"]


def test_only_lines_are_written_without_their_line_ends():
    remote = LogBuffer()
    assert remote.add(Heartbeat("t"), NOW) + remote.add(ErrorEvent("t", "c", "m"), NOW) == []
    assert remote.add(line("a \r\n"), NOW) == ["a "]
    assert remote.add(line(""), NOW) == [""]


@pytest.mark.parametrize("lines_per_second", [10, 19, 100, 10_000])
def test_records_stay_within_the_rate_and_slow_lines_are_written_at_once(lines_per_second):
    remote, seconds, records, times = LogBuffer(), 10_000 // lines_per_second + 2, [], []
    for number in range(seconds * lines_per_second):
        now = NOW + number / lines_per_second
        new = remote.add(line(f"{number}", START + number * SECOND // lines_per_second), now)
        records += new
        times += [now] * len(new)
        assert lines_per_second > RECORDS_PER_SECOND or new == [f"{number}"]
    assert len(records) <= BURST_RECORDS + RECORDS_PER_SECOND * seconds + 1
    written = "\n".join(records + remote.flush(now)).split("\n")
    assert written == [f"{number}" for number in range(seconds * lines_per_second)]


def test_a_flood_is_bounded_in_memory_and_every_line_is_counted():
    remote, records, count, dropped = LogBuffer(), [], 20_000, 0
    for number in range(count):
        records += remote.add(line("x" * 1_000, START + number), NOW + number / 50_000)
        assert remote._held_size <= MAX_RECORD + 1_001
    records += remote.flush(NOW + 1)
    shown = 0
    for record in records:
        assert len(record) <= MAX_RECORD + 2_000
        for text in record.split("\n"):
            if text.startswith("… "):
                dropped += int(text.split()[1])
                assert text.endswith("more lines are not shown: the app logs faster than Airflow can handle")
            else:
                shown += 1
    assert shown + dropped == count
    assert dropped > 0


def test_what_is_held_back_is_written_when_the_stream_is_merely_alive():
    remote = LogBuffer()
    for number in range(BURST_RECORDS + 3):
        remote.add(line(f"{number}", START + number), NOW)
    later = NOW + 0.9
    assert remote.add(Heartbeat("t"), later) == [f"{BURST_RECORDS}\n{BURST_RECORDS + 1}\n{BURST_RECORDS + 2}"]
    assert remote.flush(later) == []


def test_a_clock_that_goes_back_neither_breaks_nor_blocks_it():
    remote = LogBuffer()
    assert remote.add(line("a", START), NOW) == ["a"]
    assert remote.add(line("b", START - 999 * SECOND), NOW - 999) == ["b"]


def test_a_line_of_control_characters_is_no_longer_than_a_record_once_they_are_shown():
    (record,) = LogBuffer().add(line("\x7f" * MAX_RECORD), NOW)
    assert len(record) < MAX_RECORD + 100


def test_a_line_that_is_longer_than_a_record_is_cut():
    remote = LogBuffer()
    cut = "x" * MAX_RECORD + "… (3 more characters)"
    assert remote.add(line("x" * (MAX_RECORD + 3)), NOW) == [cut]


class TestTheTimeOfALine:
    """Airflow's log has the time at which a line is written; the line has its own where that is another."""

    STAMP = "2027-01-15T08:00:00.000Z"

    @pytest.mark.parametrize(
        ("seconds", "written"),
        [(0, "a"), (1, "a"), (-1, "a"), (1.1, f"{STAMP} a"), (3600, f"{STAMP} a"), (-1.1, f"{STAMP} a")],
    )
    def test_it_is_shown_where_it_differs_by_more_than_a_second(self, seconds, written):
        assert LogBuffer().add(line("a"), NOW + seconds) == [written]

    def test_milliseconds_are_shown(self):
        assert LogBuffer().add(line("a", START + 1_234_567), NOW + 5) == ["2027-01-15T08:00:00.001Z a"]

    @pytest.mark.parametrize("timestamp", ["", "soon", "2027-13-01T00:00:00Z"])
    def test_a_line_without_a_readable_time_has_none(self, timestamp):
        assert LogBuffer().add(LogEvent(timestamp, "a"), NOW) == ["a"]

    def test_each_line_of_a_record_has_its_own_judged_when_it_is_written(self):
        remote = LogBuffer()
        for number in range(BURST_RECORDS + 2):
            remote.add(line(f"{number}", START + number % 2 * 30 * SECOND), NOW)
        assert remote.add(Heartbeat("t"), NOW + 30) == [
            f"{self.STAMP} {BURST_RECORDS}\n{BURST_RECORDS + 1}",
        ]

    def test_the_largest_record_has_room_for_them(self):
        remote = LogBuffer()
        for _ in range(BURST_RECORDS + MAX_RECORD):
            remote.add(line("x", START), NOW)
        [record] = remote.flush(NOW + 60)
        assert record.startswith(f"{self.STAMP} x\n{self.STAMP} x\n")
        assert MAX_RECORD // 2 < len(record) < MAX_RECORD + 200

    def test_what_is_said_about_the_log_has_none(self):
        remote = LogBuffer(NOW)
        written = remote.add(line("a", START - SECOND), NOW + 60) + remote.flush(NOW + 60)
        assert written == [REPLAY, "2027-01-15T07:59:59.000Z a"]


@settings(max_examples=200, deadline=None)
@given(lines, st.lists(st.integers(0, 40), max_size=8), st.booleans())
@example([(0, "")] * 7, [5], False)
def test_with_more_lines_than_are_remembered_none_is_lost(parts, cuts, inclusive):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_buffer, "REMEMBERED_LINES", 4)
        log = log_of([(step, f"{number}") for number, (step, _) in enumerate(parts)])
        written = follow(log, cuts, inclusive=inclusive)
    assert sorted(set(written), key=int) == [event.message for event in log]


class TestAWaitThatWasTakenUpAnew:
    """What an earlier wait has shown is shown again, and marked."""

    BEFORE = NOW

    def written(self, *log: LogEvent, before: float | None = BEFORE) -> list[str]:
        remote = LogBuffer(before)
        return [record for event in log for record in remote.add(event, NOW)] + remote.flush(NOW)

    def test_the_lines_shown_before_stand_between_two_marks(self):
        log = [line("a", START - SECOND), line("b", START - 1), line("c", START), line("d", START + 1)]
        assert self.written(*log) == [REPLAY, "a", "b", REPLAY_OVER, "c", "d"]

    def test_where_none_is_new_there_is_no_second_mark(self):
        assert self.written(line("a", START - 1)) == [REPLAY, "a"]

    def test_where_none_was_shown_before_there_is_no_mark(self):
        assert self.written(line("a"), line("b", START + 1)) == ["a", "b"]
        assert self.written(line("a"), before=None) == ["a"]

    def test_lines_out_of_order_or_without_a_time_turn_nothing_back(self):
        log = [LogEvent("", "a"), line("b", START - 1), LogEvent("", "c"), line("d"), line("e", START - 1)]
        assert self.written(*log) == ["a", REPLAY, "b", "c", REPLAY_OVER, "d", "e"]

    def test_a_stream_that_is_opened_anew_marks_nothing_twice(self):
        log = [line("a", START - 2), line("b", START - 1), line("c", START)]
        remote = LogBuffer(self.BEFORE)
        records = []
        for there in (1, 2, 3, 3):
            for event in stream(log[:there], remote.open_stream(), inclusive=True):
                records += remote.add(event, NOW)
        assert records == [REPLAY, "a", "b", REPLAY_OVER, "c"]

    def test_a_flood_joins_the_marks_with_the_lines_and_drops_neither_mark(self):
        log = [line("x" * 1_000, START - 5_000 + n) for n in range(5_000)] + [line("y" * 1_000)]
        text = "\n".join(self.written(*log)).split("\n")
        assert text[0] == REPLAY
        assert text[-2] == REPLAY_OVER
        assert text[-1].startswith("… 4")
