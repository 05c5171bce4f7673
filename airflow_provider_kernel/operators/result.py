"""The result of an invocation, as Airflow stores it: XCom value, version, asset events."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AssetAlias, conf

from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.api.settings import shown
from airflow_provider_kernel.links.kernel import KernelInvocationLink
from airflow_provider_kernel.operators.xcom import (
    UnsupportedOutputError,
    check_key,
    check_output,
    json_type,
    read_output,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    from airflow_provider_kernel.api.models import Invocation
    from airflow_provider_kernel.hooks.kernel import KernelHook

log = logging.getLogger(__name__)
#: Bytes of output from which a warning says that Airflow's database is not made for it: every read of an XCom, and every
#: page that shows it, sends the whole of it through the API server.
LARGE_OUTPUT_BYTES = 1_000_000
#: Keys of the XComs that the task itself pushes. Airflow 2 skips tasks by the last one.
OWN_KEYS = frozenset(
    {"invocation_id", "app_version", KernelInvocationLink.key, "return_value", "skipmixin_key"}
)


@dataclass(frozen=True)
class ResultOptions:
    """
    What a task does with the result.

    :param kernel_conn_id: the Airflow connection, for error messages.
    :param outlets: the task's assets.
    :param do_xcom_push: whether Airflow pushes the result to XCom.
    :param multiple_outputs: whether each entry of the output becomes an XCom.
    :param is_mapped_over: whether another task is mapped over the output.
    """

    kernel_conn_id: str
    outlets: Sequence[Any]
    do_xcom_push: bool
    multiple_outputs: bool
    is_mapped_over: bool

    @classmethod
    def of(cls, task: BaseOperator, context: Context) -> ResultOptions:
        """Return the options of ``task``, an operator or sensor of this provider, for the task instance in ``context``."""
        is_mapped_over = task.has_dag() and next(task.iter_mapped_dependants(), None) is not None
        return cls(
            kernel_conn_id=task.kernel_conn_id,  # type: ignore[attr-defined]
            outlets=task.outlets,
            do_xcom_push=task.do_xcom_push,
            multiple_outputs=getattr(task, "multiple_outputs", False),
            is_mapped_over=is_mapped_over and getattr(context["ti"], "map_index", -1) in (None, -1),
        )


def record_result_metadata(
    context: Context, hook: KernelHook, invocation: Invocation, options: ResultOptions
) -> None:
    """
    Push the version that ran to XCom, if Kernel tells it, and add the invocation to the task's asset events.

    A failure is a warning.

    :param context: Airflow's.
    :param hook: on the task's connection.
    :param invocation: an invocation that has ended.
    :param options: of the task.
    """
    version = invocation.version
    if version is None and options.outlets:
        # The reply to a synchronous request does not tell it.
        try:
            version = hook.get_invocation(invocation.id).version
        except KernelError as error:
            log.warning("The version that Kernel invocation %s ran is unknown: %s", invocation.id, error)
    if version == "latest":
        version = None  # what was requested, not what ran
    if version is not None:
        log.info("Kernel invocation %s ran version %s of the app.", invocation.id, version)
        with _warning(f"The version of Kernel invocation {invocation.id} could not be pushed to XCom"):
            context["ti"].xcom_push(key="app_version", value=version)
    _mark_assets(context, invocation.id, version, options)
    if invocation.status == InvocationStatus.SUCCEEDED:
        _warn_of_size(invocation, options)


def return_output(invocation: Invocation, options: ResultOptions) -> Any:
    """
    Return the output of a succeeded invocation, as Airflow can store it, and log its size.

    :param invocation: the invocation.
    :param options: of the task.
    :raises AirflowFailException: Airflow cannot store the output; the sentence says what the action should return instead.
    """
    output = _xcom_value(invocation, options) if options.do_xcom_push else invocation.output
    text = invocation.raw_output
    size = "no output" if text is None else f"an output of {len(text):,} characters"
    log.info("Kernel invocation %s succeeded, with %s.", invocation.id, size)
    return output


def _xcom_value(invocation: Invocation, options: ResultOptions) -> Any:
    try:
        output, is_altered = read_output(invocation.raw_output)
        if is_altered:
            log.warning(
                "The output of Kernel invocation %s has characters that Airflow cannot store (NUL, or half a surrogate "
                "pair). Each is a question mark in XCom.",
                invocation.id,
            )
        check_output(output)
        if options.is_mapped_over:
            _check_mappable(output)
        return _separable(output) if options.multiple_outputs and output is not None else output
    except UnsupportedOutputError as error:
        raise AirflowFailException(
            f"Kernel invocation {invocation.id} succeeded, but Airflow cannot store its output as XCom: {error}. "
            f"The task is not retried, because the action would return the same. The output is still at Kernel: "
            f"KernelHook({shown(options.kernel_conn_id, 200)}).get_invocation({invocation.id!r}).output"
        ) from None


def _check_mappable(output: Any) -> None:
    """Check an output that tasks are mapped over, as Airflow does after the task has returned it."""
    if not isinstance(output, (list, dict)):
        raise UnsupportedOutputError(
            f"a task is mapped over it, and it is {json_type(output)}. Have the action return a list or an object"
        )
    limit = conf.getint("core", "max_map_length", fallback=1024)
    if len(output) > limit:
        raise UnsupportedOutputError(
            f"a task is mapped over it, and it has {len(output)} entries, and [core] max_map_length is {limit}. Have "
            "the action return fewer, or raise the limit"
        )


def _separable(output: Any) -> dict[str, Any]:
    """Return the entries of the output that become XComs: all but those with keys of the task's own XComs."""
    if not isinstance(output, dict):
        raise UnsupportedOutputError(
            f"with multiple_outputs it must be an object, and it is {json_type(output)}. Have the action return one, "
            "or leave out multiple_outputs"
        )
    for key in output:
        check_key(key)
    kept_out = sorted(OWN_KEYS & output.keys())
    if kept_out:
        log.warning(
            "The output has entries named %s, like this task's own XComs. The task does not push them. Have the action "
            "choose other names.",
            ", ".join(kept_out),
        )
    return {key: value for key, value in output.items() if key not in OWN_KEYS}


def _warn_of_size(invocation: Invocation, options: ResultOptions) -> None:
    size = len((invocation.raw_output or "").encode(errors="replace"))
    if size > LARGE_OUTPUT_BYTES and options.do_xcom_push and _xcom_is_in_database():
        log.warning(
            "The output of Kernel invocation %s is %.1f MB. Airflow stores it in its database, which is not made for XComs "
            "of more than %.0f MB. Have the action put the output into object storage and return its address, or have Airflow "
            "do so: set [core] xcom_backend to XComObjectStorageBackend, of the provider common.io, and [common.io] "
            "xcom_objectstorage_path and xcom_objectstorage_threshold.",
            invocation.id,
            size / 1e6,
            LARGE_OUTPUT_BYTES / 1e6,
        )


def return_without_waiting(context: Context, invocation_id: str | None, options: ResultOptions) -> str | None:
    """Return the id, which is the result with ``wait_for_completion=False``, and add it to the task's asset events."""
    if invocation_id is not None:
        _mark_assets(context, invocation_id, None, options)
    return invocation_id


def _mark_assets(context: Context, invocation_id: str, version: str | None, options: ResultOptions) -> None:
    """Add the invocation to the ``extra`` of the asset events of the task's outlets; what is there wins."""
    extra = {"invocation_id": invocation_id} | ({"app_version": version} if version else {})
    for outlet in options.outlets:
        with _warning(f"The asset event does not name Kernel invocation {invocation_id}"):
            event: Any = context["outlet_events"][outlet]
            _add(event.extra, extra)
            if isinstance(outlet, AssetAlias):
                # Assets that a pre_execute added. One that is added later can take the alias's own extra.
                for name in ("asset_alias_events", "dataset_alias_events"):  # in Airflow 3 and 2
                    for added in getattr(event, name, ()):
                        _add(added["extra"] if isinstance(added, dict) else added.extra, extra)


def _add(extra: dict[str, Any], more: Mapping[str, Any]) -> None:
    extra.update({**more, **extra})


def _xcom_is_in_database() -> bool:
    backend = str(conf.get("core", "xcom_backend", fallback=""))
    if backend.endswith(".XComObjectStorageBackend"):
        threshold: int = conf.getint("common.io", "xcom_objectstorage_threshold", fallback=-1)
        return threshold < 0  # object storage is not used
    return backend.endswith(".BaseXCom")


@contextmanager
def _warning(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a convenience; the invocation has ended, or runs
        log.warning("%s: %s", what, type(error).__name__)
