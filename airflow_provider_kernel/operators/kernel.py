"""Run an action of a Kernel app as a task."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelError,
    KernelInvocationError,
    KernelInvocationFailed,
    KernelInvocationTimeout,
    KernelInvocationUnsettled,
    KernelLostReplyError,
    is_certainly_not_accepted,
    is_worth_repeating,
)
from airflow_provider_kernel.api.invocation import (
    DEFAULT_ASYNC_TIMEOUT_SECONDS,
    VERSION_MEANING,
    Invocation,
    InvocationStatus,
    check_async,
    check_name,
    encode_payload,
)
from airflow_provider_kernel.api.waiting import Outcome
from airflow_provider_kernel.hooks.connection import DEFAULT_CONN_ID
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger

try:
    from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
except ImportError:  # Airflow 2, which has one for both
    from airflow.exceptions import TaskDeferralError  # type: ignore[no-redef]

    TaskDeferralTimeout = TaskDeferralError  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.api.calls import Cancellation
    from airflow_provider_kernel.hooks.kernel import KernelHook

#: Seconds for which an invocation is waited for beyond its own ``async_timeout_seconds``, unless ``timeout`` is
#: given: whether Kernel counts the time in its queue is unknown.
GRACE_SECONDS = 600
#: Seconds by which Airflow's own limit on the deferral lies behind our deadline: it is only the backstop.
DEFERRAL_PADDING_SECONDS = 300
#: Longest ``timeout`` and ``poll_interval``: Airflow's and Python's moments end in the year 9999.
MAX_SECONDS = 365 * 24 * 3600

RETRY = "A retry of the task runs the action anew."
NO_RETRY_UNCERTAIN = "The task is not retried, which might run the action a second time."
NO_RETRY_REFUSED = "The task is not retried, for Kernel would refuse again."


class KernelInvokeOperator(BaseOperator):
    """
    Run an action of a Kernel app, wait for its end, and return its output.

    While the invocation runs the task is deferred and holds no worker; the lines that the app logs appear in the
    task's log. The invocation's id is pushed to XCom as ``invocation_id`` as soon as it is known.

    A failed invocation raises :class:`~airflow_provider_kernel.api.errors.KernelInvocationFailed` with Kernel's
    reason and the shortened output, and a retry of the task runs the action anew. What no retry can mend (400,
    401, 403, 404, a connection without a token), and what a retry might run a second time, fails at once.

    :param app_name: name of the deployed app. (templated)
    :param action_name: name of one of its actions. (templated)
    :param payload: the action's input: any JSON value, or a string of JSON text; 4.5 MB at most. Default: none.
        (templated)
    :param version: the app's version; default ``latest``. (templated)
    :param async_: True (the default): Kernel runs the action for up to an hour, and the task waits. False: one
        call that holds the worker and that Kernel cuts after 100 s; for actions of seconds.
    :param async_timeout_seconds: when Kernel ends an asynchronous invocation, in seconds, 10-3600. Default: None,
        which is Kernel's own, 900.
    :param kernel_conn_id: the Airflow connection of type ``kernel``; default ``kernel_default``. (templated)
    :param wait_for_completion: False returns the invocation's id as soon as Kernel has accepted it, and leaves
        the invocation to itself. Default True.
    :param deferrable: False waits on the worker instead of the triggerer. Default True.
    :param timeout: seconds from submission after which the invocation is cancelled and the task fails. Default:
        None, which is ``async_timeout_seconds`` and ten minutes.
    :param poll_interval: longest time in seconds between two looks at the invocation while its event stream cannot
        be followed. Default 30.
    :param follow_logs: whether the lines that the app logs are written to the task's log. Default True.
    :raises ValueError: when the Dag is parsed, for an argument that cannot be right.
    """

    template_fields: Sequence[str] = ("app_name", "action_name", "payload", "version", "kernel_conn_id")
    template_fields_renderers = {"payload": "json"}
    ui_color = "#e4e0f9"

    def __init__(
        self,
        *,
        app_name: str,
        action_name: str,
        payload: Any = None,
        version: str = "latest",
        async_: bool = True,
        async_timeout_seconds: int | None = None,
        kernel_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool = True,
        deferrable: bool = True,
        timeout: float | None = None,
        poll_interval: float = 30.0,
        follow_logs: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.app_name = app_name
        self.action_name = action_name
        self.payload = payload
        self.version = version
        self.async_ = async_
        self.async_timeout_seconds = async_timeout_seconds
        self.kernel_conn_id = kernel_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.timeout = timeout
        self.poll_interval = poll_interval
        self.follow_logs = follow_logs
        self._killed = False
        self._invocation_id: str | None = None
        # What still holds a template is checked when it is rendered, by InvocationRequest.
        for name, *meaning in (
            ("app_name",),
            ("action_name",),
            ("version", VERSION_MEANING),
            ("kernel_conn_id", "the id of an Airflow connection of type 'kernel'"),
        ):
            if not _is_unrendered(getattr(self, name)):
                check_name(name, getattr(self, name), *meaning)
        encode_payload(payload, _is_unrendered)
        check_async(async_, async_timeout_seconds)
        for name in ("wait_for_completion", "deferrable", "follow_logs"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}.")
        _check_seconds("timeout", timeout)
        _check_seconds("poll_interval", poll_interval)
        if not async_ and not wait_for_completion:
            raise ValueError(
                "async_=False waits for the reply, so wait_for_completion=False has no meaning with it. "
                "Leave one of the two out."
            )

    @cached_property
    def hook(self) -> KernelHook:
        """The hook on this task's connection."""
        from airflow_provider_kernel.hooks.kernel import KernelHook

        return KernelHook(self.kernel_conn_id)

    def execute(self, context: Context) -> Any:
        """
        Submit the invocation, once, and wait for its end.

        :return: the decoded output; the invocation's id with ``wait_for_completion=False``.
        """
        with _errors_for_airflow(), self.hook:
            invocation = self._submit()
            deadline = time.time() + self._timeout_seconds
            self._invocation_id = invocation.id
            if self._killed:  # on_kill came during the request, and had no id to cancel
                self._cancel(self.hook, invocation.id, "the task was killed")
                raise _killed_error(invocation.id)
            self._announce(invocation, context)
            if not self.wait_for_completion:
                return invocation.id
            if invocation.is_ended:
                # The reply to a request may lack the output.
                whole = invocation if invocation.raw_output is not None else None
                return self._conclude(Outcome.of(invocation), whole)
            if self.deferrable:
                self._defer(invocation.id, deadline)
            return self._conclude(*self._wait(invocation.id, deadline, self.follow_logs))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """
        Continue after the deferral: ask Kernel for the invocation, and return its decoded output.

        :param event: what the trigger fired.
        """
        with _errors_for_airflow(), self.hook:
            outcome = Outcome.from_event(event)
            _ = self.hook.settings  # read before on_kill has reason to, in a signal handler
            self._invocation_id = outcome.invocation_id
            return self._conclude(outcome)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Continue after the deferral; where Airflow ended it, cancel the invocation, unless that has ended.

        Airflow ends a deferral that timed out, or whose trigger raised, without telling the trigger. It drops the
        deferral's arguments then, so the id is the one in XCom.
        """
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            ti = context["ti"]
            invocation_id = ti.xcom_pull(task_ids=self.task_id, key="invocation_id", map_indexes=ti.map_index)
            if not invocation_id:
                raise
            kind = (
                KernelInvocationTimeout
                if isinstance(error, TaskDeferralTimeout)
                else KernelInvocationUnsettled
            )
            reason = kind(
                f"Airflow ended the wait for Kernel invocation {invocation_id} ({error}).",
                invocation_id=invocation_id,
            )
            with _errors_for_airflow(), self.hook:
                cancellation = self._cancel(self.hook, invocation_id, str(reason))
                return self._conclude(Outcome.of_giving_up(reason, cancellation))

    def on_kill(self) -> None:
        """Cancel the invocation. Airflow calls this in a signal handler of the worker, and kills it 5 s later."""
        self._killed = True
        if self._invocation_id:
            # The main thread may be in the middle of a request on the hook's own session.
            with self.hook.twin() as hook:
                self._cancel(hook, self._invocation_id, "the task was killed")

    @property
    def _timeout_seconds(self) -> float:
        if self.timeout is not None:
            return self.timeout
        return (self.async_timeout_seconds or DEFAULT_ASYNC_TIMEOUT_SECONDS) + GRACE_SECONDS

    def _submit(self) -> Invocation:
        try:
            return self.hook.invoke(
                self.app_name,
                self.action_name,
                self.payload,
                version=self.version,
                async_=self.async_,
                async_timeout_seconds=self.async_timeout_seconds,
            )
        except KernelError as error:
            if is_certainly_not_accepted(error):
                self.log.error("No invocation was started. A retry of the task submits it again.")
            raise
        except ValueError as error:  # an argument that turned out wrong when it was rendered
            raise AirflowFailException(str(error)) from None

    def _announce(self, invocation: Invocation, context: Context) -> None:
        """Make the id known, in the log and in XCom, before anything else happens."""
        self.log.info(
            "Kernel accepted invocation %s of %s/%s, version %s (%s).",
            invocation.id,
            self.app_name,
            self.action_name,
            self.version,
            invocation.status,
        )
        try:
            context["ti"].xcom_push(key="invocation_id", value=invocation.id)
        except Exception as error:  # noqa: BLE001 - a convenience; the invocation runs
            self.log.warning("The invocation's id could not be pushed to XCom: %s", error)

    def _defer(self, invocation_id: str, deadline: float) -> None:
        self.defer(
            trigger=KernelInvocationTrigger(
                invocation_id,
                kernel_conn_id=self.kernel_conn_id,
                deadline=deadline,
                poll_interval=self.poll_interval,
                follow_logs=self.follow_logs,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=deadline - time.time() + DEFERRAL_PADDING_SECONDS),
        )

    def _wait(
        self, invocation_id: str, deadline: float, follow_logs: bool
    ) -> tuple[Outcome, Invocation | None]:
        """Wait on the worker, as the trigger does in the triggerer."""
        try:
            invocation = self.hook.wait_for_invocation(
                invocation_id,
                timeout=deadline - time.time(),
                poll_interval=self.poll_interval,
                on_log=(lambda record: self.log.info("[app] %s", record)) if follow_logs else None,
            )
        except KernelInvocationError as error:
            return Outcome.of_giving_up(error, self._cancel(self.hook, invocation_id, str(error))), None
        return Outcome.of(invocation), invocation

    def _conclude(self, outcome: Outcome, invocation: Invocation | None = None) -> Any:
        """Return the output, or raise what the outcome comes to."""
        if outcome.status not in (InvocationStatus.SUCCEEDED, InvocationStatus.FAILED):
            if outcome.may_run:
                raise AirflowFailException(str(outcome.error(NO_RETRY_UNCERTAIN)))
            raise outcome.error(RETRY)
        if invocation is None:
            try:
                invocation = self.hook.get_invocation(outcome.invocation_id)
            except KernelError as error:
                if not is_worth_repeating(error):
                    raise
                # As patient as the wait was: a retry of the task would run the action a second time.
                deadline = time.time() + self._timeout_seconds
                return self._conclude(*self._wait(outcome.invocation_id, deadline, follow_logs=False))
            if not invocation.is_ended:
                doubt = KernelInvocationUnsettled(
                    f"Kernel invocation {invocation.id} was reported as {outcome.status}, but is {invocation.status}.",
                    invocation_id=invocation.id,
                )
                return self._conclude(
                    Outcome.of_giving_up(doubt, self._cancel(self.hook, invocation.id, str(doubt)))
                )
        if self._killed:
            raise _killed_error(invocation.id)
        result = invocation.result(RETRY)
        self.log.info("Kernel invocation %s succeeded.", invocation.id)
        return result

    def _cancel(self, hook: KernelHook, invocation_id: str, reason: str) -> Cancellation | KernelError:
        """Cancel the invocation; say so, and return it, if that fails."""
        try:
            cancellation = hook.cancel_invocation(invocation_id, f"Airflow: {reason}")
        except KernelError as error:
            self.log.error(
                "Kernel invocation %s could not be cancelled and may still be running: %s",
                invocation_id,
                error,
            )
            return error
        self.log.log(logging.WARNING if cancellation.browsers_error else logging.INFO, "%s", cancellation)
        return cancellation


@contextmanager
def _errors_for_airflow() -> Iterator[None]:
    """Fail without a retry where a retry cannot help, or might run the action a second time."""
    try:
        yield
    except KernelLostReplyError as error:
        raise AirflowFailException(f"{error} {NO_RETRY_UNCERTAIN}") from error
    except KernelConfigurationError as error:
        raise AirflowFailException(str(error)) from error
    except KernelApiError as error:
        if error.is_refusal:
            sentence = str(error).rstrip(".")
            raise AirflowFailException(f"{sentence}. {NO_RETRY_REFUSED}") from error
        raise


def _killed_error(invocation_id: str) -> KernelInvocationFailed:
    return KernelInvocationFailed(
        f"The task was killed, and Kernel invocation {invocation_id} with it.", invocation_id=invocation_id
    )


def _is_unrendered(value: Any) -> bool:
    """Tell whether ``value`` is a template, or a reference such as an XComArg, that is only known at run time."""
    return hasattr(value, "iter_references") or (isinstance(value, str) and ("{{" in value or "{%" in value))


def _check_seconds(name: str, value: Any) -> None:
    if value is None and name == "timeout":
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_SECONDS:
        raise ValueError(
            f"{name} must be seconds, as a number greater than 0 and {MAX_SECONDS} (a year) at most, not {value!r}."
        )
