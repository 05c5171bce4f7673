"""The Test button of a connection: what it does, and what it says."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.endpoints import ConcurrencyLimits
from airflow_provider_kernel.api.errors import KernelApiError, KernelError, KernelTransportError
from airflow_provider_kernel.api.settings import KernelSettings
from airflow_provider_kernel.api.text import MAX_NAME, clean, sentence

#: Maximum duration of the test in seconds: Airflow's API server and the user wait for it.
TEST_SECONDS = 15.0


class Hook(Protocol):
    """What is needed of a :class:`~airflow_provider_kernel.hooks.kernel.KernelHook`."""

    @property
    def settings(self) -> KernelSettings:
        """How to reach Kernel."""

    def clone(self) -> AbstractContextManager[Any]:
        """Return a hook with a session of its own."""


def check_connection(hook: Hook) -> tuple[bool, str]:
    """See :meth:`KernelHook.test_connection`."""
    settings = None
    try:
        settings = hook.settings
        is_good, said = _verdict(*_ask(hook, settings), settings)
        settings.invocation_url("")  # only this test reports a wrong one; a task just warns
    except KernelError as error:
        is_good, said = False, _what_to_do(error, settings)
    return is_good, " ".join([said, *(settings.warnings if settings else ())])


def _ask(hook: Hook, settings: KernelSettings) -> tuple[Any, ConcurrencyLimits | None]:
    """
    Ask for the token's owner and the account's limits, in a thread.

    The requests have a time limit, but a name look-up, or connecting to each of many addresses, has none.
    """
    outcome: list[Any] = []

    def ask() -> None:
        try:
            with hook.clone() as clone:
                outcome.append(clone._send(endpoints.auth_context().once(0.8 * TEST_SECONDS)))
                with suppress(KernelError):  # not every token may read them
                    outcome.append(clone._send(endpoints.entitlements().once(0.8 * TEST_SECONDS)))
        except Exception as error:  # noqa: BLE001 - the waiting thread raises it
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TEST_SECONDS)
    answer = outcome[0] if outcome else None
    if answer is None:
        raise KernelTransportError(f"{settings.base_url} did not answer within {TEST_SECONDS:.0f} seconds.")
    if isinstance(answer, Exception):
        raise answer
    return answer, next((each for each in outcome[1:] if isinstance(each, ConcurrencyLimits)), None)


def _verdict(who: Any, limits: ConcurrencyLimits | None, settings: KernelSettings) -> tuple[bool, str]:
    try:
        organization = who["organization"]["id"]
        project = who["authorization"]["effective_scope"]["project_id"]
    except (KeyError, TypeError):
        return False, "The host answered, but not as Kernel does. Check the connection's host."
    if settings.project and not project:
        return False, (
            f"The token is valid, but Kernel does not apply the project {settings.project!r}. "
            "Check the connection's extra 'project'."
        )
    organization = clean(str(organization), MAX_NAME)
    where = f"project {clean(str(project), MAX_NAME)}" if project else "no particular project"
    limit = f" Its limit is {limits.total} invocations at a time" if limits else ""
    if limits:
        limit += f", {limits.per_app} of one app." if limits.per_app else "."
    return True, f"The token is valid: organization {organization}, {where}.{limit}"


def _what_to_do(error: KernelError, settings: KernelSettings | None) -> str:
    advice = ""
    if isinstance(error, KernelApiError) and error.refusal in ("token", "spending cap", "scope", "plan"):
        pass  # the error says what to do
    elif isinstance(error, KernelApiError) and error.is_refusal and settings and settings.project:
        advice = f" The connection's project is {settings.project!r}: check that it exists and that the token may use it."
    elif isinstance(error, KernelTransportError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        advice = " If the certificate is signed by your own CA, put the path of the CA's file into the extra 'verify'."
    elif isinstance(error, KernelTransportError) and settings and not str(error).endswith("?"):
        advice = " Check the connection's host and proxy, and the network of this machine."
    return f"{sentence(str(error))}{advice}"
