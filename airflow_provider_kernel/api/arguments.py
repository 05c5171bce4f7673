"""
What an argument may be, whoever takes it. No I/O.

Each check raises a ``ValueError`` whose sentence says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any

#: Bounds and default of ``async_timeout_seconds`` (Kernel's OpenAPI description).
MIN_ASYNC_TIMEOUT_SECONDS = 10
MAX_ASYNC_TIMEOUT_SECONDS = 3600
DEFAULT_ASYNC_TIMEOUT_SECONDS = 900
#: Kernel cuts a synchronous call after this many seconds.
SYNC_LIMIT_SECONDS = 100
#: What to write as the name of an app or an action.
NAME_MEANING = "the name as it was deployed to Kernel"
#: What to write as a version.
VERSION_MEANING = "the version's label as it was deployed to Kernel, or 'latest'"
#: What to write as ``kernel_conn_id``.
CONNECTION_MEANING = "the id of an Airflow connection of type 'kernel'"
#: Longest time that an argument may be, in seconds: Airflow's and Python's moments end in the year 9999.
MAX_SECONDS = 365 * 24 * 3600
#: The integers that fit into 64 bits, with which Airflow's processes talk to each other.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
#: Characters that JSON has and PostgreSQL's ``jsonb`` has not; Airflow keeps its Dags in that.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def is_template(text: str) -> bool:
    """Tell whether Airflow would render ``text``."""
    return any(mark in text for mark in ("{{", "{%", "{#"))


def check_name(name: str, value: Any, meaning: str = NAME_MEANING) -> None:
    """
    Check one of the texts that name something.

    :param name: the argument's name.
    :param value: its value.
    :param meaning: what to write instead of an empty or wrong one.
    :raises ValueError: it is empty, no text, or holds what is no character of a name.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, {meaning}; not {type(value).__name__}.")
    if not value.strip():
        raise ValueError(f"{name} is empty. Write {meaning}.")
    check_storable(name, value)


def check_storable(name: str, value: Any) -> None:
    """
    Check that Airflow can store what a Dag holds: one value that it cannot carry stops the Dag processor.

    :param name: the argument's name.
    :param value: its value; the texts in dicts, lists, tuples and sets are looked at, too.
    :raises ValueError: a text holds a NUL or half a surrogate pair, or an integer is beyond 64 bits; the sentence says
        where.
    """
    if isinstance(value, str):
        if fault := _unstorable(value):
            raise ValueError(f"{name} holds {fault}")
    elif isinstance(value, int):
        if not MIN_INTEGER <= value <= MAX_INTEGER:
            raise ValueError(
                f"{name} is a number beyond 64 bits, which Airflow cannot carry. Write it as a string, or the whole "
                "payload as JSON text."
            )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and (fault := _unstorable(key)):
                raise ValueError(f"{name} has the key {key!a}, which holds {fault}")
            check_storable(f"{name}[{key!r}]", item)
    elif isinstance(value, (list, tuple, Set)):
        for index, item in enumerate(value):
            check_storable(f"{name}[{index}]", item)


def _unstorable(text: str) -> str | None:
    found = _UNSTORABLE.search(text)
    if found is None:
        return None
    what = "a NUL character" if found[0] == "\0" else "half a surrogate pair"
    return f"{what}, which Airflow cannot store in PostgreSQL. Leave it out, or encode the text, such as with base64."


def check_flag(name: str, value: Any) -> None:
    """
    Check an argument that is True or False.

    :param name: the argument's name.
    :param value: its value.
    :raises ValueError: it is something else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}.")


def check_seconds(name: str, value: Any, least: float = 0.0, most: float = MAX_SECONDS) -> None:
    """
    Check an argument that is a time in seconds.

    :param name: the argument's name.
    :param value: its value.
    :param least: the shortest that it may be; 0, the default, is too short itself.
    :param most: the longest that it may be; default: a year.
    :raises ValueError: it is no number, or out of these bounds.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (least <= value <= most and value > 0):
        bounds = f"from {least:.0f} to" if least else "greater than 0 and at most"
        year = " (a year)" if most == MAX_SECONDS else ""
        raise ValueError(f"{name} must be seconds, as a number {bounds} {most:.0f}{year}, not {value!r}.")


def check_async(async_: Any, async_timeout_seconds: Any) -> None:
    """
    Check ``async_`` with ``async_timeout_seconds``.

    :param async_: as in :class:`~airflow_provider_kernel.api.models.InvocationRequest`.
    :param async_timeout_seconds: as there.
    :raises ValueError: a wrong type, out of 10-3600, or a time-out for a synchronous call.
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
