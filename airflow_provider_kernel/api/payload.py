"""Payloads and outputs as JSON text. No I/O."""

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

from airflow_provider_kernel.api.arguments import check_name, storage_problem
from airflow_provider_kernel.api.payload_mark import MARK_LENGTH

#: Largest payload that Kernel accepts, in bytes of UTF-8. Its documentation says 4.5 MB; this is the smaller meaning.
MAX_PAYLOAD_BYTES = 4_500_000
#: What to write as ``metadata_field``.
METADATA_FIELD_MEANING = "the name of the field that is added to the payload"
# Not compiled here, which would take milliseconds of every parse of a Dag file.
#: Escapes of NUL and of surrogates; those of a whole pair match, too.
_MAYBE_UNSTORABLE = r"\\u(?:[dD][89a-fA-F]|0000)"
#: JSON text without such escapes except those of whole pairs.
_STORABLE = r"(?s)(?:[^\\]+|\\(?:[^u]|u(?!0000|[dD][89a-fA-F])|u[dD][89abAB]..\\u[dD][c-fC-F]))*+"
#: How to convert a value of these classes; the first class that matches counts.
_CONVERSIONS: tuple[tuple[Any, str], ...] = (
    ((date, time), ".isoformat()"),
    (timedelta, ".total_seconds()"),
    (Decimal, "str(…), or float(…) where that is exact enough"),
    ((UUID, PurePath), "str(…)"),
    (Enum, ".value"),
    ((bytes, bytearray, memoryview), ".decode(), or base64.b64encode(…).decode()"),
)


class JSONLimitError(ValueError):
    """The text is JSON, but Python cannot read it."""


class _NaNError(ValueError):
    """The text has NaN or Infinity, which are not JSON; Python's parser accepts them."""


def _refuse_nan(constant: str) -> Any:
    raise _NaNError(f"{constant} is not JSON")


#: json.loads would make a new one for each text.
_STRICT = json.JSONDecoder(parse_constant=_refuse_nan)


def parse_json(text: str) -> Any:
    """
    Parse strict JSON: without NaN and Infinity, which Python's parser accepts.

    NUL and half a surrogate pair become question marks, in keys too: Airflow can store neither, nor report an exception
    with one. JavaScript leaves half a surrogate pair if it cuts a string within an emoji.

    :param text: the JSON.
    :return: the value.
    :raises JSONLimitError: ``text`` is nested too deeply, or has an integer of thousands of digits.
    :raises ValueError: ``text`` is not JSON.
    """
    return parse_storable(text)[0]


def parse_storable(text: str) -> tuple[Any, bool]:
    """Return the value as :func:`parse_json` does, and whether characters were replaced in it."""
    value = parse_exactly(text)
    # Not by what was decoded: that would be several copies of an output, which may have hundreds of megabytes.
    if not re.search(_MAYBE_UNSTORABLE, text) or re.fullmatch(_STORABLE, text):
        return value, False
    try:
        exact = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise JSONLimitError("the JSON is nested too deeply") from None
    text = exact.encode(errors="replace").decode()
    # Set aside each backslash that is data, which JSON writes twice, as NUL, which json.dumps never writes.
    text = text.replace("\\\\", "\0").replace("\\u0000", "?").replace("\0", "\\\\")
    if text == exact:
        return value, False
    return json.loads(text, object_pairs_hook=_without_equal_keys), True


def _without_equal_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object. A key that replacing made equal to another gets question marks, then a number."""
    found: dict[str, Any] = {}
    added: dict[str, int] = {}
    for name, value in pairs:
        key, number = name, added.get(name, 0)
        while key in found:  # starts at the last number of this name: all keys may be equal
            number += 1
            key = name + ("?" * number if number < 4 else f"???{number}")
        added[name] = number
        found[key] = value
    return found


def parse_exactly(text: str) -> Any:
    """Parse strict JSON as :func:`parse_json` does, but replace no character."""
    try:
        return _STRICT.decode(text)
    except RecursionError:
        raise JSONLimitError("the JSON is nested too deeply") from None
    except (json.JSONDecodeError, _NaNError):
        raise
    except ValueError:
        raise JSONLimitError("the JSON has an integer of thousands of digits") from None


def encode_payload(
    payload: Any, is_unrendered: Callable[[Any], bool] | None = None, *, is_marked: bool = False
) -> str | None:
    """
    Return ``payload`` as JSON text.

    :param payload: any JSON value; a string must be JSON text; None is no payload.
    :param is_unrendered: given when the Dag is parsed: returns whether a value inside the payload is known only when the
        task runs. The payload's strings and integers are then also checked for what Airflow cannot store.
    :param is_marked: whether the limit counts the mark that is added to the text.
    :return: the text; None if there is no payload.
    :raises ValueError: the payload is not a JSON value (the sentence names the path), not JSON text, or over 4.5 MB.
    """
    if payload is None:
        return None
    if isinstance(payload, str):
        try:
            parse_exactly(payload)
        except ValueError as error:
            raise ValueError(
                f"payload is a string that is not JSON text ({error}). Pass the value itself (a dict, a list, …), or the "
                "result of json.dumps; use json.dumps also for a payload that is a plain string. A template of a dict "
                "or list needs the filter tojson, or a Dag with render_template_as_native_obj."
            ) from None
        text = payload
    else:
        try:
            if problem := _problem(payload, is_unrendered):
                raise ValueError(f"payload{problem}")
            text = json.dumps(payload, default=_plain, ensure_ascii=False, separators=(",", ":"))
        except RecursionError:
            raise ValueError("payload is nested too deeply, or contains itself.") from None
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(
            "payload holds half a surrogate pair, which is not Unicode text. Leave it out, or encode the text, for example "
            "with base64."
        ) from None
    if size + (MARK_LENGTH if is_marked else 0) > MAX_PAYLOAD_BYTES:
        raise ValueError(
            f"payload is {size / 1e6:.1f} MB of JSON, and Kernel accepts {MAX_PAYLOAD_BYTES / 1e6} MB at most. "
            "Put the data into object storage and pass its address."
        )
    return text


def payload_digest(payload: str | None) -> str | None:
    """
    Return a digest that is the same for equal JSON values, however they are written.

    :param payload: JSON text; None for no payload.
    """
    if payload is None:
        return None
    with suppress(ValueError, RecursionError):  # Python cannot read it: the digest of the text itself
        payload = json.dumps(parse_exactly(payload), sort_keys=True)
    return hashlib.sha256(payload.encode(errors="replace")).hexdigest()


def is_nothing(rendered: Any) -> bool:
    """Return whether a rendered payload is None, the text ``None`` or ``null``, or an empty text."""
    return rendered is None or (isinstance(rendered, str) and rendered.strip() in ("", "None", "null"))


def check_metadata_field(metadata_field: Any, payload: Any) -> None:
    """
    Check that a field can be added to a payload.

    :param metadata_field: the name of the field.
    :param payload: the payload, decoded.
    :raises ValueError: the payload is not a JSON object, or has that field already.
    """
    check_name("metadata_field", metadata_field, METADATA_FIELD_MEANING)
    if not isinstance(payload, Mapping):
        raise ValueError(
            f"metadata_field adds a field to the payload, so the payload must be a dict (a JSON object), not "
            f"{'missing' if payload is None else type(payload).__name__}. Pass a dict, {{}} if the action needs no input."
        )
    if metadata_field in payload:
        raise ValueError(
            f"The payload already has the field {metadata_field!r}, which metadata_field would add. Choose another name."
        )


def _problem(value: Any, is_unrendered: Callable[[Any], bool] | None) -> str | None:
    """Return the path in a payload to what cannot be sent, or stored with the Dag, and why; None if there is nothing."""
    if value is None or isinstance(value, (str, int)):
        return storage_problem(value) if is_unrendered else None
    if isinstance(value, float):
        return None if math.isfinite(value) else f" is {value}, which JSON cannot hold. Use None or a string."
    if is_unrendered and is_unrendered(value):
        return None
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                return f" has the key {key!r}; the keys of a JSON object are strings. Convert it with str(…)."
            if is_unrendered and storage_problem(key):
                return f" has the key {key!a}, which{storage_problem(key)}"
            if problem := _problem(item, is_unrendered):
                return f"[{key!r}]{problem}"
        return None
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        for index, item in enumerate(value):
            if problem := _problem(item, is_unrendered):
                return f"[{index}]{problem}"
        return None
    return f" is a {_class_name(value)}, which JSON cannot hold. {_conversion(value)}"


def _plain(value: Any) -> Any:
    """Return a value that json.dumps does not know as a dict or list; None for one that is known only later."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) else None


def _class_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _conversion(value: Any) -> str:
    """Return a sentence on how to convert ``value`` to JSON. Libraries are recognized by methods, and not imported."""
    for kinds, conversion in _CONVERSIONS:
        if isinstance(value, kinds):
            return f"Convert it with {conversion}."

    def has(*names: str) -> bool:
        return all(hasattr(value, name) for name in names)

    if has("function", "expand"):  # of @task
        return "Call the task, so that its output is the payload."
    if has("task_id", "output"):
        return "Write .output to pass the task's output."
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
