"""What can be said of the arguments of operator and sensor: when the Dag is parsed, and once they are rendered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

try:
    from airflow.sdk.definitions._internal.mixins import ResolveMixin
    from airflow.sdk.definitions._internal.types import ArgNotSet
except ImportError:  # Airflow 2
    from airflow.utils.mixins import ResolveMixin  # type: ignore[no-redef]
    from airflow.utils.types import ArgNotSet  # type: ignore[attr-defined,no-redef]


#: Stands for an argument that is set when the task runs; Airflow's own NOTSET or SET_DURING_EXECUTION will do, too.
SET_DURING_EXECUTION = ArgNotSet()
#: Jinja's options by which a Dag marks its templates otherwise.
_JINJA_MARKS = (
    "variable_start_string",
    "block_start_string",
    "comment_start_string",
    "line_statement_prefix",
    "line_comment_prefix",
)


def check_arguments(given: Mapping[str, Any], template_ext: Sequence[str] = ()) -> None:
    """
    Check those of the operator's arguments that are in ``given``, as far as they hold no template.

    What still holds one is checked when it is rendered, by ``InvocationRequest``.

    :param given: by their names; ``dag`` among them, where it is known.
    :param template_ext: how the name of a payload file ends.
    :raises ValueError: an argument cannot be right; the sentence says what to write instead.
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
    for name in ("payload", "op_args", "op_kwargs"):
        with suppress(RecursionError):  # check_payload says so
            check_storable(name, given.get(name))
    if "payload" in given and not is_file(given["payload"], template_ext):
        check_payload(given["payload"], given.get("metadata_field"), given.get("dag"))
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


@contextmanager
def no_retry_if_mapped(task: Any) -> Iterator[None]:
    """
    Fail a task for good whose item, which another task returned, cannot be right: it is checked when the task runs.

    :raises AirflowFailException: instead of a ValueError, where Airflow makes the operator of a mapped one.
    """
    try:
        yield
    except ValueError as error:
        if getattr(task, "_BaseOperator__from_mapped", False):
            raise AirflowFailException(str(error)) from error
        raise


def check_names(given: Mapping[str, Any], **meanings: str) -> None:
    """
    Check those texts that name something and are in ``given``, as far as they hold no template.

    :param meanings: what to write, by the arguments' names.
    :raises ValueError: one of them cannot be right.
    """
    for name in meanings.keys() & given.keys():
        if is_unrendered(given[name]):
            check_storable(name, given[name])
        else:
            check_name(name, given[name], meanings[name])


def check_payload(payload: Any, metadata_field: Any, dag: Any) -> None:
    """
    Check a payload, and whether it can take a key.

    :param dag: whose task it is of; None if it is not known.
    :raises ValueError: it is no JSON, or cannot.
    """
    if is_unrendered(payload, dag):
        return
    text = encode_payload(payload, partial(is_unrendered, is_whole=False), is_marked=True)
    if metadata_field is not None:
        check_metadata_field(metadata_field, None if text is None else parse_exactly(text))


def require_name(name: str, rendered: Any, meaning: str) -> None:
    """
    Check a text that names something, once it is rendered.

    :raises AirflowFailException: it cannot be right.
    """
    try:
        check_name(name, rendered, meaning)
    except ValueError as error:
        raise AirflowFailException(str(error)) from error


def is_unrendered(value: Any, dag: Any = None, *, is_whole: bool = True) -> bool:
    """
    Return whether the value of an argument is only known at run time.

    That is what Airflow renders: a template, a reference such as an XComArg or ``literal()``, and a callable. And it is
    Airflow's NOTSET or SET_DURING_EXECUTION, in whose place an operator puts something when it runs.

    :param value: an argument, or what is within a payload.
    :param dag: whose task it is of, for a text: the Dag's templates may be marked in a way of its own.
    :param is_whole: whether it is the whole of a template field; Airflow calls no callable within one.
    """
    if is_whole and callable(value):
        return not hasattr(value, "expand")  # a @task that was not called
    if isinstance(value, str):
        return is_template(value) or any(mark in value for mark in _own_marks(dag))
    return isinstance(value, (ArgNotSet, ResolveMixin))


def _own_marks(dag: Any) -> list[str]:
    """Return the marks at which a template begins, by the Dag's ``jinja_environment_kwargs``."""
    options: Mapping[str, Any] = getattr(dag, "jinja_environment_kwargs", None) or {}
    return [mark for name in _JINJA_MARKS if (mark := options.get(name))]


def is_file(payload: Any, template_ext: Sequence[str]) -> bool:
    """Tell whether ``payload`` is the name of a file that holds the payload."""
    return isinstance(payload, str) and payload.endswith(tuple(template_ext))
