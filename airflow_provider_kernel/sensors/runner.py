"""
One attempt of :class:`~airflow_provider_kernel.sensors.kernel.KernelInvocationSensor`, in one process.

It is loaded when the task runs, not when the Dag is parsed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    PokeReturnValue,
)

from airflow_provider_kernel import metrics
from airflow_provider_kernel.api.errors import (
    KernelConfigurationError,
    KernelInvocationError,
    KernelInvocationTimeoutError,
    KernelInvocationUnknownError,
)
from airflow_provider_kernel.api.models import Invocation, InvocationStatus
from airflow_provider_kernel.lifecycle.wait_machine import MAX_OUTAGE
from airflow_provider_kernel.lifecycle.wait_result import WaitResult
from airflow_provider_kernel.operators.deferral import TIMED_OUT, defer
from airflow_provider_kernel.operators.result import ResultOptions, record_result_metadata, return_output
from airflow_provider_kernel.task_instance import attempt_id
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.hooks.kernel import KernelHook

log = logging.getLogger(__name__)
#: Seconds for which one poke asks Kernel before it gives the worker back; longer than a new invocation may be unknown to
#: Kernel.
POKE_SECONDS = 45.0


@dataclass(frozen=True)
class SensorOptions:
    """The sensor's arguments, rendered, that the runner needs; see the sensor for their meaning."""

    invocation_id: str
    kernel_conn_id: str
    deferrable: bool
    reschedule: bool
    poke_interval: float
    timeout: float
    execution_timeout: timedelta | None
    follow_logs: bool
    soft_fail: bool
    never_fail: bool


class SensorRunner:
    """
    Waits for an invocation that was started elsewhere.

    :param hook: on the task's connection.
    :param context: Airflow's.
    :param options: the sensor's arguments.
    :param result_options: what becomes of the output.
    """

    def __init__(
        self, hook: KernelHook, context: Context, options: SensorOptions, result_options: ResultOptions
    ) -> None:
        self._hook = hook
        self._context = context
        self._options = options
        self._result_options = result_options
        self._invocation_id = options.invocation_id

    def defer(self, *, confirm_end: bool = False) -> NoReturn:
        """Have the triggerer wait; for ``confirm_end``, see the trigger."""
        now = time.time()
        deadline = self._started_at + self._limit
        trigger = KernelInvocationTrigger(
            self._invocation_id,
            kernel_conn_id=self._options.kernel_conn_id,
            deadline=deadline,
            poll_interval=self._options.poke_interval,
            follow_logs=self._options.follow_logs,
            cancel_on_kill=False,
            cancel_on_timeout=False,
            deferred_at=now,
            confirm_end=confirm_end,
        )
        defer(trigger, "execute_complete", deadline, ti_id=attempt_id(self._context["ti"]), deferred_at=now)

    def poke(self) -> PokeReturnValue:
        """Poll for :data:`POKE_SECONDS` at most; return whether the invocation has ended, with the decoded output if so."""
        try:
            found = self._hook._find_invocation(self._invocation_id, timeout=POKE_SECONDS)
        except KernelInvocationTimeoutError:
            return PokeReturnValue(is_done=False)  # Kernel is away; the next poke asks again
        if found is None:
            raise WaitResult(
                self._invocation_id, "unknown", f"Kernel does not know invocation {self._invocation_id}."
            ).error()
        if not found.is_ended:
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self.result(found))

    def is_event_of_this_attempt(self, event: Any, ti_id: str | None) -> bool:
        """Return whether a trigger fired ``event`` for this attempt: after a clear, Airflow resumes the new one with the old event."""
        is_same = WaitResult.from_event(event).invocation_id == self._invocation_id
        return is_same and ti_id in (None, attempt_id(self._context["ti"]))

    def resume_after_wait(self, event: Any, deferred_at: float | None) -> Any:
        """
        Continue after the trigger has fired; return the decoded output, or defer again.

        :param event: what the trigger fired.
        :param deferred_at: when the attempt was deferred, in seconds since 1970.
        """
        result = WaitResult.from_event(event)
        if result.status == "unknown" and deferred_at and time.time() - deferred_at >= MAX_OUTAGE:
            # Kernel was away for longer than a trigger waits; the poke fails if it refuses, or the connection is unusable.
            with self._hook:
                look = self.poke()
            return look.xcom_value if look.is_done else self.defer()
        with self._hook:
            if result.possibly_running:
                ended = self.poll()
            else:
                found = self._hook._find_invocation(self._invocation_id)
                if found is None or not found.is_ended:
                    denied = result.unconfirmed_error(found)
                    if found is None or result.confirmed:
                        raise denied
                    log.warning("%s The sensor waits until both agree.", denied)
                    self.defer(confirm_end=True)
                ended = found
        if ended:
            return self.result(ended)
        if result.status == "timeout":
            raise self._timeout_error(result.message)
        raise result.error()

    def failed_deferral_error(self, error: Exception, next_kwargs: dict[str, Any] | None) -> BaseException:
        """Return the exception for a deferral that Airflow ended with ``error``: it timed out, or its trigger failed."""
        reason = f"Airflow ended the wait for Kernel invocation {self._invocation_id} ({error})."
        if (next_kwargs or {}).get("error") in TIMED_OUT:
            return self._timeout_error(reason)
        return KernelInvocationUnknownError(reason, invocation_id=self._invocation_id)

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Skip the task if an option says so. Airflow itself does so only in some waits and versions."""
        try:
            yield
        except (
            AirflowFailException,
            AirflowSensorTimeout,
            AirflowTaskTimeout,
            KernelInvocationUnknownError,
        ) as error:
            is_known = not isinstance(error, KernelInvocationUnknownError)
            if self._options.never_fail or (self._options.soft_fail and is_known):
                raise AirflowSkipException(str(error)) from error
            raise
        except KernelConfigurationError as error:  # no retry can help
            kind = AirflowSkipException if self._options.never_fail else AirflowFailException
            raise kind(str(error)) from error

    def poll(self) -> Invocation | None:
        """Poll once; return the invocation if it has ended."""
        try:
            found = self._hook._find_invocation(self._invocation_id, timeout=0)
        except KernelInvocationError:
            return None
        return found if found and found.is_ended else None

    def result(self, ended: Invocation) -> Any:
        """
        Return the decoded output of an invocation that has ended, and tell Airflow the version and the asset events.

        :raises AirflowFailException: the invocation has failed.
        """
        succeeded = ended.status == InvocationStatus.SUCCEEDED
        # A rescheduled task does not know its first start.
        is_known = self._options.deferrable or not self._options.reschedule
        metrics.ended(
            ended, succeeded=succeeded, seconds=time.time() - self._started_at if is_known else None
        )
        record_result_metadata(self._context, self._hook, ended, self._result_options)
        try:
            if not succeeded:
                failure = ended.failure()
                raise AirflowFailException(str(failure)) from failure
            return return_output(ended, self._result_options)
        except AirflowFailException as error:
            if self._options.soft_fail or self._options.never_fail:
                log.warning("%s", error)  # Airflow does not log why it skips the task
            raise

    @property
    def _started_at(self) -> float:
        """When the attempt started, in seconds since 1970."""
        start: Any = getattr(self._context["ti"], "start_date", None)
        return float(start.timestamp()) if start else time.time()

    @property
    def _limit(self) -> float:
        """Seconds for which an attempt may be deferred. Airflow 3 itself does not bound that."""
        bound = self._options.execution_timeout
        return min(self._options.timeout, bound.total_seconds()) if bound else self._options.timeout

    def _timeout_error(self, reason: str) -> BaseException:
        """Return the exception that Airflow raises on a worker for the limit that has passed."""
        kind = AirflowTaskTimeout if self._limit < self._options.timeout else AirflowSensorTimeout
        return kind(f"{reason} It was not cancelled.")
