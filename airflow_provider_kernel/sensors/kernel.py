"""Wait for an invocation that was started elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    TaskDeferred,
)

from airflow_provider_kernel import metrics
from airflow_provider_kernel.api.arguments import CONNECTION_MEANING, MAX_SECONDS, check_flag
from airflow_provider_kernel.api.errors import (
    KernelConfigurationError,
    KernelInvocationError,
    KernelInvocationTimeoutError,
    KernelInvocationUnknownError,
)
from airflow_provider_kernel.api.models import Invocation, InvocationStatus, is_invocation_id
from airflow_provider_kernel.api.payload import is_nothing
from airflow_provider_kernel.api.settings import shown
from airflow_provider_kernel.hooks.connection import DEFAULT_CONN_ID
from airflow_provider_kernel.lifecycle.wait_machine import MAX_OUTAGE
from airflow_provider_kernel.lifecycle.wait_result import WaitResult
from airflow_provider_kernel.links import kernel as link
from airflow_provider_kernel.operators.arguments import (
    check_names,
    is_unrendered,
    no_retry_if_mapped,
    require_name,
)
from airflow_provider_kernel.operators.deferral import FAIL_METHOD, TIMED_OUT, backstop
from airflow_provider_kernel.operators.mapped import ArgumentCheckMixin
from airflow_provider_kernel.operators.result import ResultOptions, record_result_metadata, xcom_value
from airflow_provider_kernel.task_instance import attempt_id
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.hooks.kernel import KernelHook

ID_MEANING = (
    "the id that Kernel gave the invocation, such as the output of a task with wait_for_completion=False"
)
#: Seconds for which one poke asks Kernel before it gives the worker back; longer than a new invocation may be unknown to
#: Kernel.
POKE_SECONDS = 45.0


class KernelInvocationSensor(ArgumentCheckMixin, BaseSensorOperator):
    """
    Wait until an invocation that was started elsewhere has ended, and return its output.

    The sensor has not started the invocation, so it never cancels it: not when the task is killed, nor when ``timeout``
    passes. If Kernel is away, the sensor waits until then. A failed invocation fails the task with Kernel's reason and the
    shortened output, without a retry, which would find the same; so does ``timeout``, as with every sensor. After
    ``execution_timeout``, which bounds each attempt, deferred or not, there is a retry. With ``soft_fail`` the task is
    skipped in these cases, and its log says why. It fails all the same if Kernel refuses to tell or does not know the
    invocation, and if the trigger fails. Airflow 2 itself ends a deferred task at its ``execution_timeout``, and does not
    skip it.

    Deferred, the sensor follows the invocation as :class:`~airflow_provider_kernel.operators.kernel.KernelInvokeOperator`
    does, with the lines that the app logs in the task's log. ``poke_interval`` is then the longest time between two
    polls while the event stream cannot be followed, and ``timeout`` counts from the start of the attempt. The options
    ``mode``, ``exponential_backoff``, ``max_wait`` and ``silent_fail`` are for ``deferrable=False``, which polls the
    invocation every ``poke_interval`` seconds and shows no lines.

    :param invocation_id: what to wait for. (templated)
    :param kernel_conn_id: the Airflow connection of type ``kernel``; default ``kernel_default``. (templated)
    :param deferrable: False waits on a worker, by pokes. Default True, as for the operator, whatever
        ``[operators] default_deferrable`` says.
    :param follow_logs: whether the lines that the app logs are written to the task's log while the task is
        deferred. Default True.
    :raises ValueError: when the Dag is parsed, for an argument that cannot be right.
    """

    template_fields: Sequence[str] = ("invocation_id", "kernel_conn_id")
    operator_extra_links = (link.KernelInvocationLink(),)
    ui_color = "#e4e0f9"
    #: Whether this attempt has pushed the link's address.
    has_link = False

    def __init__(
        self,
        *,
        invocation_id: str,
        kernel_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = True,
        follow_logs: bool = True,
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(**kwargs)
            is_bounded = max(self.timeout, self.poke_interval) <= MAX_SECONDS
        except OverflowError:
            is_bounded = False
        if not is_bounded:
            raise ValueError(f"timeout and poke_interval must be {MAX_SECONDS} seconds (a year) at most.")
        self.invocation_id = invocation_id
        self.kernel_conn_id = kernel_conn_id
        self.deferrable = deferrable
        self.follow_logs = follow_logs
        with no_retry_if_mapped(self):
            self.check_arguments(vars(self))

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any]) -> None:
        """
        Check arguments as far as they are known when the Dag is parsed.

        :param given: the arguments, by their names.
        :raises ValueError: an argument is wrong; the sentence says what to write instead.
        """
        check_names(given, invocation_id=ID_MEANING, kernel_conn_id=CONNECTION_MEANING)
        if "invocation_id" in given and not is_unrendered(given["invocation_id"], given.get("dag")):
            _check_id(given["invocation_id"])
        for name in ("deferrable", "follow_logs"):
            check_flag(name, given.get(name, True))

    @cached_property
    def hook(self) -> KernelHook:
        """The hook on this task's connection."""
        from airflow_provider_kernel.hooks.kernel import KernelHook

        return KernelHook(self.kernel_conn_id)

    def execute(self, context: Context) -> Any:
        """
        Wait for the invocation's end.

        :param context: Airflow's.
        :return: the decoded output.
        """
        if is_nothing(self.invocation_id):
            raise AirflowFailException(f"invocation_id was rendered to nothing. Pass {ID_MEANING}.")
        require_name("invocation_id", self.invocation_id, ID_MEANING)
        with self._skipping():
            _check_id(self.invocation_id)
        require_name("kernel_conn_id", self.kernel_conn_id, CONNECTION_MEANING)
        with self._skipping(), self.hook:
            self.hook.get_conn()  # fails at once if the connection cannot be used
            self.has_link = link.announce(context["ti"], self.hook, self.invocation_id)
            if not self.deferrable or self._ended():
                # Unwrapped: Airflow 2 warns if one operator's execute calls another's.
                return BaseSensorOperator.execute.__wrapped__(self, context)  # type: ignore[attr-defined]
        return self._defer(context)

    def _defer(self, context: Context, *, confirm_end: bool = False) -> NoReturn:
        now = time.time()
        deadline = _started_at(context) + self._limit
        raise TaskDeferred(
            trigger=KernelInvocationTrigger(
                self.invocation_id,
                kernel_conn_id=self.kernel_conn_id,
                deadline=deadline,
                poll_interval=self.poke_interval,
                follow_logs=self.follow_logs,
                cancel_on_kill=False,
                cancel_on_timeout=False,
                deferred_at=now,
                confirm_end=confirm_end,
            ),
            method_name="execute_complete",
            kwargs={"ti_id": attempt_id(context["ti"]), "deferred_at": now},
            timeout=backstop(deadline, now),
        )

    def poke(self, context: Context) -> PokeReturnValue:
        """
        Poll once.

        :param context: Airflow's.
        :return: whether the invocation has ended, with the decoded output if so.
        :raises AirflowFailException: the invocation has failed.
        :raises KernelInvocationUnknownError: Kernel refuses to tell its state, or does not know it.
        """
        try:
            found = self.hook._find_invocation(self.invocation_id, timeout=POKE_SECONDS)
        except KernelInvocationTimeoutError:
            return PokeReturnValue(is_done=False)  # Kernel is away; the next poke asks again
        if found is None:
            raise WaitResult(
                self.invocation_id, "unknown", f"Kernel does not know invocation {self.invocation_id}."
            ).error()
        if not found.is_ended:
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._result(found, context))

    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any],
        ti_id: str | None = None,
        deferred_at: float | None = None,
    ) -> Any:
        """
        Continue after the deferral: ask Kernel for the invocation, and return its decoded output.

        :param context: Airflow's.
        :param event: what the trigger fired.
        :param ti_id: the attempt that was deferred.
        :param deferred_at: when it was deferred, in seconds since 1970.
        :return: the decoded output.
        """
        result = WaitResult.from_event(event)
        if result.invocation_id != self.invocation_id or ti_id not in (None, attempt_id(context["ti"])):
            # After a clear, Airflow resumes the new attempt with the event of the old one.
            return self.execute(context)
        if result.status == "unknown" and deferred_at and time.time() - deferred_at >= MAX_OUTAGE:
            # Kernel was away for longer than a trigger waits; the poke fails if it refuses, or the connection is unusable.
            with self.hook:
                look = self.poke(context)
            return look.xcom_value if look.is_done else self._defer(context)
        with self.hook:
            if result.possibly_running:
                ended = self._ended()
            else:
                found = self.hook._find_invocation(self.invocation_id)
                if found is None or not found.is_ended:
                    denied = result.unconfirmed_error(found)
                    if found is None or result.confirmed:
                        raise denied
                    self.log.warning("%s The sensor waits until both agree.", denied)
                    self._defer(context, confirm_end=True)
                ended = found
        if ended:
            return self._result(ended, context)
        if result.status == "timeout":
            raise self._timeout_error(result.message)
        raise result.error()

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Continue after the deferral; if Airflow ended it, poll once more before the task fails.

        :param next_method: the method that Airflow would call.
        :param next_kwargs: its arguments.
        :param context: Airflow's.
        :return: the decoded output.
        """
        self.has_link = True  # execute pushed a link, or failed to; get_link then returns ""
        if next_method == FAIL_METHOD:
            with self.hook:
                ended = self._ended()
            if ended:
                next_method, next_kwargs = "execute_complete", {"event": WaitResult.of(ended).to_event()}
        with self._skipping():
            if next_method == FAIL_METHOD:
                return self._end_deferral(next_kwargs, context)
            return super().resume_execution(next_method, next_kwargs, context)

    @contextmanager
    def _skipping(self) -> Iterator[None]:
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
            if self.never_fail or (self.soft_fail and is_known):
                raise AirflowSkipException(str(error)) from error
            raise
        except KernelConfigurationError as error:  # no retry can help
            raise (AirflowSkipException if self.never_fail else AirflowFailException)(str(error)) from error

    def _end_deferral(self, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Raise the error for a deferral that Airflow ended: it timed out, or its trigger failed."""
        try:
            # Not the sensor's own method, which with soft_fail skips the task in both cases.
            return super(BaseSensorOperator, self).resume_execution(FAIL_METHOD, next_kwargs, context)
        except Exception as error:
            reason = f"Airflow ended the wait for Kernel invocation {self.invocation_id} ({error})."
            if (next_kwargs or {}).get("error") in TIMED_OUT:
                raise self._timeout_error(reason) from error
            raise KernelInvocationUnknownError(reason, invocation_id=self.invocation_id) from error

    @property
    def _limit(self) -> float:
        """Seconds for which an attempt may be deferred. Airflow 3 itself does not bound that."""
        bound = self.execution_timeout
        return min(self.timeout, bound.total_seconds()) if bound else self.timeout

    def _timeout_error(self, reason: str) -> BaseException:
        """Return the exception that Airflow raises on a worker for the limit that has passed."""
        kind = AirflowTaskTimeout if self._limit < self.timeout else AirflowSensorTimeout
        return kind(f"{reason} It was not cancelled.")

    def _ended(self) -> Invocation | None:
        """Poll once; return the invocation if it has ended."""
        try:
            found = self.hook._find_invocation(self.invocation_id, timeout=0)
        except KernelInvocationError:
            return None
        return found if found and found.is_ended else None

    def _result(self, ended: Invocation, context: Context) -> Any:
        succeeded = ended.status == InvocationStatus.SUCCEEDED
        # A rescheduled task does not know its first start.
        is_known = self.deferrable or not self.reschedule
        waited = time.time() - _started_at(context) if is_known else None
        metrics.ended(ended, succeeded=succeeded, seconds=waited)
        options = ResultOptions.of(self, context)
        record_result_metadata(context, self.hook, ended, options)
        try:
            if not succeeded:
                failure = ended.failure()
                raise AirflowFailException(str(failure)) from failure
            self.log.info("Kernel invocation %s succeeded.", ended.id)
            return xcom_value(ended, options)
        except AirflowFailException as error:
            if self.soft_fail or self.never_fail:
                self.log.warning("%s", error)  # Airflow does not log why it skips the task
            raise


def _check_id(value: str) -> None:
    if not is_invocation_id(value):
        raise KernelConfigurationError(f"invocation_id must be {ID_MEANING}, not {shown(value)}.")


def _started_at(context: Context) -> float:
    """Return when the attempt started, in seconds since 1970."""
    start: Any = getattr(context["ti"], "start_date", None)
    return float(start.timestamp()) if start else time.time()
