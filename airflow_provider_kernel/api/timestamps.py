"""Times as Kernel's API writes them (RFC 3339), and as integers: nanoseconds since 1970, UTC. No I/O."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)$",
)


def parse_timestamp(text: str | None) -> int | None:
    """Return an RFC 3339 time, of any precision, as nanoseconds since 1970; None for anything else, or before that."""
    match = _RFC3339.match(text or "")
    if not match:
        return None
    date, time, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{time}{'+00:00' if zone in 'Zz' else zone}")
    except ValueError:
        return None
    if not 1970 <= moment.year < 9999:
        return None  # such as Go's zero time; Python does not get far from there
    return int(moment.timestamp()) * 1_000_000_000 + int(f"{fraction or '0':0<9.9}")


def format_timestamp(nanoseconds: int) -> str:
    """Return nanoseconds since 1970 as an RFC 3339 time in UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
