"""Which requests may be sent again, after which replies; how an error reads."""

from __future__ import annotations

import pytest

from airflow_provider_kernel.api import errors
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelError,
    KernelInvocationFailedError,
    KernelLostReplyError,
    KernelTransportError,
    is_certainly_not_accepted,
    is_retryable,
)
from airflow_provider_kernel.api.text import sentence, shorten

pytestmark = pytest.mark.no_airflow

ALL_STATUSES = range(100, 600)
NOT_ACCEPTED = {429, 529}
#: The only 4xx that the same request may survive later.
PASSING_4XX = {408, 425, 429}


def answered(status: int) -> KernelApiError:
    return KernelApiError("so", status_code=status)


def test_post_is_repeatable_only_after_429_and_529():
    assert {status for status in ALL_STATUSES if is_certainly_not_accepted(answered(status))} == NOT_ACCEPTED


def test_refusal_is_a_redirect_or_a_permanent_4xx():
    refused = {status for status in ALL_STATUSES if answered(status).is_refusal}
    assert refused == set(range(300, 500)) - PASSING_4XX


def test_safe_request_is_retryable_unless_it_was_refused():
    repeated = {status for status in range(300, 600) if is_retryable(answered(status))}
    assert repeated == set(range(500, 600)) | PASSING_4XX


@pytest.mark.parametrize(
    ("error", "not_accepted", "repeat"),
    [
        (KernelTransportError("refused", sent=False), True, True),
        (KernelTransportError("reset", sent=True), False, True),
        (KernelTransportError("unsaid"), False, True),
        (KernelConfigurationError("no token"), False, False),
        (KernelLostReplyError("lost"), False, False),
        (KernelInvocationFailedError("failed", invocation_id="i"), False, False),
        (KernelError("any"), False, False),
    ],
)
def test_error_without_a_reply_is_retryable_only_when_it_is_a_transport_error(error, not_accepted, repeat):
    assert (is_certainly_not_accepted(error), is_retryable(error)) == (not_accepted, repeat)


def test_every_exception_is_a_kernel_error():
    exceptions = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(exceptions) >= 9
    assert all(issubclass(e, KernelError) for e in exceptions)


@pytest.mark.parametrize(
    ("code", "request_id", "text"),
    [
        (None, None, "Kernel answered 400: so."),
        ("bad", None, "Kernel answered 400 bad: so."),
        ("bad", "r1", "Kernel answered 400 bad (request r1): so."),
    ],
)
def test_api_error_message_contains_code_and_request_id_when_known(code, request_id, text):
    assert str(KernelApiError("so", status_code=400, code=code, request_id=request_id)) == text


CAP = "The spending cap of the organization or of the project is reached:"
SCOPE = "The scope of the API key does not allow this:"
PROJECT = "The API key is of another project than the one that the connection names:"
TOKEN = "Make a token at https://dashboard.onkernel.com/api-keys and put it into the connection as its token"
APP = "Check app_name, action_name and version, and deploy the app before the Dag."
UNSAID = "Kernel does not say which of these it is: the spending cap is reached,"


@pytest.mark.parametrize(
    ("status", "code", "message", "meaning"),
    [
        (403, "forbidden", "Monthly spending cap reached", CAP),
        (403, "spending_cap_reached", "Project paused", CAP),
        (403, "forbidden", "The project has reached its spend limit", CAP),
        (403, "forbidden", "Project budget: cap exceeded", CAP),
        (403, "insufficient_scope", "Not allowed", SCOPE),
        (403, "insufficient_scope", "The key of this project may not invoke", SCOPE),
        (403, "forbidden", "API key lacks the scope invocations:write", SCOPE),
        (403, "insufficient_plan", "Not in your plan", "The plan of the organization does not include this."),
        (403, "forbidden", "API key is scoped to another project", PROJECT),
        (403, "project_mismatch", "Forbidden", PROJECT),
        (403, "forbidden", "Forbidden", UNSAID),
        (403, "forbidden", "No capacity for landscapes", UNSAID),
        (403, "forbidden", "The organization is suspended", UNSAID),
        (403, "forbidden", "Only billing administrators may do this", UNSAID),
        (403, "forbidden", "Project-scoped API keys may not use this endpoint", UNSAID),
        (403, "forbidden", "Missing scope: projects:write", SCOPE),
        (403, "forbidden", "The scope invocations:write is missing for this project", SCOPE),
        (403, "forbidden", "API key does not belong to this project", PROJECT),
        (404, "project_not_found", "Project not found or inactive", "The connection names a project that"),
        (401, "unauthorized", "Invalid API key", TOKEN),
        (404, "not_found", "App not found: stok", APP),
        (404, "not_found", "Action not found: read of the app prices", APP),
        (404, "not_found", "Version not found: 2 of the app prices, which has 1", APP),
        (404, "app_not_found", "Not found", APP),
        (404, "not_found", "The application does not exist", APP),
        (404, "not_found", "No such action", APP),
    ],
)
def test_refusal_explains_its_meaning(status, code, message, meaning):
    text = str(KernelApiError(message, status_code=status, code=code))
    assert text.startswith(f"Kernel answered {status} {code}: {message}. {meaning}")
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        *((status, None, "the body is text/html") for status in (401, 403, 404)),
        (404, "not_found", "Invocation not found: inv1 of the app shop"),
        (404, "not_found", "Browser not found"),
        (429, "x", "cap"),
    ],
)
def test_api_error_adds_no_explanation_when_it_has_one_meaning(status, code, message):
    assert str(KernelApiError(message, status_code=status, code=code)).endswith(f": {message}.")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Limit reached", "Limit reached."),
        ("Limit reached. ", "Limit reached."),
        ("Why?", "Why?"),
        ("No!", "No!"),
        ("Wait…", "Wait…"),
        ("cut… (7 more characters)", "cut… (7 more characters)."),
    ],
)
def test_sentence_adds_a_full_stop_when_it_is_missing(text, whole):
    assert sentence(text) == whole


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("", ""),
        ("abcd", "abcd"),
        ("abcde", "abcd… (1 more characters)"),
        ("x" * 14, "xxxx… (10 more characters)"),
    ],
)
def test_shorten_cuts_a_long_text_and_counts_the_rest(text, short):
    assert shorten(text, 4) == short
