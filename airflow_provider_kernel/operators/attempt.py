"""The try of a task that runs now: what Airflow tells of it, and what it leaves in Airflow for the next."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any

from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.lifecycle.record import (
    RECORD_KEY,
    Record,
    canceller_identity,
    task_identity,
    try_id,
)
from airflow_provider_kernel.links import kernel as link

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.hooks.kernel import KernelHook

log = logging.getLogger(__name__)
#: The states into which a user, or the end of the Dag run, brings a task that runs. In any other, another try
#: has the invocation, or will have it.
KILLED_STATES = frozenset({"success", "failed", "skipped", "removed", "upstream_failed", "restarting"})


class KernelSupersededError(KernelError):
    """Airflow has given the task to another try, while this one was frozen or cut off."""


class TaskAttempt:
    """
    One try of a task instance.

    :param context: Airflow's.
    :param durable: whether to leave a record for the next try. Needs Airflow 3.3: before, there is no place for it.
    :param retry_may_be_vetoed: whether a retry that is left may be denied all the same, by a retry policy.
    """

    def __init__(self, context: Context, durable: bool = True, *, retry_may_be_vetoed: bool = False) -> None:
        self._ti: Any = context["ti"]
        self._store: Any = context.get("task_state_store") if durable else None
        #: When its invocation was asked for, by what a deferral kept of it; it counts where there is no record.
        self.deferred_submitted_at: float | None = None
        #: Whether the link to its invocation is shown.
        self.has_link = False
        self.id = try_id(self._ti)
        self.generation: int = getattr(self._ti, "max_tries", 0) or 0
        self._may_be_denied = retry_may_be_vetoed
        self.map_index: int = getattr(self._ti, "map_index", -1)

    @property
    def is_durable(self) -> bool:
        """Whether the next try will find what this one leaves."""
        return self._store is not None

    @property
    def will_retry(self) -> bool:
        """Whether Airflow retries the task if this try fails, and that try takes up what this one leaves."""
        return self.is_durable and self._ti.try_number <= self.generation and not self._may_be_denied

    @property
    def names(self) -> dict[str, Any]:
        """By which Airflow knows the task instance, over all tries."""
        return task_identity(self._ti)

    @property
    def canceller_identity(self) -> dict[str, Any]:
        """What an invocation is told that this try cancels."""
        return canceller_identity(self._ti)

    @property
    def is_mapped(self) -> bool:
        """Whether the task is one of several, of a mapped operator."""
        return self.map_index >= 0

    def execution_deadline(self, execution_timeout: timedelta | None) -> float:
        """
        Return when ``execution_timeout`` passes, in seconds since 1970.

        It is counted from the start of the try, before all its deferrals, to which Airflow itself does not apply it.
        """
        start = getattr(self._ti, "start_date", None)
        return (start + execution_timeout).timestamp() if start and execution_timeout else inf

    def waited(self) -> float | None:
        """Return for how many seconds its invocation has been waited for; None if that is not known."""
        submitted_at = self.submitted_at()
        return None if submitted_at is None else max(time.time() - submitted_at, 0)

    def submitted_at(self) -> float | None:
        """Return when its invocation was asked for, in seconds since 1970; None if that is not known."""
        return self.record.submitted_at if self.record else self.deferred_submitted_at

    def announce(self, invocation_id: str, hook: KernelHook) -> None:
        """Push the id of the invocation to XCom, and the link to it."""
        self.has_link = link.announce(self._ti, hook, invocation_id)
        try:
            self._ti.xcom_push(key="invocation_id", value=invocation_id)
        except Exception as error:  # noqa: BLE001 - a convenience; the invocation runs
            log.warning("The invocation's id could not be pushed to XCom: %s", error)

    def invocation_id(self) -> str | None:
        """Return the id of its invocation, by what it left in Airflow before a deferral."""
        if self.record and self.record.invocation_id:
            return self.record.invocation_id
        pushed = self._ti.xcom_pull(
            task_ids=self._ti.task_id, key="invocation_id", map_indexes=self.map_index
        )
        return pushed if isinstance(pushed, str) else None

    @cached_property
    def record(self) -> Record | None:
        """
        What was left last, by an earlier try or this one.

        :raises KernelRecordError: it cannot be read.
        """
        return Record.from_stored(self._store.get(RECORD_KEY)) if self.is_durable else None

    def intend(self, record: Record) -> None:
        """
        Leave the intent of a request; without it, the request must not be sent.

        :raises KernelSupersededError: another try has the task.
        :raises KernelError: Airflow did not take it.
        """
        self.record = record
        self._store_record("An invocation was not requested")

    def leave(self, **changes: Any) -> None:
        """
        Change the record. If Airflow cannot take it now, go on: what it has already will do.

        :raises KernelSupersededError: another try has the task.
        """
        if self.record is None:
            return
        self.record = replace(self.record, **changes)
        try:
            self._store_record("The task goes on")
        except KernelSupersededError:
            raise
        except KernelError as error:
            log.warning("%s", error)

    def forget(self) -> None:
        """Take the intent back: Kernel has refused."""
        self.record = None
        if self.is_durable:
            try:
                self._store.delete(RECORD_KEY)
            except Exception as error:  # noqa: BLE001 - what Airflow raises here is not documented
                log.warning("The intent of the request could not be taken back: %s", type(error).__name__)

    def _store_record(self, what: str) -> None:
        if not self.is_durable or self.record is None:
            return
        try:
            self._store.set(RECORD_KEY, self.record.to_stored())
        except Exception as error:  # noqa: BLE001 - what Airflow raises here is not documented
            if _status_code(error) in (404, 410):
                raise KernelSupersededError(
                    "Airflow does not know this try of the task any more: another one has taken its place."
                ) from None
            # Not the error's own words: they are Airflow's, of any length.
            raise KernelError(
                f"{what}, for Airflow's task state store could not be written ({type(error).__name__})."
            ) from None

    def is_killed(self, *, by_success: bool = True) -> bool | None:
        """
        Ask Airflow whether a user, or the end of the Dag run, has ended the task; None if that cannot be known.

        :param by_success: whether a success, too, is a user's.
        """
        try:
            states = self._ti.get_task_states(
                dag_id=self._ti.dag_id,
                task_ids=[self._ti.task_id],
                run_ids=[self._ti.run_id],
                map_index=self.map_index,
            )
            state = next(iter(states[self._ti.run_id].values()))
        except Exception:  # noqa: BLE001 - Airflow is away, or one that cannot be asked
            return None
        return state in KILLED_STATES and (by_success or state != "success")


def _status_code(error: BaseException) -> Any:
    detail = getattr(getattr(error, "error", None), "detail", None)
    return detail.get("status_code") if isinstance(detail, dict) else None
