"""The request of an attempt, and how it is sent, once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_kernel.api.errors import KernelError, was_not_sent
from airflow_provider_kernel.api.models import Invocation, InvocationRequest
from airflow_provider_kernel.lifecycle.record import Record
from airflow_provider_kernel.operators.trace import trace_context

if TYPE_CHECKING:
    from airflow_provider_kernel.hooks.kernel import KernelHook
    from airflow_provider_kernel.lifecycle.attempt import Progress
    from airflow_provider_kernel.operators.attempt import TaskAttempt
    from airflow_provider_kernel.operators.interruptible import Interruptible

#: Seconds for which the reply is waited for after the process was told to end; Airflow kills the process after 5.
KILL_GRACE_SECONDS = 2.0
#: Seconds after which the intent is stored again before the request is sent (again): another attempt may have the task.
INTENT_MAX_AGE = 5.0


class Submitter:
    """
    Builds the request of an attempt, and sends it.

    :param hook: on the task's connection.
    :param attempt: what Airflow knows of the attempt.
    :param interruptible: by which ``on_kill`` ends the wait for the reply.
    :param build_request: returns the request, from the rendered arguments; raises what the task is to fail with.
    :param metadata_field: the operator's argument.
    """

    def __init__(
        self,
        hook: KernelHook,
        attempt: TaskAttempt,
        interruptible: Interruptible,
        build_request: Callable[[], InvocationRequest],
        metadata_field: str | None,
    ) -> None:
        self._hook = hook
        self._attempt = attempt
        self._interruptible = interruptible
        self._build_request = build_request
        self._metadata_field = metadata_field

    @cached_property
    def _request_or_error(self) -> InvocationRequest | Exception:
        # Built lazily: if it fails now, a retry can still return a finished result.
        try:
            return self._build_request()
        except Exception as error:  # noqa: BLE001 - it is raised when the request is to be submitted
            return error

    @property
    def fingerprint(self) -> str:
        """What tells this attempt's request from others; empty if the request cannot be built."""
        return "" if isinstance(self._request_or_error, Exception) else self._request_or_error.fingerprint()

    def check(self) -> None:
        """
        Check that the request can be built.

        :raises Exception: what the task is to fail with.
        """
        if isinstance(self._request_or_error, Exception):
            raise self._request_or_error

    def new_submission(self, progress: Progress) -> tuple[Record, InvocationRequest]:
        """
        Return the intent and the request of the next submission, after :meth:`check`.

        :param progress: of the attempt, which says what the submission replaces.
        :raises AirflowFailException: the request is too large with what the task adds to the payload.
        """
        request = self._request_or_error
        assert isinstance(request, InvocationRequest)  # noqa: S101 - it was checked
        intent = Record.of_request(
            request,
            ti_id=self._attempt.id,
            generation=self._attempt.generation,
            submitted_at=time.time(),
            metadata_field=self._metadata_field,
            replaces=progress.replaces,
            replaces_cancelled=progress.replaces_cancelled,
        )
        try:
            if self._metadata_field:
                metadata = {"key": intent.key, **self._attempt.task_identity, **trace_context()}
                request = request.with_metadata(self._metadata_field, metadata)
            return intent, replace(request, key=intent.key)
        except ValueError as error:
            raise AirflowFailException(str(error)) from error

    def send(self, request: InvocationRequest, intent: Record, on_sending: Callable[[], None]) -> Invocation:
        """
        Send the request, and wait for the reply.

        :param request: what to send.
        :param intent: its record, which is stored.
        :param on_sending: called when the request begins to be sent.
        :return: the invocation that Kernel has accepted.
        :raises Interrupted: the process was told to end.
        :raises KernelLostReplyError: the reply was lost.
        :raises KernelError: Kernel has not accepted the request.
        """
        stored_at = intent.submitted_at

        def before_sending() -> None:
            nonlocal stored_at
            self._interruptible.check()
            if time.time() - stored_at > INTENT_MAX_AGE:
                # The process may have been frozen: has another attempt the task now?
                self._attempt.write_intent(intent)
                stored_at = time.time()
                self._interruptible.check()
            on_sending()

        return self._interruptible.run(
            lambda: self._hook._submit(request, self._may_send_again, before_sending),
            grace=KILL_GRACE_SECONDS,
        )

    def _may_send_again(self, error: KernelError) -> bool:
        return was_not_sent(error) and not self._interruptible.is_interrupted
