"""
Which outputs Airflow can carry as XCom. Pure; no I/O.

JSON allows more than Airflow carries, and SQLite and ``dag.test()`` show none of the limits. They were measured on
Airflow 3.3 with a worker, the API server and PostgreSQL: by writing each value, and reading it back in a task.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from airflow_provider_kernel.api.arguments import MAX_INTEGER, MIN_INTEGER
from airflow_provider_kernel.api.payload import JSONLimitError, parse_storable
from airflow_provider_kernel.api.text import shorten

#: A larger float, too: PostgreSQL returns it as an integer.
MIN_NUMBER, MAX_NUMBER = MIN_INTEGER, MAX_INTEGER
#: Airflow's API reads 200 levels of nested lists and dicts; its own messages, and what a user wraps around an
#: output, take some of them.
MAX_DEPTH = 150
#: Keys by which Airflow recognizes serialized objects: it refuses to write these ...
RESERVED_KEYS = ("__classname__", "__id__")
#: ... and reads a dict with both of these as something else.
OLD_RESERVED_KEYS = frozenset({"__type", "__var"})
#: Length in characters of the column of XCom's keys.
MAX_KEY_LENGTH = 512
#: Airflow puts the key into an address without quoting it; "a%20b" would be stored as "a b", and "../b/c"
#: as XCom of the task b.
_UNUSABLE_IN_KEY = re.compile(r"[\x00-\x1f\x7f?#]|(^|/)\.\.?(/|$)")
#: Length in characters at which a key is cut in a path.
_SHOWN_KEY_LENGTH = 40


class UnsupportedOutputError(ValueError):
    """Airflow cannot carry the output; the sentence names the path, and what the action should return."""


def read_output(text: str | None) -> tuple[Any, bool]:
    """
    Decode an output as :attr:`~airflow_provider_kernel.api.models.Invocation.output` does.

    :param text: Kernel's text; None if there is no output.
    :return: the value, and whether characters that Airflow cannot store were replaced in it.
    :raises UnsupportedOutputError: it is JSON beyond what Python reads.
    """
    if text is None:
        return None, False
    try:
        return parse_storable(text)
    except JSONLimitError as error:
        raise UnsupportedOutputError(
            f"{error}. Have the action return less depth, and long numbers as strings"
        ) from None
    except ValueError:
        return text, False


def check_output(output: Any) -> None:
    """
    Check that Airflow can write ``output`` as XCom and read the same again.

    :param output: a JSON value.
    :raises UnsupportedOutputError: it cannot.
    """
    # Each with its path: its key, and the path of what it is in.
    remaining: list[tuple[Any, int, Any]] = [(output, 0, None)]
    while remaining:
        value, depth, path = remaining.pop()
        if isinstance(value, (int, float)):
            if not MIN_NUMBER <= value <= MAX_NUMBER:
                raise UnsupportedOutputError(
                    f"{_shown(path)} is a number beyond 64 bits. Have the action return it as a string"
                )
            continue
        if not isinstance(value, (list, dict)):
            continue
        if depth == MAX_DEPTH:
            raise UnsupportedOutputError(
                f"it is nested more than {MAX_DEPTH} levels deep. Have the action return it flatter, or as JSON text"
            )
        if isinstance(value, dict):
            reserved = [key for key in RESERVED_KEYS if key in value]
            if not reserved and value.keys() >= OLD_RESERVED_KEYS:
                reserved = sorted(OLD_RESERVED_KEYS)
            if reserved:
                raise UnsupportedOutputError(
                    f"{_shown(path)} has the key {' and '.join(map(repr, reserved))}, which Airflow keeps for its "
                    "serialized objects. Have the action choose another name"
                )
        items = value.items() if isinstance(value, dict) else enumerate(value)
        remaining.extend((item, depth + 1, (key, path)) for key, item in items)


def check_key(key: str) -> None:
    """
    Check that an entry of the output can be an XCom of its own.

    :param key: the entry's key.
    :raises UnsupportedOutputError: Airflow takes no such key, or finds its XCom under another.
    """
    is_usable = not _UNUSABLE_IN_KEY.search(key) and unquote(key) == key
    if not (0 < len(key) <= MAX_KEY_LENGTH and is_usable):
        raise UnsupportedOutputError(
            f"with multiple_outputs each key becomes the key of an XCom, and {_shown((key, None))} cannot: it must have "
            f"1 to {MAX_KEY_LENGTH} characters, and none that has a meaning in an address. Have the action return other keys, or leave "
            "out multiple_outputs"
        )


def json_type(value: Any) -> str:
    """Return what JSON calls the type of ``value``, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "an array"
    return "an object" if isinstance(value, dict) else "a number"


def _shown(path: Any) -> str:
    keys = []
    while path is not None:
        key, path = path
        if isinstance(key, str) and len(key) > _SHOWN_KEY_LENGTH:
            key = key[: _SHOWN_KEY_LENGTH - 1] + "…"
        keys.append(f"[{key!r}]")
    return "output" + shorten("".join(reversed(keys)))
