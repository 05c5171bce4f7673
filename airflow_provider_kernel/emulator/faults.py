"""
Faults on purpose: how they are written, and which requests have them. Pure; no I/O.

No fault is random, so each run has the same faults: with a rate of 0.2, every fifth request that a fault concerns has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

from airflow_provider_kernel.emulator.contract import ApiError

#: The message of an error in Kernel's place. The terminal and the client's log show that it is no bug.
MESSAGE = "injected fault"

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_EVENT_STREAM = re.compile("/invocations/[^/]+/events")
#: Error codes by status: Kernel's, and for statuses whose code is unknown, names in the same style.
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    429: "rate_limit_exceeded",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
    529: "capacity_exhausted",
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """
    What happens to some requests. Make it with :func:`read_fault` or :func:`parse_fault`, which check it.

    :param method: the requests' method; None: any.
    :param path: glob for the requests' path without query.
    :param rate: share of these requests that have the fault.
    :param times: number of requests after which the fault has no effect; None: no limit.
    :param latency: seconds before a request is handled.
    :param status: status of the error that is answered in Kernel's place; the request takes no effect.
    :param retry_after: the error's ``Retry-After``, in seconds.
    :param lose_reply: whether the request takes effect, and the connection is closed without a response.
    :param cut_after: number of events after which the connection of an event stream breaks. Heartbeats do not count.
    :param silent_after: number of events after which an event stream sends nothing more, not even heartbeats.
    """

    method: str | None = None
    path: str = "*"
    rate: float = 1
    times: int | None = None
    latency: float | None = None
    status: int | None = None
    retry_after: int | None = None
    lose_reply: bool = False
    cut_after: int | None = None
    silent_after: int | None = None

    @property
    def is_for_event_streams(self) -> bool:
        """Whether the fault concerns event streams only."""
        return self.cut_after is not None or self.silent_after is not None

    @property
    def effects(self) -> str:
        """The effects, as on the command line."""
        return " ".join(
            name if name == "lose_reply" else f"{name}={getattr(self, name)}"
            for name in self._given(_EFFECTS)
        )

    def _given(self, names: Iterable[str]) -> list[str]:
        """Return those of these fields that are set; 0 is a value."""
        return [
            name for name in names if getattr(self, name) is not None and getattr(self, name) is not False
        ]

    def concerns(self, method: str, path: str) -> bool:
        """Return whether the fault concerns a request with this method and path."""
        if self.is_for_event_streams and not (method == "GET" and _EVENT_STREAM.fullmatch(path)):
            return False
        return self.method in (None, method) and fnmatchcase(path, self.path)

    def error(self) -> ApiError:
        """Return the error with which the fault answers; there must be a ``status``."""
        assert self.status is not None  # noqa: S101 - the caller's condition
        code = _CODES.get(self.status, "bad_request" if self.status < 500 else "internal_error")
        headers = None if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return ApiError(self.status, code, MESSAGE, headers)


_FIELDS = tuple(field.name for field in fields(Fault))
_EFFECTS = ("latency", "status", "retry_after", "lose_reply", "cut_after", "silent_after")
#: Of these, a fault has one at most.
_ENDS = ("status", "lose_reply", "cut_after", "silent_after")


def read_fault(data: Mapping[str, Any]) -> Fault:
    """
    Return the fault that a JSON object describes. A field that is null counts as missing.

    :raises ValueError: the object describes none; the message is one sentence without a full stop.
    """
    if unknown := [name for name in data if name not in _FIELDS]:
        raise ValueError(f"A fault has no {unknown[0]!r}; it has {', '.join(_FIELDS)}")
    given = {name: value for name, value in data.items() if value is not None}
    for name, value in given.items():
        is_valid, allowed = _CHECKS[name]
        if not is_valid(value):
            raise ValueError(f"{name} must be {allowed}")
    if "method" in given:
        given["method"] = given["method"].upper()
    fault = Fault(**given)
    ends = fault._given(_ENDS)
    if not ends and fault.latency is None:
        raise ValueError(f"A fault needs an effect: latency, {', '.join(_ENDS[:-1])} or {_ENDS[-1]}")
    if len(ends) > 1:
        raise ValueError(f"A fault cannot have both {ends[0]} and {ends[1]}: add one fault for each")
    if fault.retry_after is not None and fault.status is None:
        raise ValueError("retry_after needs status: it is a header of the error")
    if fault.is_for_event_streams and fault.method not in (None, "GET"):
        raise ValueError(
            f"{ends[0]} concerns event streams, which are requested with GET: leave out the method"
        )
    return fault


def parse_fault(text: str) -> Fault:
    """
    Return the fault that a text describes, such as ``POST /invocations status=503 rate=0.2``.

    :raises ValueError: the text describes none; the message is one sentence without a full stop.
    """
    words = text.split()
    data: dict[str, Any] = {}
    if words and words[0].upper() in _METHODS:
        data["method"] = words.pop(0)
    if words and words[0].startswith(("/", "*")):
        data["path"] = words.pop(0)
    for word in words:
        name, sign, value = word.partition("=")
        if not sign and name != "lose_reply":
            raise ValueError(
                f"{word!r} is not understood: write a method, a path and NAME=VALUE in this order, as in "
                "'POST /invocations status=503'"
            )
        if name in data:
            raise ValueError(f"{name} is there twice: write it once")
        data[name] = _parse_value(value) if sign else True
    return read_fault(data)


class FaultList:
    """
    Faults, in the order in which they were added, and how often each was applied.

    :param permanent: faults that :meth:`clear` does not remove.
    """

    def __init__(self, permanent: Iterable[Fault] = ()) -> None:
        self._listed: dict[str, _Listed] = {}
        self._last_id = 0
        for fault in permanent:
            self._add(fault, is_permanent=True)

    def add(self, fault: Fault) -> dict[str, Any]:
        """Add a fault; return it as JSON, with its id."""
        return self._as_json(self._add(fault, is_permanent=False))

    def remove(self, fault_id: str) -> None:
        """
        Remove a fault.

        :raises KeyError: there is none with this id.
        """
        del self._listed[fault_id]

    def clear(self) -> None:
        """Remove all faults but the permanent ones."""
        self._listed = {key: listed for key, listed in self._listed.items() if listed.is_permanent}

    def as_json(self) -> list[dict[str, Any]]:
        """Return the faults as JSON."""
        return [self._as_json(fault_id) for fault_id in self._listed]

    def choose(self, method: str, path: str) -> Fault | None:
        """
        Return the fault for a request: the first that concerns it and whose turn it is. None: the request has no fault.

        Each call counts as a request. ``rate`` is a share of the requests that got no earlier fault.
        """
        return next(
            (it.fault for it in self._listed.values() if it.fault.concerns(method, path) and it.take_turn()),
            None,
        )

    def _add(self, fault: Fault, *, is_permanent: bool) -> str:
        self._last_id += 1
        fault_id = str(self._last_id)
        self._listed[fault_id] = _Listed(fault, is_permanent)
        return fault_id

    def _as_json(self, fault_id: str) -> dict[str, Any]:
        listed = self._listed[fault_id]
        return {"id": fault_id, **asdict(listed.fault), "applied": listed.applied}


@dataclass
class _Listed:
    """
    A fault in the list.

    :param is_permanent: whether :meth:`FaultList.clear` keeps it.
    :param concerned: number of requests that it concerned, until ``times`` was reached.
    :param applied: number of requests that had it.
    """

    fault: Fault
    is_permanent: bool
    concerned: int = 0
    applied: int = 0

    def take_turn(self) -> bool:
        """Count a request that the fault concerns; return whether the request has the fault."""
        if self.applied == self.fault.times:
            return False
        self.concerned += 1
        # The float 0.29 is a little less than 0.29, so its product may fall short of a whole number.
        rate = Fraction(self.fault.rate).limit_denominator(10**9)
        if math.floor(self.concerned * rate) == math.floor((self.concerned - 1) * rate):
            return False
        self.applied += 1
        return True


def _parse_value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object, low: int, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


#: What a field's value must be: a test, and the words for it.
_CHECKS: dict[str, tuple[Any, str]] = {
    "method": (lambda it: isinstance(it, str) and it.upper() in _METHODS, f"one of {', '.join(_METHODS)}"),
    "path": (
        lambda it: isinstance(it, str) and it.startswith(("/", "*")),
        "a glob that begins with / or *, such as /invocations/*",
    ),
    "rate": (lambda it: _is_number(it) and 0 < it <= 1, "a number above 0, at most 1"),
    "times": (lambda it: _is_integer(it, 1), "a positive whole number"),
    "latency": (
        lambda it: _is_number(it) and 0 < it <= 86_400,
        "a positive number of seconds, at most 86400",
    ),
    "status": (lambda it: _is_integer(it, 400, 599), "an error's status, from 400 to 599"),
    "retry_after": (lambda it: _is_integer(it, 0), "a whole number of seconds, at least 0"),
    "lose_reply": (lambda it: isinstance(it, bool), "true or false"),
    "cut_after": (lambda it: _is_integer(it, 0), "a whole number of events, at least 0"),
    "silent_after": (lambda it: _is_integer(it, 0), "a whole number of events, at least 0"),
}
