"""What a task tells Airflow of its invocation beside the output. Whatever fails here is a warning."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow.providers.common.compat.sdk import AssetAlias, conf

from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.api.invocation import InvocationStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.api.invocation import Invocation
    from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
    from airflow_provider_kernel.sensors.kernel import KernelInvocationSensor

    Task: TypeAlias = KernelInvokeOperator | KernelInvocationSensor

log = logging.getLogger(__name__)
#: Bytes of output above which Airflow's database is no good place for it: every read of an XCom, and each page
#: that shows it, carries it through the API server as a whole.
LARGE_OUTPUT_BYTES = 1_000_000


def announce_end(task: Task, context: Context, invocation: Invocation) -> None:
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


def left_to_itself(task: KernelInvokeOperator, context: Context, invocation_id: str | None) -> str | None:
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
