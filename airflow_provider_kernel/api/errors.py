"""
The exceptions about Kernel, and which requests may be sent again.

No exception has a token, a payload or an output, except :class:`KernelInvocationFailedError`: the shortened output of a
failed invocation is its reason.
"""

from __future__ import annotations

import re
from typing import TypeGuard

from airflow_provider_kernel.api.text import sentence

#: Where users make a token.
API_KEYS_URL = "https://dashboard.onkernel.com/api-keys"


class KernelError(Exception):
    """Base of all exceptions of this provider."""


class KernelConfigurationError(KernelError, ValueError):
    """The connection or an id cannot be used; the message says what to write instead."""


class KernelConnectionNotFoundError(KernelConfigurationError):
    """
    The Airflow connection does not exist.

    If Airflow may only have been unable to look it up, the exception is :class:`KernelTransportError`.
    """


class KernelTransportError(KernelError):
    """
    There was no usable reply: the connection was refused or reset, timed out, or the reply was not Kernel's JSON.

    :param message: what happened, without secrets.
    :param sent: whether the request, or a part of it, may have reached Kernel.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class KernelResponseTooLargeError(KernelTransportError):
    """The reply is larger than the connection's ``max_response_mb``, or than any reply of Kernel's."""


class KernelApiError(KernelError):
    """
    Kernel, or a proxy in front of it, answered with an error status.

    :param message: Kernel's sentence, or a description of a body that is not Kernel's.
    :param status_code: the HTTP status.
    :param code: Kernel's machine-readable code; None if the body was not Kernel's.
    :param request_id: the reply's request id; None if it had none.
    :param retry_after: seconds of ``Retry-After``; None if the reply had none.
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
        said = f"Kernel answered {self.status_code}{code}{request}: {sentence(self.message)}"
        return f"{said} {_MEANINGS[self.refusal]}" if self.refusal else said

    @property
    def refusal(self) -> str | None:
        """
        The meaning of a refusal about which a user can do something, as far as Kernel's code and words tell.

        ``token``, ``spending cap``, ``scope``, ``plan``, ``other project``, ``no project``, ``no app`` or ``unsaid``; None for
        other errors.
        """
        if self.code is None:
            return None
        if self.status_code == 401:
            return "token"
        words = f"{self.code} {self.message}".replace("_", " ")
        if self.status_code == 404:
            if self.code == "project_not_found":
                return "no project"
            return "no app" if _NO_APP.search(words) else None
        if self.status_code != 403:
            return None
        if self.code in _CODES:
            return _CODES[self.code]
        return next((name for name, pattern in _WORDS.items() if pattern.search(words)), "unsaid")

    @property
    def is_refusal(self) -> bool:
        """Whether the same request will be refused again: any 4xx except 408, 425 and 429, or a redirect."""
        return 300 <= self.status_code < 500 and self.status_code not in (408, 425, 429)


# Kernel does not document its codes. These two are known; otherwise the words decide.
_CODES = {"insufficient_scope": "scope", "insufficient_plan": "plan"}
_WORDS = {
    "spending cap": re.compile(r"\bspend(ing)?\b|\bbudget\b|\bbilling (cap|limit)\b", re.IGNORECASE),
    "scope": re.compile(r"\bscopes?\b", re.IGNORECASE),
    "other project": re.compile(
        r"\b(an)?other project\b|\b(different|wrong|foreign) project\b|\bnot (of|in|for) (this|the) project\b|"
        r"\bbelongs? to (a |the )?project\b|\bproject mismatch\b|\bnot belong\b.*\bproject\b|\bproject\b.*\bnot belong\b",
        re.IGNORECASE,
    ),
}
# The subject of the sentence: an invocation that is not found has an app, too.
_NO_APP = re.compile(
    r"\b(app|application|action|version)\b[^.]*\b(not|no longer|unknown)\b|\bno (such )?(app|action|version)\b",
    re.IGNORECASE,
)
_MEANINGS = {
    "token": f"Make a token at {API_KEYS_URL} and put it into the connection as its token (the password field). In the "
    "emulator, it is the value of --api-key.",
    "no app": "Check app_name, action_name and version, and deploy the app before the Dag. The emulator has the files that it "
    "was started with.",
    "spending cap": "The spending cap of the organization or of the project is reached: new invocations are refused "
    "until the month ends or the cap is raised; what runs goes on.",
    "scope": "The scope of the API key does not allow this: use another key, or have its scope extended.",
    "plan": "The plan of the organization does not include this.",
    "other project": "The API key is of another project than the one that the connection names: leave the extra "
    "'project' empty, or use a key of that project.",
    "no project": "The connection names a project that does not exist or is not active: look at its extra 'project'.",
    "unsaid": "Kernel does not say which of these it is: the spending cap is reached, the scope of the API key does "
    "not allow this, or the key is of another project than the one that the connection names.",
}


class KernelLostReplyError(KernelError):
    """The reply to a submission was lost. Kernel may have accepted it, so the invocation may be running."""


class KernelCapacityTimeoutError(KernelError):
    """The account was full for too long. No invocation was started."""


class KernelInvocationError(KernelError):
    """
    Base of the exceptions about one invocation.

    :param message: what happened.
    :param invocation_id: Kernel's id.
    """

    def __init__(self, message: str, *, invocation_id: str) -> None:
        super().__init__(message)
        self.invocation_id = invocation_id


class KernelInvocationFailedError(KernelInvocationError):
    """The invocation failed: the app raised or crashed, or the invocation was cancelled or timed out."""


class KernelInvocationTimeoutError(KernelInvocationError):
    """The invocation had not ended by the task's deadline."""


class KernelInvocationUnknownError(KernelInvocationError):
    """The state of the invocation could not be determined."""


class KernelResultTooLargeError(KernelInvocationUnknownError):
    """Kernel's reply with the result is larger than the connection's ``max_response_mb``."""


def is_certainly_not_accepted(error: KernelError) -> bool:
    """
    Return whether Kernel certainly did not accept a ``POST /invocations`` with this error, so that it may be sent again.

    Kernel has no idempotency key. Only a request that was not sent, and the replies 429 and 529, are certain; after a lost
    reply or any other 5xx, an invocation may be running.
    """
    return was_not_sent(error) or is_full(error)


def was_not_sent(error: BaseException) -> bool:
    """Return whether no part of the request has reached Kernel."""
    return isinstance(error, KernelTransportError) and not error.sent


def is_full(error: BaseException) -> bool:
    """Return whether the account's limit is reached (429), or Kernel's own capacity (529)."""
    return isinstance(error, KernelApiError) and error.status_code in (429, 529)


def is_retryable(error: KernelError) -> bool:
    """Return whether a request that is safe to repeat (GET, PATCH, DELETE) may succeed if it is sent again."""
    if isinstance(error, KernelTransportError):
        return not isinstance(error, KernelResponseTooLargeError)
    return isinstance(error, KernelApiError) and not error.is_refusal


def retry_after(error: BaseException | None) -> float:
    """Return the seconds of the reply's ``Retry-After``; 0 if there are none."""
    return (isinstance(error, KernelApiError) and error.retry_after) or 0.0


def should_log_failure(errors: int) -> bool:
    """Return whether to log the latest of ``errors`` consecutive errors: the first, second, fourth, eighth …"""
    return errors & (errors - 1) == 0


def is_kernels_refusal(error: BaseException | None) -> TypeGuard[KernelApiError]:
    """Return whether Kernel itself refused, not a proxy that has lost Kernel (nginx answers 404 then, others redirect)."""
    return (
        isinstance(error, KernelApiError)
        and error.is_refusal
        and (error.code is not None or error.status_code in (401, 403))
    )
