"""Which lines of an invocation's log are written to the task's log: none twice, and no flood. No I/O."""

from __future__ import annotations

from collections import Counter, deque

from airflow_provider_kernel.api.events import Event, LogEvent
from airflow_provider_kernel.api.text import clean
from airflow_provider_kernel.api.timestamps import format_timestamp, parse_timestamp

#: Records a second in the long run, and at once. Every record passes a single supervisor of the triggerer,
#: which takes about 2,000 a second from all its triggers together.
RECORDS_PER_SECOND = 20.0
BURST_RECORDS = 500
#: Largest record that lines are joined into when they come faster, in characters.
MAX_RECORD = 65_536
#: Lines remembered, to know them again when a stream is opened anew.
REMEMBERED_LINES = 1_000
#: A stream is opened anew from a little before the last line: whether ``since`` includes its own moment,
#: and whether lines come in the order of their time, is unknown.
OVERLAP_NANOSECONDS = 1_000_000_000
#: A line is shown with its own time where that differs by more seconds from the time at which it is written.
MAX_DELAY = 1.0
#: Characters of that time.
TIME_SIZE = len("2026-01-01T00:00:00.000Z ")
#: Said around lines that an earlier wait has shown.
REPLAY = "… the wait was taken up anew, and the log is shown from its start again"
REPLAY_OVER = "… from here on the lines are new"


class LogBuffer:
    """
    The log of one invocation over all the streams that its wait opens.

    Within :data:`BURST_RECORDS`, and :data:`RECORDS_PER_SECOND` after that, each line is a record of its own.
    Lines that come faster are joined, and what exceeds :data:`MAX_RECORD` by then is dropped and counted.

    ``lines`` counts the lines, without those that came again. A line that is written late, or by another clock than
    Kernel's, begins with its own time.

    :param replayed_before: lines from before this time (seconds since 1970, by Kernel's clock) were shown by an
        earlier wait: :data:`REPLAY` is written before the first of them, :data:`REPLAY_OVER` before the first later
        line. None: there was no earlier wait.
    """

    def __init__(self, replayed_before: float | None = None) -> None:
        self.lines = 0
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
        """Return the ``since`` to open a stream with, None for the whole log; call it for every stream."""
        self._repeated = Counter(self._seen)
        times = [time for time, _ in self._seen if time is not None]
        if not times:
            return None
        forgotten_before = min(times) if len(self._seen) == REMEMBERED_LINES else 0
        # Always before the last line: there may be more of the same moment.
        return format_timestamp(max(times[-1] - OVERLAP_NANOSECONDS, min(forgotten_before, times[-1] - 1)))

    def add(self, event: Event, now: float) -> list[str]:
        """Take an event, a line or not; return the records to write at ``now``, in seconds since 1970."""
        if not isinstance(event, LogEvent):
            return self._due(now)
        key = (parse_timestamp(event.timestamp), hash(event.message))
        if self._repeated[key] > 0:
            self._repeated[key] -= 1
            return []
        self._seen.append(key)
        self.lines += 1
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
        """Return what is to be said before a line of this time."""
        if self._replayed_before is None or time is None:
            return None
        if is_old := time < self._replayed_before * 1e9:
            notice = None if self._is_replaying else REPLAY
        else:
            notice = REPLAY_OVER if self._is_replaying else None
            self._replayed_before = None  # from here on all is new
        self._is_replaying = is_old
        return notice

    def _due(self, now: float) -> list[str]:
        """Return what was held back, if it may be written by now."""
        if self._refilled is not None:
            self._tokens += max(0.0, now - self._refilled) * RECORDS_PER_SECOND
        self._refilled = now
        self._tokens = min(self._tokens, float(BURST_RECORDS))
        if self._tokens < 1 or not self._held:
            return []
        self._tokens -= 1
        return self.flush(now)

    def flush(self, now: float) -> list[str]:
        """Return all that was held back: at the end of the log."""
        if not self._held:
            return []
        if self._dropped:
            notice = f"… {self._dropped} more lines are not shown: the app logs faster than Airflow can take"
            self._held.append((notice, None))
        record = "\n".join(_dated(line, time, now) for line, time in self._held)
        self._held, self._held_size, self._dropped = [], 0, 0
        return [record]


def app_lines(record: str) -> str:
    """Return a record as a task's log has it: each line says that it is the app's, which can write anything."""
    return "\n".join(f"[app] {line}" for line in record.split("\n"))


def _dated(line: str, time: int | None, now: float) -> str:
    """Return a line as a log shows it that dates it ``now``, with its own time if that is another."""
    if time is None or abs(now - time / 1e9) <= MAX_DELAY:
        return line
    milliseconds = format_timestamp(time)[: TIME_SIZE - len("Z ")]
    return f"{milliseconds}Z {line}"
