"""RFC 3339 timestamps, as Kernel's API writes them, and integers: nanoseconds since 1970, UTC. Pure; no I/O."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000_000
#: Start of the year 9999. Python's ``datetime`` overflows a little later.
_END = 253_370_764_800 * _SECOND


def parse_rfc3339(text: str) -> int | None:
    """
    Return an RFC 3339 timestamp, of any precision, as nanoseconds since 1970; None if ``text`` is not one.

    Years before 1970 are negative numbers.
    """
    match = _RFC3339.fullmatch(text)
    if not match:
        return None
    date, time, fraction, zone = match.groups()
    try:
        whole = datetime.fromisoformat(f"{date}T{time}{'+00:00' if zone in 'Zz' else zone}") - _EPOCH
    except ValueError:
        return None
    return (whole.days * 86_400 + whole.seconds) * _SECOND + int(f"{fraction or '0':0<9.9}")


def parse_timestamp(text: str | None) -> int | None:
    """
    Return the time of an API field as nanoseconds since 1970; None if the field has no RFC 3339 timestamp.

    Go's zero time (year 1) means "no time" and is None, as is every time before 1970 or after 9998.
    """
    nanoseconds = parse_rfc3339(text or "")
    return nanoseconds if nanoseconds is not None and 0 <= nanoseconds < _END else None


def format_timestamp(nanoseconds: int) -> str:
    """Return nanoseconds since 1970 as an RFC 3339 timestamp in UTC, such as ``2025-06-20T12:00:00.000000000Z``."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
