"""How a wait ended, as a trigger tells the worker that goes on. No I/O."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from airflow_provider_kernel.api.endpoints import Cancellation
from airflow_provider_kernel.api.errors import (
    KernelError,
    KernelInvocationError,
    KernelInvocationTimeoutError,
    KernelInvocationUnknownError,
)
from airflow_provider_kernel.api.models import Invocation, InvocationStatus
from airflow_provider_kernel.api.text import sentence, shorten

#: Longest explanation that an event carries, in characters: Airflow logs and stores events.
MAX_MESSAGE = 600


@dataclass(frozen=True)
class WaitResult:
    """
    How a wait ended, small enough for a trigger's event; never the output.

    :param invocation_id: which invocation.
    :param status: Kernel's ``succeeded`` or ``failed``; ``timeout`` if our deadline passed; ``unknown`` if Kernel
        would not, or could not, say what became of the invocation.
    :param message: what happened, where Kernel's own words are not to be had.
    :param possibly_running: True if the invocation may be running still.
    """

    invocation_id: str
    status: str
    message: str = ""
    possibly_running: bool = False

    @property
    def is_end(self) -> bool:
        """Whether the invocation has ended by Kernel's word."""
        return self.status in (InvocationStatus.SUCCEEDED, InvocationStatus.FAILED)

    @classmethod
    def of(cls, invocation: Invocation) -> WaitResult:
        """Return the outcome for an invocation that has ended."""
        return cls(invocation.id, str(invocation.status))

    @classmethod
    def of_open(cls, error: KernelInvocationError) -> WaitResult:
        """Return the outcome of a wait that was given up, and left to others."""
        status = "timeout" if isinstance(error, KernelInvocationTimeoutError) else "unknown"
        return cls(error.invocation_id, status, shorten(str(error), MAX_MESSAGE), possibly_running=True)

    @classmethod
    def of_giving_up(
        cls, error: KernelInvocationError, cancellation: Cancellation | KernelError
    ) -> WaitResult:
        """Return the outcome of a wait that was given up, after an attempt to cancel."""
        if isinstance(cancellation, Cancellation) and not cancellation.cancelled:
            return cls.of(cancellation.invocation)
        possibly_running = isinstance(cancellation, KernelError)
        if isinstance(cancellation, KernelError):
            what = f"It could not be cancelled and may still be running: {cancellation}"
        elif cancellation.browsers_error:
            what = f"It was cancelled. Its browsers may be open still: {cancellation.browsers_error}"
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
        :raises KernelError: it is none of ours; nothing is concluded from it.
        """
        try:
            # A field that this version does not know is of no use to it.
            outcome = cls(**{key: value for key, value in event.items() if key in cls.__dataclass_fields__})
        except (TypeError, AttributeError):
            outcome = None
        if (
            outcome is None
            or not all(
                isinstance(text, str) for text in (outcome.invocation_id, outcome.status, outcome.message)
            )
            or not isinstance(outcome.possibly_running, bool)
            or not (outcome.invocation_id and outcome.status)
        ):
            raise KernelError("The trigger's event is not one of KernelInvocationTrigger.")
        return outcome

    def to_event(self) -> dict[str, Any]:
        """Return what the trigger's event carries."""
        return {key: value for key, value in asdict(self).items() if value not in ("", False)}

    def unconfirmed_error(self, found: Invocation | None) -> KernelInvocationUnknownError:
        """Return the exception for an end that Kernel, asked again, does not confirm."""
        now = found.status if found else "not to be found"
        message = f"Kernel invocation {self.invocation_id} was reported as {self.status}, but is {now}."
        return KernelInvocationUnknownError(message, invocation_id=self.invocation_id)

    def error(self, hint: str = "") -> KernelInvocationError:
        """Return the exception for an outcome that Kernel's own words do not explain, with ``hint`` at its end."""
        kind = KernelInvocationTimeoutError if self.status == "timeout" else KernelInvocationUnknownError
        message = self.message or f"The wait for it ended with the status {self.status!r}."
        return kind(f"{sentence(message)} {hint}".rstrip(), invocation_id=self.invocation_id)
