"""Which lines of an invocation's log are written to the task's log: each once, at a bounded rate. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from airflow_provider_kernel.api.events import Event, LogEvent
from airflow_provider_kernel.api.text import clean
from airflow_provider_kernel.api.timestamps import format_timestamp, parse_timestamp

#: Records per second in the long run, and at once. All records pass the one supervisor of a triggerer, which handles about
#: 2,000 per second from all triggers together, and stores the ends of invocations, too.
RECORDS_PER_SECOND = 2.0
BURST_RECORDS = 100
#: Maximum length, in characters, of a record that joins lines which come faster.
MAX_RECORD = 163_840
#: Number of lines remembered, to recognize them in the next stream.
REMEMBERED_LINES = 1_000
#: The next stream starts a little before the last line: whether ``since`` is inclusive, and whether lines come in the order
#: of their times, is unknown.
OVERLAP_NANOSECONDS = 1_000_000_000
#: Seconds by which a line's own time must differ from the time at which it is written to be shown with it.
MAX_DELAY = 1.0
#: Length of that time, in characters.
TIME_SIZE = len("2026-01-01T00:00:00.000Z ")
#: Lines before and after those that an earlier wait has shown.
REPLAY = "… the wait was restarted, and the log is shown again from its start"
REPLAY_OVER = "… the lines from here on are new"


class LogPosition(NamedTuple):
    """
    How far a wait has shown a log.

    :param lines: the number of lines.
    :param time: the latest time of one, in nanoseconds since 1970; None if no line had a time.
    """

    lines: int = 0
    time: int | None = None


class LogBuffer:
    """
    The log of one invocation, over all streams of its wait.

    Each line is a record of its own within :data:`BURST_RECORDS`, and then :data:`RECORDS_PER_SECOND`. Lines that come
    faster are joined; lines beyond :data:`MAX_RECORD` are dropped and counted. A line that is written late, or by another
    clock than Kernel's, begins with its own time.

    ``lines`` counts the lines, without repeated ones.

    :param replayed_before: lines from before this time (seconds since 1970, by Kernel's clock) were shown by an earlier
        wait: :data:`REPLAY` precedes the first of them, and :data:`REPLAY_OVER` the first later line. None: there was no
        earlier wait.
    :param position: how far an earlier wait has shown the log; that part is not shown again.
    """

    def __init__(self, replayed_before: float | None = None, position: LogPosition | None = None) -> None:
        self.lines = 0
        self._skip = position or LogPosition()
        self._replayed_before = replayed_before
        self._is_replaying = False
        self._seen: deque[tuple[int | None, int]] = deque(maxlen=REMEMBERED_LINES)
        self._repeated: Counter[tuple[int | None, int]] = Counter()
        self._tokens = float(BURST_RECORDS)
        self._refilled: float | None = None
        self._held: list[tuple[str, int | None]] = []
        self._held_size = 0
        self._dropped = 0

    def open_stream(self) -> str | None:
        """Return ``since`` for the next stream, None for the whole log; call this for every stream."""
        self._repeated = Counter(self._seen)
        times = [time for time, _ in self._seen if time is not None]
        if not times:
            return None
        forgotten_before = min(times) if len(self._seen) == REMEMBERED_LINES else 0
        # Before the last line: there may be more lines with the same time.
        return format_timestamp(max(times[-1] - OVERLAP_NANOSECONDS, min(forgotten_before, times[-1] - 1)))

    @property
    def position(self) -> LogPosition:
        """How far the log was shown."""
        times = [time for time, _ in self._seen if time is not None]
        return LogPosition(self.lines, max(times, default=None))

    def add(self, event: Event, now: float) -> list[str]:
        """Add an event, which may be a line; return the records to write at ``now``, in seconds since 1970."""
        if not isinstance(event, LogEvent):
            return self._due(now)
        key = (parse_timestamp(event.timestamp), hash(event.message))
        if self._repeated[key] > 0:
            self._repeated[key] -= 1
            return []
        self._seen.append(key)
        self.lines += 1
        if self.lines <= self._skip.lines and (key[0] or 0) <= (self._skip.time or 0):
            return []
        records = []
        if notice := self._notice(key[0]):
            self._held.append((notice, None))
            records = self._due(now)
        line = clean(event.message.rstrip("\r\n"), MAX_RECORD, keep_lines=True)
        if self._held_size + len(line) > MAX_RECORD and self._held:
            self._dropped += 1
        else:
            self._held.append((line, key[0]))
            self._held_size += len(line) + 1 + TIME_SIZE
        return records + self._due(now)

    def _notice(self, time: int | None) -> str | None:
        """Return the notice before a line of this time; None if there is none."""
        if self._replayed_before is None or time is None:
            return None
        if is_old := time < self._replayed_before * 1e9:
            notice = None if self._is_replaying else REPLAY
        else:
            notice = REPLAY_OVER if self._is_replaying else None
            self._replayed_before = None  # all later lines are new
        self._is_replaying = is_old
        return notice

    def _due(self, now: float) -> list[str]:
        """Return the lines held back, if the rate allows to write them now."""
        if self._refilled is not None:
            self._tokens += max(0.0, now - self._refilled) * RECORDS_PER_SECOND
        self._refilled = now
        self._tokens = min(self._tokens, float(BURST_RECORDS))
        if self._tokens < 1 or not self._held:
            return []
        self._tokens -= 1
        return self.flush(now)

    def flush(self, now: float) -> list[str]:
        """Return all lines held back; for the end of the log."""
        if not self._held:
            return []
        if self._dropped:
            notice = (
                f"… {self._dropped} more lines are not shown: the app logs faster than Airflow can handle"
            )
            self._held.append((notice, None))
        record = "\n".join(_dated(line, time, now) for line, time in self._held)
        self._held, self._held_size, self._dropped = [], 0, 0
        return [record]


def app_lines(record: str) -> str:
    """Return a record with each line marked as the app's, which can write anything."""
    return "\n".join(f"[app] {line}" for line in record.split("\n"))


def _dated(line: str, time: int | None, now: float) -> str:
    """Return a line for a log that dates it ``now``, with its own time if that differs."""
    if time is None or abs(now - time / 1e9) <= MAX_DELAY:
        return line
    milliseconds = format_timestamp(time)[: TIME_SIZE - len("Z ")]
    return f"{milliseconds}Z {line}"
