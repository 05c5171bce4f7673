"""What can be said of the operator's arguments when the Dag is parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from airflow_provider_kernel.api.arguments import (
    CONNECTION_MEANING,
    VERSION_MEANING,
    check_async,
    check_flag,
    check_name,
    check_seconds,
    is_template,
)
from airflow_provider_kernel.api.payload import KEY_FIELD_MEANING, check_key_field, encode_payload, parse_json


class Later(Enum):
    """Stands for what is only known at run time; an enum, for that is the same again after a copy."""

    PAYLOAD = "what the decorated function returns"


def check_arguments(given: Mapping[str, Any], template_ext: Sequence[str] = ()) -> None:
    """
    Check those of the operator's arguments that are in ``given``, as far as they hold no template.

    What still holds one is checked when it is rendered, by ``InvocationRequest``.

    :param template_ext: how the name of a payload file ends.
    :raises ValueError: an argument cannot be right; the sentence says what to write instead.
    """
    for name, *meaning in (
        ("app_name",),
        ("action_name",),
        ("version", VERSION_MEANING),
        ("kernel_conn_id", CONNECTION_MEANING),
    ):
        if name in given and not is_unrendered(given[name]):
            check_name(name, given[name], *meaning)
    if given.get("payload_key_field") is not None:
        check_name("payload_key_field", given["payload_key_field"], KEY_FIELD_MEANING)
    if "payload" in given and not is_file(given["payload"], template_ext):
        check_payload(given["payload"], given.get("payload_key_field"))
    check_async(given.get("async_", True), given.get("async_timeout_seconds"))
    if given.get("on_lost_reply", "fail") not in ("fail", "resubmit"):
        raise ValueError(f"on_lost_reply must be 'fail' or 'resubmit', not {given['on_lost_reply']!r}.")
    for name in ("wait_for_completion", "deferrable", "follow_logs", "durable", "cancel_on_kill"):
        check_flag(name, given.get(name, True))
    if given.get("timeout") is not None:
        check_seconds("timeout", given["timeout"])
    check_seconds("poll_interval", given.get("poll_interval", 1))
    if given.get("capacity_timeout", 0) != 0:
        check_seconds("capacity_timeout", given["capacity_timeout"])
    if not given.get("async_", True) and not given.get("wait_for_completion", True):
        raise ValueError(
            "async_=False waits for the reply, so wait_for_completion=False has no meaning with it. "
            "Leave one of the two out."
        )
    if given.get("multiple_outputs") and not given.get("wait_for_completion", True):
        raise ValueError(
            "multiple_outputs=True takes the output apart, and with wait_for_completion=False the task has none, but "
            "returns the invocation's id. Leave one of the two out."
        )


def check_payload(payload: Any, key_field: Any) -> None:
    """
    Check a payload, and whether it can take a key.

    :raises ValueError: it is no JSON, or cannot.
    """
    text = encode_payload(payload, is_unrendered)
    if key_field is not None and not is_unrendered(payload):
        check_key_field(key_field, None if text is None else parse_json(text))


def is_unrendered(value: Any) -> bool:
    """Tell whether ``value`` is a template, or a reference such as an XComArg, that is only known at run time."""
    if isinstance(value, str):
        return is_template(value)
    return isinstance(value, Later) or hasattr(value, "iter_references")


def is_file(payload: Any, template_ext: Sequence[str]) -> bool:
    """Tell whether ``payload`` is the name of a file that holds the payload."""
    return isinstance(payload, str) and payload.endswith(tuple(template_ext))
