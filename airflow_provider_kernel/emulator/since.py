"""The query parameter ``since``: an RFC 3339 timestamp or one of Go's durations. Pure; the current time is an argument."""

from __future__ import annotations

import re
from decimal import Decimal

from airflow_provider_kernel.api.timestamps import parse_rfc3339

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_STEP = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(rf"0|(?:{_STEP.pattern})+")
#: Kernel's durations look like Go's, and Go counts nanoseconds in 64 bits (292 years).
_MAX_DURATION = 2**63 - 1


def parse_since(text: str, now: int) -> int:
    """
    Return the time that ``text`` means, in nanoseconds since 1970: an RFC 3339 timestamp, or a duration before ``now``.

    A timestamp must have ``T`` and ``Z`` in upper case. A duration is Go's without a sign: ``90s``, ``5m``, ``1h30m``,
    ``1.5h``; not ``1d``, not ``5``.

    :raises ValueError: ``text`` is neither.
    """
    # RFC 3339 also permits a space, t and z; Kernel's documentation shows T and Z alone.
    if text[10:11] == "T" and "z" not in text and (timestamp := parse_rfc3339(text)) is not None:
        return timestamp
    if _DURATION.fullmatch(text):
        duration = sum(int(Decimal(number) * _UNITS[unit]) for number, unit in _STEP.findall(text))
        if duration <= _MAX_DURATION:
            return now - duration
    raise ValueError("neither an RFC 3339 time nor a duration such as 5m")
