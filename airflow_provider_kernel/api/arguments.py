"""
Checks of the arguments of operator, sensor, trigger and hook. No I/O.

Each raises a ``ValueError`` whose sentence says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any

#: Bounds and default of ``async_timeout_seconds`` (Kernel's OpenAPI description).
MIN_ASYNC_TIMEOUT_SECONDS = 10
MAX_ASYNC_TIMEOUT_SECONDS = 3600
DEFAULT_ASYNC_TIMEOUT_SECONDS = 900
#: Seconds after which Kernel cuts a synchronous call.
SYNC_LIMIT_SECONDS = 100
#: What to write as the name of an app or an action.
NAME_MEANING = "the name as it was deployed to Kernel"
#: What to write as a version.
VERSION_MEANING = "the version's label as it was deployed to Kernel, or 'latest'"
#: Default of ``kernel_conn_id``.
DEFAULT_CONN_ID = "kernel_default"
#: Default of ``defer_after``, in seconds. A deferral of a short action takes 7 to 10 s longer than the action with
#: LocalExecutor, and two seconds of workers; tests/benchmarks/bench_short_actions.py measures it.
DEFER_AFTER = 5.0
#: What to write as ``kernel_conn_id``.
CONNECTION_MEANING = "the id of an Airflow connection of type 'kernel'"
#: Longest time that an argument may be, in seconds. Airflow's and Python's dates end in the year 9999.
MAX_SECONDS = 365 * 24 * 3600
#: Smallest and largest integer that Airflow's processes can send to each other: 64 bits.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
# Kernel's ids have 24 letters and digits; future ones are unknown.
_ID = r"[A-Za-z0-9_-][A-Za-z0-9_.:~-]{0,199}"


def is_invocation_id(value: Any) -> bool:
    """Return whether ``value`` can be an invocation id: ids become parts of URLs and log lines."""
    return isinstance(value, str) and re.fullmatch(_ID, value) is not None


def is_template(text: str) -> bool:
    """Return whether Airflow renders ``text``."""
    return any(mark in text for mark in ("{{", "{%", "{#"))


def check_name(name: str, value: Any, meaning: str = NAME_MEANING) -> None:
    """
    Check an argument that is a name or id.

    :param name: the argument's name.
    :param value: its value.
    :param meaning: what to write as the argument.
    :raises ValueError: the value is not a string, is empty, or has a character that Airflow cannot store.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, {meaning}; not {type(value).__name__}.")
    if not value.strip():
        raise ValueError(f"{name} is empty. Write {meaning}.")
    check_storable(name, value)


def check_storable(name: str, value: Any) -> None:
    """
    Check that Airflow can store an argument with its Dag. One value that it cannot store stops the Dag processor.

    :param name: the argument's name.
    :param value: its value; dicts, lists, tuples and sets are searched.
    :raises ValueError: a string contains NUL or half a surrogate pair, or an integer exceeds 64 bits; the sentence names
        the place.
    """
    if problem := storage_problem(value):
        raise ValueError(f"{name}{problem}")


def storage_problem(value: Any) -> str | None:
    """Return the path in ``value`` to what Airflow cannot store, and why; None if Airflow can store all of it."""
    if isinstance(value, str):
        return _text_problem(value)
    if isinstance(value, int):
        if MIN_INTEGER <= value <= MAX_INTEGER:
            return None
        return (
            " is a number beyond 64 bits, which Airflow cannot store. Write it as a string, or the whole payload as "
            "JSON text."
        )
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and (problem := _text_problem(key)):
                return f" has the key {key!a}, which{problem}"
            if problem := storage_problem(item):
                return f"[{key!r}]{problem}"
    elif isinstance(value, (list, tuple, Set)):
        for index, item in enumerate(value):
            if problem := storage_problem(item):
                return f"[{index}]{problem}"
    return None


def _text_problem(text: str) -> str | None:
    # The characters of JSON that PostgreSQL's jsonb, in which Airflow stores Dags, does not have.
    what = "a NUL character" if "\0" in text else None
    try:
        text.encode()
    except UnicodeEncodeError:
        what = "half a surrogate pair"
    if what is None:
        return None
    return f" holds {what}, which Airflow cannot store in PostgreSQL. Leave it out, or encode the text, for example with base64."


def check_flag(name: str, value: Any) -> None:
    """
    Check an argument that is True or False.

    :param name: the argument's name.
    :param value: its value.
    :raises ValueError: the value is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}.")


def check_seconds(name: str, value: Any, least: float | None = None, most: float = MAX_SECONDS) -> None:
    """
    Check an argument that is a time in seconds.

    :param name: the argument's name.
    :param value: its value.
    :param least: the shortest time; None: any that is greater than 0.
    :param most: the longest time; default: a year.
    :raises ValueError: the value is not a number, or out of these bounds.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (value > 0 if least is None else least <= value) or not value <= most:
        bounds = "greater than 0 and at most" if least is None else f"from {least:.0f} to"
        year = " (a year)" if most == MAX_SECONDS else ""
        raise ValueError(f"{name} must be seconds, as a number {bounds} {most:.0f}{year}, not {value!r}.")


def check_async(async_: Any, async_timeout_seconds: Any) -> None:
    """
    Check ``async_`` and ``async_timeout_seconds``.

    :param async_: as in :class:`~airflow_provider_kernel.api.models.InvocationRequest`.
    :param async_timeout_seconds: as there.
    :raises ValueError: the type is wrong, the time is not in 10-3600, or a synchronous call has a time.
    """
    check_flag("async_", async_)
    if async_timeout_seconds is None:
        return
    bounds = f"{MIN_ASYNC_TIMEOUT_SECONDS} to {MAX_ASYNC_TIMEOUT_SECONDS}"
    if isinstance(async_timeout_seconds, bool) or not isinstance(async_timeout_seconds, int):
        raise ValueError(
            f"async_timeout_seconds must be a whole number from {bounds}, not {async_timeout_seconds!r}."
        )
    if not MIN_ASYNC_TIMEOUT_SECONDS <= async_timeout_seconds <= MAX_ASYNC_TIMEOUT_SECONDS:
        raise ValueError(
            f"async_timeout_seconds={async_timeout_seconds} is outside Kernel's range, {bounds}."
        )
    if not async_:
        raise ValueError(
            "async_timeout_seconds has no meaning with async_=False, which Kernel cuts after "
            f"{SYNC_LIMIT_SECONDS} s. Leave one of the two out."
        )
