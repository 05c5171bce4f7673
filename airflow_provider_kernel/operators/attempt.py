"""What Airflow knows of the attempt that runs: the task instance, its record for the next attempt, its XComs."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any

from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.lifecycle.record import RECORD_KEY, Record
from airflow_provider_kernel.task_instance import attempt_id, canceller_identity, task_identity

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)
#: States into which a user, or the end of the Dag run, brings a running task. In any other state, another attempt has
#: the invocation, or will have it.
KILLED_STATES = frozenset({"success", "failed", "skipped", "removed", "upstream_failed", "restarting"})


class KernelSupersededError(KernelError):
    """Airflow has given the task to another attempt while this one was frozen or cut off."""


class TaskAttempt:
    """
    The attempt of a task instance that runs in this process.

    :param context: Airflow's.
    :param durable: whether to leave a record for the next attempt. Needs Airflow 3.3, whose task state store holds it.
    :param retry_may_be_vetoed: whether a retry policy may deny a retry that is left.
    """

    def __init__(self, context: Context, durable: bool = True, *, retry_may_be_vetoed: bool = False) -> None:
        self._ti: Any = context["ti"]
        self._store: Any = context.get("task_state_store") if durable else None
        #: When the invocation was submitted, as the deferral kept it; for Airflow versions without a task state store.
        self.deferred_submitted_at: float | None = None
        self.id = attempt_id(self._ti)
        self.generation: int = getattr(self._ti, "max_tries", 0) or 0
        self._retry_may_be_vetoed = retry_may_be_vetoed
        self.map_index: int = getattr(self._ti, "map_index", -1)

    @property
    def is_durable(self) -> bool:
        """Whether the next attempt will find this one's record."""
        return self._store is not None

    @property
    def will_retry(self) -> bool:
        """Whether Airflow retries the task if this attempt fails, and the retry finds this attempt's record."""
        return self.is_durable and self._ti.try_number <= self.generation and not self._retry_may_be_vetoed

    def is_resumed_in_place_of(self, ti_id: str | None) -> bool:
        """
        Return whether Airflow resumes this attempt where an earlier one was deferred, as it does after a clear.

        :param ti_id: the attempt that was deferred; None if Airflow has dropped that.
        """
        return any(id not in (None, self.id) for id in (ti_id, self.record and self.record.ti_id))

    @property
    def task_identity(self) -> dict[str, Any]:
        """The names by which Airflow knows the task instance, over all attempts."""
        return task_identity(self._ti)

    @property
    def canceller_identity(self) -> dict[str, Any]:
        """What the output of an invocation says about this attempt, which cancels it."""
        return canceller_identity(self._ti)

    @property
    def submitted_at(self) -> float | None:
        """When the invocation was submitted, in seconds since 1970; None if it is not known."""
        return self.record.submitted_at if self.record else self.deferred_submitted_at

    @property
    def seconds_waited(self) -> float | None:
        """Seconds since the submission; None if its time is not known."""
        return None if self.submitted_at is None else max(time.time() - self.submitted_at, 0)

    def must_replace(self, invocation: Invocation) -> bool:
        """
        Return whether another attempt cancelled the invocation.

        It is replaced once per task, so that two attempts cannot cancel and submit forever.
        """
        canceller = invocation.cancelled_by or {}
        is_another = canceller.get("ti_id") not in (None, self.id)
        is_first = not (self.record and self.record.replaces_cancelled)
        return self.task_identity.items() <= canceller.items() and is_another and is_first

    def execution_deadline(self, execution_timeout: timedelta | None) -> float:
        """
        Return when ``execution_timeout`` passes, in seconds since 1970.

        It counts from the start of the attempt, before all deferrals; Airflow itself does not apply it to deferrals.
        """
        start = getattr(self._ti, "start_date", None)
        return (start + execution_timeout).timestamp() if start and execution_timeout else inf

    def push_invocation_id(self, invocation_id: str) -> None:
        """Push the invocation's id to XCom; a failure is a warning."""
        try:
            self._ti.xcom_push(key="invocation_id", value=invocation_id)
        except Exception as error:  # noqa: BLE001 - a convenience; the invocation runs
            log.warning(
                "The id of Kernel invocation %s could not be pushed to XCom: %s", invocation_id, error
            )

    def invocation_id(self) -> str | None:
        """Return the id of the invocation, from the record or else from XCom; None if there is none."""
        if self.recorded_invocation_id:
            return self.recorded_invocation_id
        pushed = self._ti.xcom_pull(
            task_ids=self._ti.task_id, key="invocation_id", map_indexes=self.map_index
        )
        return pushed if isinstance(pushed, str) else None

    @cached_property
    def record(self) -> Record | None:
        """
        The record, of an earlier attempt or of this one; None if there is none.

        :raises KernelRecordError: it cannot be read.
        """
        return Record.from_stored(self._store.get(RECORD_KEY)) if self.is_durable else None

    @property
    def recorded_invocation_id(self) -> str | None:
        """The id in the record; None if there is none."""
        return self.record.invocation_id if self.record else None

    def write_intent(self, record: Record) -> None:
        """
        Store the intent of a submission. Without it, the request must not be sent.

        :raises KernelSupersededError: another attempt has the task.
        :raises KernelError: Airflow did not store it.
        """
        self.record = record
        self._store_record("so nothing was submitted")

    def update_record(self, **changes: Any) -> None:
        """
        Change fields of the record. A failure to store it is a warning: the previously stored record is good enough.

        :raises KernelSupersededError: another attempt has the task.
        """
        if self.record is None:
            return
        self.record = replace(self.record, **changes)
        try:
            self._store_record("but the task continues")
        except KernelSupersededError:
            raise
        except KernelError as error:
            log.warning("%s", error)

    def check_not_superseded(self) -> None:
        """
        Check that this attempt still has the task, by storing its record again; without a record, do nothing.

        :raises KernelSupersededError: another attempt has the task.
        """
        self.update_record()

    def delete_record(self) -> None:
        """Delete the record: Kernel has not accepted the submission. A failure is a warning."""
        self.record = None
        if self.is_durable:
            try:
                self._store.delete(RECORD_KEY)
            except Exception as error:  # noqa: BLE001 - Airflow does not document what it raises here
                log.warning("The intent of the submission could not be deleted: %s", type(error).__name__)

    def _store_record(self, consequence: str) -> None:
        if not self.is_durable or self.record is None:
            return
        try:
            self._store.set(RECORD_KEY, self.record.to_stored())
        except Exception as error:  # noqa: BLE001 - Airflow does not document what it raises here
            if _status_code(error) in (404, 410):
                raise KernelSupersededError(
                    "Airflow no longer knows this attempt of the task: another one has taken its place."
                ) from None
            # Not Airflow's own words: they may be of any length.
            raise KernelError(
                f"Airflow's task state store could not be written ({type(error).__name__}), {consequence}."
            ) from None

    def is_killed(self, *, including_success: bool = True) -> bool | None:
        """
        Ask Airflow whether a user, or the end of the Dag run, has ended the task.

        :param including_success: whether the state ``success`` counts; another attempt may have reached it.
        :return: None if Airflow cannot be asked.
        """
        try:
            states = self._ti.get_task_states(
                dag_id=self._ti.dag_id,
                task_ids=[self._ti.task_id],
                run_ids=[self._ti.run_id],
                map_index=self.map_index,
            )
            state = next(iter(states[self._ti.run_id].values()))
        except Exception:  # noqa: BLE001 - Airflow is away, or too old to be asked
            return None
        return state in KILLED_STATES and (including_success or state != "success")


def _status_code(error: BaseException) -> Any:
    detail = getattr(getattr(error, "error", None), "detail", None)
    return detail.get("status_code") if isinstance(detail, dict) else None
