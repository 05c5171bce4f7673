"""What a task tells Airflow of its invocation beside the output. Whatever fails here is a warning."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

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
    from collections.abc import Iterator

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.api.models import Invocation
    from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
    from airflow_provider_kernel.sensors.kernel import KernelInvocationSensor

    Task: TypeAlias = KernelInvokeOperator | KernelInvocationSensor

log = logging.getLogger(__name__)
#: Bytes of output above which Airflow's database is no good place for it: every read of an XCom, and each page
#: that shows it, carries it through the API server as a whole.
LARGE_OUTPUT_BYTES = 1_000_000
#: Keys of the XComs that a task pushes beside the entries of its output; the last is Airflow 2's, which skips by it.
OWN_KEYS = frozenset(
    {"invocation_id", "app_version", KernelInvocationLink.key, "return_value", "skipmixin_key"}
)


def record_result_metadata(task: Task, context: Context, invocation: Invocation) -> None:
    """
    Tell which version ran, as far as Kernel says it, and have the task's asset events name the invocation.

    :param invocation: it has ended.
    """
    version = invocation.version
    if version is None and task.outlets:
        # The reply to a request that waits for the end does not say it.
        try:
            version = task.hook.get_invocation(invocation.id).version
        except KernelError as error:
            log.warning("Kernel could not be asked which version ran: %s", error)
    if version == "latest":
        version = None  # as it was asked for, which tells nothing
    if version is not None:
        log.info("Kernel invocation %s ran version %s of the app.", invocation.id, version)
        with _warning("Its version could not be pushed to XCom"):
            context["ti"].xcom_push(key="app_version", value=version)
    _mark_assets(task, context, invocation.id, version)
    if invocation.status == InvocationStatus.SUCCEEDED:
        _warn_of_size(task, invocation)


def xcom_value(task: Task, context: Context, invocation: Invocation) -> Any:
    """
    Return the output of a succeeded invocation, as Airflow can carry it.

    :raises AirflowFailException: it cannot; with what the action should return instead.
    """
    if not task.do_xcom_push:
        return invocation.output
    try:
        output, is_altered = read_output(invocation.raw_output)
        if is_altered:
            log.warning(
                "The output of Kernel invocation %s has characters that Airflow cannot store (NUL, or half a surrogate "
                "pair). Each is a question mark in XCom.",
                invocation.id,
            )
        check_output(output)
        _check_mapping(task, context, output)
        return (
            _separable(output) if getattr(task, "multiple_outputs", False) and output is not None else output
        )
    except UnsupportedOutputError as error:
        raise AirflowFailException(
            f"Kernel invocation {invocation.id} succeeded, but Airflow cannot carry its output as XCom: {error}. "
            f"The task is not retried, for the action would return the same. The output is still at Kernel: "
            f"KernelHook({shown(task.kernel_conn_id, 200)}).get_invocation({invocation.id!r}).output"
        ) from None


def _check_mapping(task: Task, context: Context, output: Any) -> None:
    """Check the output that tasks are mapped over, as Airflow does once the task has returned it."""
    is_mapped_over = task.has_dag() and next(task.iter_mapped_dependants(), None) is not None
    if not is_mapped_over or context["ti"].map_index not in (None, -1):
        return
    if not isinstance(output, (list, dict)):
        raise UnsupportedOutputError(
            f"a task is mapped over it, and it is {json_type(output)}. Have the action return a list or an object"
        )
    limit = conf.getint("core", "max_map_length", fallback=1024)
    if len(output) > limit:
        raise UnsupportedOutputError(
            f"a task is mapped over it, and it has {len(output)} entries where [core] max_map_length is {limit}. Have "
            "the action return fewer, or raise the limit"
        )


def _separable(output: Any) -> dict[str, Any]:
    """Return the output, each entry of which becomes an XCom, without those that would take the place of ours."""
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
            "The output has entries named %s, as this task's own XComs are. They are left out of XCom; have the action "
            "choose other names.",
            ", ".join(kept_out),
        )
    return {key: value for key, value in output.items() if key not in OWN_KEYS}


def _warn_of_size(task: Task, invocation: Invocation) -> None:
    size = len((invocation.raw_output or "").encode(errors="replace"))
    if size > LARGE_OUTPUT_BYTES and task.do_xcom_push and _xcom_is_in_database():
        log.warning(
            "The output is %.1f MB, and goes into Airflow's database as XCom, which is made for less than %.0f MB. "
            "Have the action put it into object storage and return its address, or have Airflow do so: set "
            "[core] xcom_backend to XComObjectStorageBackend, of the provider common.io, and [common.io] "
            "xcom_objectstorage_path and xcom_objectstorage_threshold.",
            size / 1e6,
            LARGE_OUTPUT_BYTES / 1e6,
        )


def return_without_waiting(
    task: KernelInvokeOperator, context: Context, invocation_id: str | None
) -> str | None:
    """Return the invocation's id, which is all that ``wait_for_completion=False`` asks for; mark the assets."""
    if invocation_id is not None:
        _mark_assets(task, context, invocation_id, None)
    return invocation_id


def _mark_assets(task: Task, context: Context, invocation_id: str, version: str | None) -> None:
    """Write the invocation into the ``extra`` of the events of the task's outlets, beside what is there."""
    extra = {"invocation_id": invocation_id} | ({"app_version": version} if version else {})
    for outlet in task.outlets:
        with _warning("The asset event does not name the invocation"):
            event: Any = context["outlet_events"][outlet]
            _add(event.extra, extra)
            if isinstance(outlet, AssetAlias):
                # Those that a pre_execute added; one that is added later can take the alias's own extra.
                for name in ("asset_alias_events", "dataset_alias_events"):  # in Airflow 3 and 2
                    for added in getattr(event, name, ()):
                        _add(added["extra"] if isinstance(added, dict) else added.extra, extra)


def _add(extra: dict[str, Any], more: Mapping[str, Any]) -> None:
    extra.update({**more, **extra})


def _xcom_is_in_database() -> bool:
    backend = str(conf.get("core", "xcom_backend", fallback=""))
    if backend.endswith(".XComObjectStorageBackend"):
        threshold: int = conf.getint("common.io", "xcom_objectstorage_threshold", fallback=-1)
        return threshold < 0  # none is large enough
    return backend.endswith(".BaseXCom")


@contextmanager
def _warning(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a convenience; the invocation has ended, or runs
        log.warning("%s: %s", what, type(error).__name__)
