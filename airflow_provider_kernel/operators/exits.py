"""What an attempt does about its invocation when its process, or its time, ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_kernel import metrics
from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.hooks.connection import is_dag_test
from airflow_provider_kernel.lifecycle.attempt import AttemptEvent, Progress
from airflow_provider_kernel.lifecycle.attempt_errors import lost_reply_error
from airflow_provider_kernel.operators.attempt import KernelSupersededError, TaskAttempt

if TYPE_CHECKING:
    from airflow_provider_kernel.api.endpoints import Cancellation
    from airflow_provider_kernel.hooks.kernel import KernelHook
    from airflow_provider_kernel.operators.canceller import Canceller
    from airflow_provider_kernel.operators.options import InvocationOptions

log = logging.getLogger(__name__)


class AttemptExit:
    """
    Finds out why an attempt ends early, and cancels what it has started.

    :param hook: on the task's connection.
    :param attempt: what Airflow knows of the attempt.
    :param canceller: cancels in the name of the attempt.
    :param options: the operator's arguments.
    :param cancels_on_kill: returns ``cancel_on_kill``, which may have changed meanwhile.
    """

    def __init__(
        self,
        hook: KernelHook,
        attempt: TaskAttempt,
        canceller: Canceller,
        options: InvocationOptions,
        cancels_on_kill: Callable[[], bool],
    ) -> None:
        self._hook = hook
        self._attempt = attempt
        self._canceller = canceller
        self._options = options
        self._cancels_on_kill = cancels_on_kill

    def on_kill(self) -> tuple[AttemptEvent, KernelError]:
        """
        Return why the process was told to end, and the attempt's error.

        A user may have ended the task; or a node is drained, or Airflow's API could not be reached.
        """
        is_killed = self._attempt.is_killed()
        if not is_killed and self._attempt.will_retry:
            return AttemptEvent.TERMINATED, KernelError(
                "The worker process was terminated. A retry reattaches to the invocation, if there is one."
            )
        if is_killed is False:
            return AttemptEvent.TERMINATED, KernelError("The worker process was terminated.")
        if not self._cancels_on_kill():
            return AttemptEvent.KILLED_WITHOUT_CANCELLING, KernelError(
                "The task was killed. Its invocation, if there is one, runs on (cancel_on_kill=False)."
            )
        return AttemptEvent.KILLED, KernelError("The task was killed.")

    def on_process_exit(self, cause: str, progress: Progress) -> AttemptEvent:
        """Return whether to cancel the invocation when ``cause`` ends the process: Ctrl-C, or a library that exits."""
        if self._attempt.will_retry and not is_dag_test():
            log.warning(
                "%s ended this attempt. A retry reattaches to its invocation, if there is one.", cause
            )
            return AttemptEvent.PROCESS_EXIT_KEEPS_INVOCATION
        if self._cancels_on_kill():
            return AttemptEvent.PROCESS_EXIT
        if progress.invocation_id:
            log.warning(
                "%s ended this attempt. Kernel invocation %s runs on (cancel_on_kill=False), for %d s at most.",
                cause,
                progress.invocation_id,
                self._options.max_duration,
            )
        elif progress.intent:
            log.warning(
                "%s ended this attempt during its submission. The invocation may run on (cancel_on_kill=False).",
                cause,
            )
        return AttemptEvent.PROCESS_EXIT_KEEPS_INVOCATION

    def stop(self, progress: Progress) -> BaseException:
        """
        Cancel what the attempt has started, and report the outcome.

        :param progress: of the attempt; its error is the reason to stop.
        :return: the attempt's error: with the outcome if the task was killed or the worker terminated, else unchanged, and
            the outcome is logged.
        """
        error = progress.error
        assert error  # noqa: S101 - the attempt ends for it
        is_ours = isinstance(error, KernelError)
        if is_ours:
            fact = str(error).rstrip(".")
            reason = fact[0].lower() + fact[1:]
        elif isinstance(error, AirflowTaskTimeout):
            reason, fact = "its execution_timeout passed", "execution_timeout passed"
        else:
            cause = type(error).__name__
            reason, fact = f"{cause} ended the task's process", f"{cause} ended this attempt"
        level = logging.WARNING
        try:
            cancellation = self._cancel(progress, reason)
            outcome = f"{fact}. {cancellation or 'No invocation was started.'}"
        except KernelSupersededError as superseded:
            if is_ours:
                return superseded
            outcome = f"{fact}. {superseded}"
        except KernelError as cancel_error:
            outcome = f"{fact}, but what the task started may be running: {cancel_error}"
            level = logging.ERROR
        if is_ours:
            return KernelError(outcome)
        log.log(level, "%s", outcome)
        return error

    def _cancel(self, progress: Progress, reason: str) -> Cancellation | None:
        """Cancel the invocation, after a look-up if its id is not known; return None if Kernel has accepted none."""
        invocation_id, intent = progress.invocation_id, progress.intent
        if invocation_id is None and intent is not None:
            # A session of its own: an interrupted wait may be in the middle of a request.
            with self._hook.clone() as hook:
                result = hook._look_up(intent)
            if result.ambiguous:
                raise lost_reply_error(intent, result)
            if result.found is None:
                self._attempt.delete_record()
                return None
            invocation_id = result.found.id
        if invocation_id is None:
            return None
        cancellation = self._canceller.cancel(invocation_id, reason)
        if cancellation.cancelled:
            metrics.ended(self._options, succeeded=False, seconds=self._attempt.seconds_waited)
        return cancellation
