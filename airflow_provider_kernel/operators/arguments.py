"""The arguments of operator and sensor: checked when the Dag is parsed, and again after rendering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_kernel.api.arguments import (
    CONNECTION_MEANING,
    NAME_MEANING,
    VERSION_MEANING,
    check_async,
    check_flag,
    check_name,
    check_seconds,
    check_storable,
    is_template,
)
from airflow_provider_kernel.api.payload import (
    METADATA_FIELD_MEANING,
    check_metadata_field,
    encode_payload,
    parse_exactly,
)
from airflow_provider_kernel.operators.rendering import is_payload_file

try:
    from airflow.sdk.definitions._internal.mixins import ResolveMixin
    from airflow.sdk.definitions._internal.types import ArgNotSet
except ImportError:  # Airflow 2
    from airflow.utils.mixins import ResolveMixin  # type: ignore[no-redef]
    from airflow.utils.types import ArgNotSet  # type: ignore[attr-defined,no-redef]

#: The options of Jinja by which a Dag changes how a template begins.
_JINJA_MARKS = (
    "variable_start_string",
    "block_start_string",
    "comment_start_string",
    "line_statement_prefix",
    "line_comment_prefix",
)


def check_arguments(given: Mapping[str, Any]) -> None:
    """
    Check the operator's arguments, except those that contain a template.

    ``InvocationRequest`` checks these after rendering.

    :param given: the arguments, by their names; all, or some, and ``dag`` if it is known.
    :raises ValueError: an argument is wrong; the sentence says what to write instead.
    """
    check_names(
        given,
        app_name=NAME_MEANING,
        action_name=NAME_MEANING,
        version=VERSION_MEANING,
        kernel_conn_id=CONNECTION_MEANING,
    )
    if given.get("metadata_field") is not None:
        check_name("metadata_field", given["metadata_field"], METADATA_FIELD_MEANING)
    for name in ("op_args", "op_kwargs"):
        with suppress(RecursionError):  # Airflow says so when it serializes the Dag
            check_storable(name, given.get(name))
    if is_payload_file(given.get("payload")):
        check_storable("payload", given["payload"])
    elif "payload" in given:
        check_payload(given["payload"], given.get("metadata_field"), given.get("dag"))
    check_async(given.get("async_", True), given.get("async_timeout_seconds"))
    if given.get("on_lost_reply", "fail") not in ("fail", "resubmit"):
        raise ValueError(f"on_lost_reply must be 'fail' or 'resubmit', not {given['on_lost_reply']!r}.")
    for name in ("wait_for_completion", "deferrable", "follow_logs", "durable", "cancel_on_kill"):
        check_flag(name, given.get(name, True))
    if given.get("timeout") is not None:
        check_seconds("timeout", given["timeout"])
    check_seconds("poll_interval", given.get("poll_interval", 1))
    for name in ("capacity_timeout", "defer_after"):
        check_seconds(name, given.get(name, 0), least=0)
    if not given.get("async_", True) and not given.get("wait_for_completion", True):
        raise ValueError(
            "async_=False waits for the reply, so wait_for_completion=False has no meaning with it. "
            "Leave one of the two out."
        )
    if given.get("multiple_outputs") and not given.get("wait_for_completion", True):
        raise ValueError(
            "multiple_outputs=True splits the output, and with wait_for_completion=False the task returns the "
            "invocation's id instead of an output. Leave one of the two out."
        )


@contextmanager
def no_retry_if_mapped(task: Any) -> Iterator[None]:
    """
    Make a wrong argument fail a mapped task without a retry.

    Airflow creates the operator of a mapped task when the task runs, with the values that another task returned.

    :raises AirflowFailException: instead of a ValueError, for a mapped task.
    """
    try:
        yield
    except ValueError as error:
        if getattr(task, "_BaseOperator__from_mapped", False):
            raise AirflowFailException(str(error)) from error
        raise


def check_names(given: Mapping[str, Any], **meanings: str) -> None:
    """
    Check the arguments that are names or ids, except those that contain a template.

    :param given: the arguments, by their names.
    :param meanings: what to write as each argument, by the arguments' names.
    :raises ValueError: an argument is wrong.
    """
    for name in meanings.keys() & given.keys():
        if is_unrendered(given[name]):
            check_storable(name, given[name])
        else:
            check_name(name, given[name], meanings[name])


def check_payload(payload: Any, metadata_field: Any, dag: Any) -> None:
    """
    Check a payload when the Dag is parsed.

    :param payload: the argument of the operator.
    :param metadata_field: the argument of the operator.
    :param dag: the task's Dag; None if it is not known.
    :raises ValueError: the payload is not JSON, Airflow cannot store it, or ``metadata_field`` cannot be added to it.
    """
    if isinstance(payload, str):
        check_storable("payload", payload)
    if is_unrendered(payload, dag):
        return
    text = encode_payload(payload, partial(is_unrendered, is_whole=False), is_marked=True)
    if metadata_field is not None:
        check_metadata_field(metadata_field, None if text is None else parse_exactly(text))


def require_name(name: str, rendered: Any, meaning: str) -> None:
    """
    Check an argument that is a name or id, after rendering.

    :param name: the argument's name.
    :param rendered: its value.
    :param meaning: what to write as the argument.
    :raises AirflowFailException: the value is wrong.
    """
    try:
        check_name(name, rendered, meaning)
    except ValueError as error:
        raise AirflowFailException(str(error)) from error


def is_unrendered(value: Any, dag: Any = None, *, is_whole: bool = True) -> bool:
    """
    Return whether the value of an argument is known only when the task runs.

    Airflow renders templates, references such as an XComArg or ``literal()``, and callables. An operator replaces
    Airflow's NOTSET and SET_DURING_EXECUTION.

    :param value: an argument, or a value inside a payload.
    :param dag: the task's Dag, whose templates may have other marks than ``{{``, ``{%`` and ``{#``.
    :param is_whole: whether ``value`` is a whole template field; Airflow calls no callable inside one.
    """
    if is_whole and callable(value):
        return not hasattr(value, "expand")  # a @task that was not called
    if isinstance(value, str):
        return is_template(value) or any(mark in value for mark in _own_marks(dag))
    return isinstance(value, (ArgNotSet, ResolveMixin))


def _own_marks(dag: Any) -> list[str]:
    """Return the marks with which a template begins, by the Dag's ``jinja_environment_kwargs``."""
    options: Mapping[str, Any] = getattr(dag, "jinja_environment_kwargs", None) or {}
    return [mark for name in _JINJA_MARKS if (mark := options.get(name))]
