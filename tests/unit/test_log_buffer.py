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
    LogPosition,
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
def test_lines_are_written_once_across_reconnects(parts, cuts, inclusive):
    log = log_of(parts)
    assert follow(log, cuts, inclusive=inclusive) == [event.message for event in log]


def test_open_stream_requests_the_whole_log_before_the_first_line():
    remote = LogBuffer()
    assert remote.open_stream() is None
    remote.add(Heartbeat(format_timestamp(START)), NOW)
    assert remote.open_stream() is None
    remote.add(line("a"), NOW)
    assert remote.open_stream() == format_timestamp(START - OVERLAP_NANOSECONDS)


def test_lines_without_a_valid_time_are_written_once():
    log = [LogEvent("", "a"), LogEvent("soon", "b"), LogEvent("", "a")]
    remote = LogBuffer()
    assert [r for e in log for r in remote.add(e, NOW)] == ["a", "b", "a"]
    assert remote.open_stream() is None
    assert [r for e in [*log, LogEvent("", "c")] for r in remote.add(e, NOW)] == ["c"]


def test_only_log_events_are_written_and_without_line_ends():
    remote = LogBuffer()
    assert remote.add(Heartbeat("t"), NOW) + remote.add(ErrorEvent("t", "c", "m"), NOW) == []
    assert remote.add(line("a \r\n"), NOW) == ["a "]
    assert remote.add(line(""), NOW) == [""]


@pytest.mark.parametrize("lines_per_second", [10, 19, 100, 10_000])
def test_records_stay_within_the_rate_and_slow_lines_are_not_held(lines_per_second):
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


def test_flood_takes_bounded_memory_and_every_line_is_counted():
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


def test_held_lines_are_written_with_a_heartbeat():
    remote = LogBuffer()
    for number in range(BURST_RECORDS + 3):
        remote.add(line(f"{number}", START + number), NOW)
    later = NOW + 0.9
    assert remote.add(Heartbeat("t"), later) == [f"{BURST_RECORDS}\n{BURST_RECORDS + 1}\n{BURST_RECORDS + 2}"]
    assert remote.flush(later) == []


def test_lines_are_written_when_the_clock_goes_back():
    remote = LogBuffer()
    assert remote.add(line("a", START), NOW) == ["a"]
    assert remote.add(line("b", START - 999 * SECOND), NOW - 999) == ["b"]


def test_escaped_line_is_no_longer_than_a_record():
    (record,) = LogBuffer().add(line("\x7f" * MAX_RECORD), NOW)
    assert len(record) < MAX_RECORD + 100


def test_long_line_is_cut_to_a_record():
    remote = LogBuffer()
    cut = "x" * MAX_RECORD + "… (3 more characters)"
    assert remote.add(line("x" * (MAX_RECORD + 3)), NOW) == [cut]


class TestTimeOfALine:
    """Airflow's log has the time at which a line is written; the line has its own where that is another."""

    STAMP = "2027-01-15T08:00:00.000Z"

    @pytest.mark.parametrize(
        ("seconds", "written"),
        [(0, "a"), (1, "a"), (-1, "a"), (1.1, f"{STAMP} a"), (3600, f"{STAMP} a"), (-1.1, f"{STAMP} a")],
    )
    def test_is_shown_when_the_delay_is_more_than_a_second(self, seconds, written):
        assert LogBuffer().add(line("a"), NOW + seconds) == [written]

    def test_is_shown_with_milliseconds(self):
        assert LogBuffer().add(line("a", START + 1_234_567), NOW + 5) == ["2027-01-15T08:00:00.001Z a"]

    @pytest.mark.parametrize("timestamp", ["", "soon", "2027-13-01T00:00:00Z"])
    def test_is_not_shown_when_it_is_not_valid(self, timestamp):
        assert LogBuffer().add(LogEvent(timestamp, "a"), NOW) == ["a"]

    def test_is_shown_per_line_of_a_record_by_the_time_of_writing(self):
        remote = LogBuffer()
        for number in range(BURST_RECORDS + 2):
            remote.add(line(f"{number}", START + number % 2 * 30 * SECOND), NOW)
        assert remote.add(Heartbeat("t"), NOW + 30) == [
            f"{self.STAMP} {BURST_RECORDS}\n{BURST_RECORDS + 1}",
        ]

    def test_fits_in_the_largest_record(self):
        remote = LogBuffer()
        for _ in range(BURST_RECORDS + MAX_RECORD):
            remote.add(line("x", START), NOW)
        [record] = remote.flush(NOW + 60)
        assert record.startswith(f"{self.STAMP} x\n{self.STAMP} x\n")
        assert MAX_RECORD // 2 < len(record) < MAX_RECORD + 200

    def test_is_not_shown_for_notices(self):
        remote = LogBuffer(NOW)
        written = remote.add(line("a", START - SECOND), NOW + 60) + remote.flush(NOW + 60)
        assert written == [REPLAY, "2027-01-15T07:59:59.000Z a"]


@settings(max_examples=200, deadline=None)
@given(lines, st.lists(st.integers(0, 40), max_size=8), st.booleans())
@example([(0, "")] * 7, [5], False)
def test_no_line_is_lost_when_there_are_more_than_are_remembered(parts, cuts, inclusive):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_buffer, "REMEMBERED_LINES", 4)
        log = log_of([(step, f"{number}") for number, (step, _) in enumerate(parts)])
        written = follow(log, cuts, inclusive=inclusive)
    assert sorted(set(written), key=int) == [event.message for event in log]


class TestReplay:
    """What an earlier wait has shown is shown again, and marked."""

    BEFORE = NOW

    def written(self, *log: LogEvent, before: float | None = BEFORE) -> list[str]:
        remote = LogBuffer(before)
        return [record for event in log for record in remote.add(event, NOW)] + remote.flush(NOW)

    def test_notices_surround_the_lines_of_an_earlier_wait(self):
        log = [line("a", START - SECOND), line("b", START - 1), line("c", START), line("d", START + 1)]
        assert self.written(*log) == [REPLAY, "a", "b", REPLAY_OVER, "c", "d"]

    def test_second_notice_is_missing_when_no_line_is_new(self):
        assert self.written(line("a", START - 1)) == [REPLAY, "a"]

    def test_notices_are_missing_when_no_line_is_old(self):
        assert self.written(line("a"), line("b", START + 1)) == ["a", "b"]
        assert self.written(line("a"), before=None) == ["a"]

    def test_lines_out_of_order_or_without_a_time_do_not_repeat_a_notice(self):
        log = [LogEvent("", "a"), line("b", START - 1), LogEvent("", "c"), line("d"), line("e", START - 1)]
        assert self.written(*log) == ["a", REPLAY, "b", "c", REPLAY_OVER, "d", "e"]

    def test_reconnect_does_not_repeat_a_notice(self):
        log = [line("a", START - 2), line("b", START - 1), line("c", START)]
        remote = LogBuffer(self.BEFORE)
        records = []
        for there in (1, 2, 3, 3):
            for event in stream(log[:there], remote.open_stream(), inclusive=True):
                records += remote.add(event, NOW)
        assert records == [REPLAY, "a", "b", REPLAY_OVER, "c"]

    def test_flood_keeps_both_notices(self):
        log = [line("x" * 1_000, START - 5_000 + n) for n in range(5_000)] + [line("y" * 1_000)]
        text = "\n".join(self.written(*log)).split("\n")
        assert text[0] == REPLAY
        assert text[-2] == REPLAY_OVER
        assert text[-1].startswith("… 4")


@given(lines, st.integers(0, 40))
def test_lines_that_the_worker_has_shown_are_not_shown_again_and_no_other_is_lost(parts, shown):
    log = log_of(parts)
    on_worker = follow(log[:shown], [], inclusive=True)
    first = LogBuffer()
    for event in log[:shown]:
        first.add(event, NOW)
    in_triggerer, written = LogBuffer(position=first.position), []
    for event in stream(log, in_triggerer.open_stream(), inclusive=True):
        written += in_triggerer.add(event, (parse_timestamp(event.timestamp) or 0) / SECOND)
    assert on_worker + written == follow(log, [], inclusive=True)


def test_lines_that_are_later_than_those_shown_are_new_though_the_stream_leaves_out_the_first_ones():
    buffer = LogBuffer(position=LogPosition(lines=2, time=START))
    assert buffer.add(line("three", START + 1), NOW) == ["three"]
