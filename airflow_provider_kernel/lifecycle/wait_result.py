"""How a wait ended, as the trigger reports it to the worker. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_kernel.api.endpoints import Cancellation
from airflow_provider_kernel.api.errors import (
    KernelError,
    KernelInvocationError,
    KernelInvocationTimeoutError,
    KernelInvocationUnknownError,
    KernelResultTooLargeError,
)
from airflow_provider_kernel.api.models import Invocation, InvocationStatus
from airflow_provider_kernel.api.text import sentence, shorten

#: The exceptions for a wait without an end, by status, the more special ones first; any other status is one of a later
#: version.
ERRORS: dict[str, type[KernelInvocationError]] = {
    "timeout": KernelInvocationTimeoutError,
    "too_large": KernelResultTooLargeError,
    "unknown": KernelInvocationUnknownError,
}
#: Maximum length of an event's message, in characters: Airflow logs and stores events.
MAX_MESSAGE = 600


@dataclass(frozen=True)
class WaitResult:
    """
    How a wait ended, small enough for a trigger's event; never the output.

    :param invocation_id: Kernel's id.
    :param status: Kernel's ``succeeded`` or ``failed``; ``timeout`` if the deadline of the wait passed; ``too_large`` if the reply
        with the result was too large to read; ``unknown`` if Kernel refused to tell the state of the invocation, or could not be
        asked.
    :param message: what happened, if Kernel's own words are not available.
    :param possibly_running: whether the invocation may be running.
    :param confirmed: whether ``GET`` was asked after the event stream had reported the end.
    """

    invocation_id: str
    status: str
    message: str = ""
    possibly_running: bool = False
    confirmed: bool = False

    @property
    def is_end(self) -> bool:
        """Whether Kernel has reported the end of the invocation."""
        return self.status in (InvocationStatus.SUCCEEDED, InvocationStatus.FAILED)

    @classmethod
    def of(cls, invocation: Invocation) -> WaitResult:
        """Return the result for an invocation that has ended."""
        return cls(invocation.id, str(invocation.status))

    @classmethod
    def of_open(cls, error: KernelInvocationError) -> WaitResult:
        """Return the result of a wait that was given up, with the invocation possibly running."""
        status = next((status for status, kind in ERRORS.items() if isinstance(error, kind)), "unknown")
        return cls(error.invocation_id, status, shorten(str(error), MAX_MESSAGE), possibly_running=True)

    @classmethod
    def of_giving_up(
        cls, error: KernelInvocationError, cancellation: Cancellation | KernelError
    ) -> WaitResult:
        """Return the result of a wait that was given up, after cancelling, or failing to cancel, the invocation."""
        if isinstance(cancellation, Cancellation) and not cancellation.cancelled:
            return cls.of(cancellation.invocation)
        possibly_running = isinstance(cancellation, KernelError)
        if isinstance(cancellation, KernelError):
            what = f"It could not be cancelled and may be running: {cancellation}"
        elif cancellation.browsers_error:
            what = f"It was cancelled, but its browsers may be open: {cancellation.browsers_error}"
        else:
            what = "It was cancelled."
        message = shorten(f"{sentence(str(error))} {what}", MAX_MESSAGE)
        return replace(cls.of_open(error), message=message, possibly_running=possibly_running)

    @classmethod
    def from_event(cls, event: Any) -> WaitResult:
        """
        Read a trigger's event.

        :param event: what the trigger fired.
        :return: how the wait ended.
        :raises KernelError: it is not an event of :class:`KernelInvocationTrigger`.
        """
        try:
            # A later version of the provider may have written other fields.
            result = cls(**{key: value for key, value in event.items() if key in cls.__dataclass_fields__})
        except (TypeError, AttributeError):
            result = None
        if (
            result is None
            or not all(
                isinstance(text, str) for text in (result.invocation_id, result.status, result.message)
            )
            or not all(isinstance(flag, bool) for flag in (result.possibly_running, result.confirmed))
            or not (result.invocation_id and result.status)
        ):
            raise KernelError(
                "The event that resumed this task is not one of KernelInvocationTrigger. A retry of the task asks Kernel."
            )
        return result

    def to_event(self) -> dict[str, Any]:
        """Return what the trigger's event carries."""
        return {key: value for key, value in vars(self).items() if value not in ("", False)}

    def unconfirmed_error(self, found: Invocation | None) -> KernelInvocationUnknownError:
        """Return the exception for an end that ``GET`` does not confirm; ``found`` is its answer."""
        now = f"is {found.status}" if found else "cannot be found"
        message = f"Kernel invocation {self.invocation_id} was reported as {self.status}, but {now}."
        return KernelInvocationUnknownError(message, invocation_id=self.invocation_id)

    def error(self, hint: str = "") -> KernelInvocationError:
        """Return the exception for a result that is not an end, with ``hint`` as its last sentence."""
        kind = ERRORS.get(self.status, KernelInvocationUnknownError)
        message = self.message or f"The wait for it ended with the status {self.status!r}."
        return kind(f"{sentence(message)} {hint}".rstrip(), invocation_id=self.invocation_id)
