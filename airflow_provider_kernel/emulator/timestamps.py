"""Points in time as the API writes them. Inside, time is an integer: nanoseconds since 1970, UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]+))?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_STEP = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(rf"0|(?:{_STEP.pattern})+")
#: Go, which Kernel's durations look like, counts nanoseconds in 64 bits (292 years).
_LONGEST = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_timestamp(timestamp: int) -> str:
    """Return RFC 3339 with nanoseconds, such as ``2025-06-20T12:00:00.000000000Z``."""
    seconds, nanoseconds = divmod(timestamp, 10**9)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def parse_since(text: str, now: int) -> int:
    """
    Return the moment that ``text`` means: an RFC 3339 time, or a duration before ``now``.

    Durations are Go's without a sign: ``90s``, ``5m``, ``1h30m``, ``1.5h``; not ``1d``, not ``5``.

    :raises ValueError: it is neither.
    """
    if match := _RFC3339.fullmatch(text):
        whole, fraction, zone = match.groups()
        since = datetime.fromisoformat(whole + zone.replace("Z", "+00:00")) - _EPOCH
        return (since.days * 86_400 + since.seconds) * 10**9 + int((fraction or "")[:9].ljust(9, "0"))
    if _DURATION.fullmatch(text):
        length = sum(int(Decimal(number) * _UNITS[unit]) for number, unit in _STEP.findall(text))
        if length <= _LONGEST:
            return now - length
    raise ValueError("neither an RFC 3339 time nor a duration such as 5m")
