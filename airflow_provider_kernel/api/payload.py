"""A payload as JSON text, and an output out of it. Pure; no I/O."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from airflow_provider_kernel.api.arguments import check_name
from airflow_provider_kernel.api.payload_mark import MARK_LENGTH

#: Largest payload that Kernel takes, in bytes of UTF-8 ("4.5 MB", read as the smaller of its meanings).
MAX_PAYLOAD_BYTES = 4_500_000
#: What to write as ``metadata_field``.
METADATA_FIELD_MEANING = "the name under which the key is to be added to the payload"
#: Escapes of half a surrogate pair and of NUL; whole pairs match, too.
_MAYBE_UNSTORABLE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
#: What to write for a value of these classes; for one of several, the first counts.
_CONVERSIONS: tuple[tuple[Any, str], ...] = (
    ((date, time), ".isoformat()"),
    (timedelta, ".total_seconds()"),
    (Decimal, "str(…), or float(…) where that is exact enough"),
    ((UUID, PurePath), "str(…)"),
    (Enum, ".value"),
    ((bytes, bytearray, memoryview), ".decode(), or base64.b64encode(…).decode()"),
)


class JSONLimitError(ValueError):
    """The text is JSON, but beyond what Python reads."""


class _NaNError(ValueError):
    """NaN and Infinity, which Python's parser takes for JSON."""


def _refuse_nan(constant: str) -> Any:
    raise _NaNError(f"{constant} is not JSON")


def parse_json(text: str) -> Any:
    """
    Parse strict JSON: NaN and Infinity, which Python's parser accepts, are refused.

    NUL, and half of a surrogate pair, such as JavaScript leaves of an emoji that it cuts, become question marks, in
    keys too: Airflow can store neither, nor report an exception that holds one.

    :param text: the JSON.
    :return: the value.
    :raises JSONLimitError: ``text`` is nested too deeply, or has an integer of thousands of digits.
    :raises ValueError: ``text`` is not JSON.
    """
    return parse_storable(text)[0]


def parse_storable(text: str) -> tuple[Any, bool]:
    """Return what :func:`parse_json` does, and whether it replaced characters."""
    value = parse_exactly(text)
    if not _MAYBE_UNSTORABLE.search(text):
        return value, False
    try:
        exact = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise JSONLimitError("the JSON is nested too deeply") from None
    text = exact.encode(errors="replace").decode()
    # A backslash that is data is written twice. It is set aside as NUL, which dumps leaves nowhere.
    text = text.replace("\\\\", "\0").replace("\\u0000", "?").replace("\0", "\\\\")
    if text == exact:
        return value, False
    return json.loads(text, object_pairs_hook=_with_all), True


def _with_all(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object, with question marks, then numbers, where replacing has made several keys the same."""
    found: dict[str, Any] = {}
    added: dict[str, int] = {}
    for name, value in pairs:
        key, number = name, added.get(name, 0)
        while key in found:  # going on where the last of this name has stopped: all of them may be the same
            number += 1
            key = name + ("?" * number if number < 4 else f"???{number}")
        added[name] = number
        found[key] = value
    return found


def parse_exactly(text: str) -> Any:
    """As :func:`parse_json`, but replace nothing."""
    try:
        return json.loads(text, parse_constant=_refuse_nan)
    except RecursionError:
        raise JSONLimitError("the JSON is nested too deeply") from None
    except (json.JSONDecodeError, _NaNError):
        raise
    except ValueError:
        raise JSONLimitError("the JSON has an integer of thousands of digits") from None


def encode_payload(
    payload: Any, unrendered: Callable[[Any], bool] = lambda value: False, *, is_marked: bool = False
) -> str | None:
    """
    Return ``payload`` as JSON text.

    :param payload: any JSON value; a string is taken for JSON text already, None for no payload.
    :param unrendered: tells of a value that it will only be known later (a template), and is not checked.
    :param is_marked: whether the limit counts the mark that is added to the text.
    :return: the text; None if there is no payload, or it will only be known later.
    :raises ValueError: it is no JSON value (the sentence names the key), no JSON text, or over 4.5 MB.
    """
    if payload is None or unrendered(payload):
        return None
    if isinstance(payload, str):
        try:
            parse_exactly(payload)
        except ValueError as error:
            raise ValueError(
                f"payload is a string that is not JSON text ({error}). Pass the value itself (a dict, a list, …) "
                "or the text that json.dumps makes of it; json.dumps too for a payload that is a mere string. "
                "A template of a dict or list needs the filter tojson, or a Dag with render_template_as_native_obj."
            ) from None
        text = payload
    else:
        try:
            text = json.dumps(
                _json_value(payload, "payload", unrendered), ensure_ascii=False, separators=(",", ":")
            )
        except RecursionError:
            raise ValueError("payload is nested too deeply, or contains itself.") from None
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(
            "payload holds a character that is no Unicode text (half a surrogate pair)."
        ) from None
    if size + (MARK_LENGTH if is_marked else 0) > MAX_PAYLOAD_BYTES:
        raise ValueError(
            f"payload is {size / 1e6:.1f} MB of JSON, and Kernel takes {MAX_PAYLOAD_BYTES / 1e6} MB at most. "
            "Put the data into object storage and pass its address."
        )
    return text


def payload_digest(payload: str | None) -> str | None:
    """
    Return a text that is the same for equal JSON values, however they are written, and does not tell the value.

    :param payload: JSON text; None for no payload.
    """
    if payload is None:
        return None
    with suppress(ValueError, RecursionError):  # beyond what Python reads: compared as it is written
        payload = json.dumps(parse_exactly(payload), sort_keys=True)
    return hashlib.sha256(payload.encode(errors="replace")).hexdigest()


def is_nothing(rendered: Any) -> bool:
    """Return whether a rendered payload is None, the text ``None`` or ``null``, or an empty text."""
    return rendered is None or (isinstance(rendered, str) and rendered.strip() in ("", "None", "null"))


def check_metadata_field(metadata_field: Any, payload: Any) -> None:
    """
    Check that a payload can take a key.

    :param metadata_field: the name under which it is to be added.
    :param payload: the payload, decoded.
    :raises ValueError: it is no JSON object, or has that name already.
    """
    check_name("metadata_field", metadata_field, METADATA_FIELD_MEANING)
    if not isinstance(payload, Mapping):
        raise ValueError(
            f"metadata_field adds a key to the payload, so that must be a dict (a JSON object), not "
            f"{'missing' if payload is None else type(payload).__name__}. Pass a dict, {{}} if there is nothing to say."
        )
    if metadata_field in payload:
        raise ValueError(
            f"The payload has {metadata_field!r} already, under which metadata_field would add its key. Choose another name."
        )


def _json_value(value: Any, path: str, unrendered: Callable[[Any], bool]) -> Any:
    """Return ``value`` with plain lists and dicts only, or raise with the path to what is no JSON."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise ValueError(f"{path} is {value}, which JSON cannot hold. Use None or a string.")
    if unrendered(value):
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{path} has the key {key!r}; the keys of a JSON object are strings.")
        return {key: _json_value(item, f"{path}[{key!r}]", unrendered) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [_json_value(item, f"{path}[{index}]", unrendered) for index, item in enumerate(value)]
    raise ValueError(f"{path} is a {_class_name(value)}, which JSON cannot hold. {_what_to_write(value)}")


def _class_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _what_to_write(value: Any) -> str:
    """Return a sentence on what makes JSON of ``value``. Libraries are known by their methods, and not loaded."""
    for kinds, conversion in _CONVERSIONS:
        if isinstance(value, kinds):
            return f"Convert it with {conversion}."

    def has(*names: str) -> bool:
        return all(hasattr(value, name) for name in names)

    if has("function", "expand"):  # of @task
        return "Call the task: its output is the payload then."
    if has("task_id", "output"):
        return "Write .output for what the task returns."
    if callable(value):
        return "Airflow calls only a function that is the payload as a whole: payload=make_payload."
    if is_dataclass(value):
        return "Convert it with dataclasses.asdict(…)."
    if has("model_dump"):  # of Pydantic
        return 'Convert it with .model_dump(mode="json").'
    if has("to_dict", "columns"):  # of pandas
        return 'Convert it with .to_dict("records").'
    if has("item", "ndim") and value.ndim == 0:  # of NumPy
        return "Convert it with .item()."
    if has("tolist"):
        return "Convert it with .tolist()."
    if isinstance(value, Iterable):
        return "Convert it with list(…)."
    return "Make it a dict, list, string, number, bool or None."
