"""
What can go wrong between Airflow and Kernel, and which requests may be sent again.

No exception carries a token, a payload or an output, but for :class:`KernelInvocationFailed`: a failed
invocation's shortened output is its reason.
"""

from __future__ import annotations

#: Longest part of a failed invocation's output that is shown, in characters.
MAX_REASON = 2_000


def shorten(text: str, limit: int = MAX_REASON) -> str:
    """Return ``text`` cut to ``limit`` characters, saying how many were left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


class KernelError(Exception):
    """Base of everything this provider raises about Kernel."""


class KernelConfigurationError(KernelError, ValueError):
    """The connection cannot be used as it is; the message says what to write instead."""


class KernelConnectionNotFoundError(KernelConfigurationError):
    """
    There is no such Airflow connection.

    Where Airflow may only have been unable to look for it, that is a :class:`KernelTransportError`.
    """


class KernelTransportError(KernelError):
    """
    No usable reply came: refused, reset, timed out, or something other than Kernel's JSON.

    :param message: what happened, without anything secret.
    :param sent: whether the request, or a part of it, may have reached Kernel.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class KernelApiError(KernelError):
    """
    Kernel, or a proxy before it, answered with an error status.

    :param status_code: the HTTP status.
    :param code: Kernel's machine-readable code; None where the body was not Kernel's.
    :param message: Kernel's sentence, or what the body was instead.
    :param request_id: the reply's request id, if it had one.
    :param retry_after: seconds that the reply asked to wait, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.message = message
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        code = f" {self.code}" if self.code else ""
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"Kernel answered {self.status_code}{code}: {self.message}{request}"

    @property
    def is_refusal(self) -> bool:
        """True if the same request will be refused again: any 4xx but 408, 425 and 429, or a redirect."""
        return 300 <= self.status_code < 500 and self.status_code not in (408, 425, 429)


class KernelLostReplyError(KernelError):
    """An invocation was requested and no reply came that says whether Kernel accepted it: it may be running."""


class KernelCapacityTimeout(KernelError):
    """Kernel had no room for the invocation for too long; none was started."""


class KernelInvocationError(KernelError):
    """Base of what is raised about one invocation. ``invocation_id`` names it."""

    def __init__(self, message: str, *, invocation_id: str) -> None:
        super().__init__(message)
        self.invocation_id = invocation_id


class KernelInvocationFailed(KernelInvocationError):
    """The invocation ended with status ``failed``: raised by the app, cancelled, timed out or crashed."""


class KernelInvocationTimeout(KernelInvocationError):
    """The invocation had not ended by the deadline set in Airflow."""


class KernelInvocationUnsettled(KernelInvocationError):
    """The wait was given up without having seen the invocation's end."""


def is_certainly_not_accepted(error: KernelError) -> bool:
    """
    Tell whether a ``POST /invocations`` that ended so was certainly not accepted, and may be sent again.

    Kernel has no idempotency key. Only "nothing was sent" and the replies 429 and 529 are certain; a lost
    reply or any other 5xx may hide an invocation that runs.
    """
    return was_not_sent(error) or is_full(error)


def was_not_sent(error: BaseException) -> bool:
    """Tell whether nothing of the request has reached Kernel."""
    return isinstance(error, KernelTransportError) and not error.sent


def is_full(error: BaseException) -> bool:
    """Tell whether Kernel has no room for now: the account's limit is reached, or Kernel's own capacity."""
    return isinstance(error, KernelApiError) and error.status_code in (429, 529)


def is_worth_repeating(error: KernelError) -> bool:
    """Tell whether a request that is safe to repeat (GET, PATCH, DELETE) may succeed when sent again."""
    if isinstance(error, KernelTransportError):
        return True
    return isinstance(error, KernelApiError) and not error.is_refusal


def retry_after(error: BaseException | None) -> float:
    """Return the seconds that a reply asked to wait; 0 if there was no such reply."""
    return (isinstance(error, KernelApiError) and error.retry_after) or 0.0


def is_worth_a_line(errors: int) -> bool:
    """Tell whether the latest of so many errors in a row is told in a log: the first, second, fourth, eighth …"""
    return errors & (errors - 1) == 0
