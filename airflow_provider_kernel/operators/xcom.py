"""
The outputs that Airflow can store as XCom. No I/O.

JSON allows more than Airflow can store. SQLite and ``dag.test()`` show none of the limits. The limits were measured on
Airflow 3.3 with a worker, the API server and PostgreSQL: a task wrote each value, and another read it.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from airflow_provider_kernel.api.arguments import MAX_INTEGER, MIN_INTEGER
from airflow_provider_kernel.api.payload import JSONLimitError, parse_storable
from airflow_provider_kernel.api.text import shorten

#: Smallest and largest number; of floats, too, because PostgreSQL returns a large float as an integer.
MIN_NUMBER, MAX_NUMBER = MIN_INTEGER, MAX_INTEGER
#: Most levels of nested lists and dicts. Airflow's API reads 200; its own messages, and a user's dict around an output,
#: take some of them.
MAX_DEPTH = 150
#: Keys of Airflow's serialized objects. Airflow refuses to write a dict with one of these.
RESERVED_KEYS = ("__classname__", "__id__")
#: Keys of older serialized objects. Airflow reads a dict with both as another value.
OLD_RESERVED_KEYS = frozenset({"__type", "__var"})
#: Length of the database column of XCom keys, in characters.
MAX_KEY_LENGTH = 512
#: What a key must not contain. Airflow puts the key into a URL without quoting it: it would store "a%20b" as "a b", and
#: "../b/c" as XCom of the task b.
_UNUSABLE_IN_KEY = re.compile(r"[\x00-\x1f\x7f?#]|(^|/)\.\.?(/|$)")
#: Length at which a key is cut in an error, in characters.
_SHOWN_KEY_LENGTH = 40


class UnsupportedOutputError(ValueError):
    """Airflow cannot store the output as XCom; the sentence names the path, and what the action should return."""


def read_output(text: str | None) -> tuple[Any, bool]:
    """
    Decode an output as :attr:`~airflow_provider_kernel.api.models.Invocation.output` does.

    :param text: the output as Kernel returns it; None if there is none.
    :return: the value, and whether characters that Airflow cannot store were replaced in it.
    :raises UnsupportedOutputError: the output is JSON that Python cannot read.
    """
    if text is None:
        return None, False
    try:
        return parse_storable(text)
    except JSONLimitError as error:
        raise UnsupportedOutputError(
            f"{error}. Have the action return fewer levels, and long numbers as strings"
        ) from None
    except ValueError:
        return text, False


def check_output(output: Any) -> None:
    """
    Check that Airflow can store ``output`` as XCom, and reads the same value again.

    :param output: a JSON value.
    :raises UnsupportedOutputError: Airflow cannot.
    """
    # Each entry: a value, its depth, and its path, which is its key and the path of its parent.
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
                f"it is nested more than {MAX_DEPTH} levels deep. Have the action return fewer levels, or JSON text"
            )
        if isinstance(value, dict):
            reserved = [key for key in RESERVED_KEYS if key in value]
            if not reserved and value.keys() >= OLD_RESERVED_KEYS:
                reserved = sorted(OLD_RESERVED_KEYS)
            if reserved:
                raise UnsupportedOutputError(
                    f"{_shown(path)} has the key {' and '.join(map(repr, reserved))}, which Airflow reserves for "
                    "its serialized objects. Have the action choose another name"
                )
        items = value.items() if isinstance(value, dict) else enumerate(value)
        remaining.extend((item, depth + 1, (key, path)) for key, item in items)


def check_key(key: str) -> None:
    """
    Check that an entry of the output can be an XCom of its own, for ``multiple_outputs``.

    :param key: the entry's key.
    :raises UnsupportedOutputError: Airflow refuses the key, or stores its XCom under another.
    """
    is_usable = not _UNUSABLE_IN_KEY.search(key) and unquote(key) == key
    if not (0 < len(key) <= MAX_KEY_LENGTH and is_usable):
        raise UnsupportedOutputError(
            f"with multiple_outputs each key becomes the key of an XCom, and that of {_shown((key, None))} cannot: it must "
            f"have 1 to {MAX_KEY_LENGTH} characters, and none with a meaning in a URL. Have the action return other keys, "
            "or leave out multiple_outputs"
        )


def json_type(value: Any) -> str:
    """Return JSON's name for the type of ``value``, with its article."""
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
