"""How an Airflow connection of type ``kernel``, or the environment in its place, is read."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_kernel.api.arguments import DEFAULT_CONN_ID
from airflow_provider_kernel.api.connection_hints import check_variable, how_to_make
from airflow_provider_kernel.api.errors import (
    KernelConfigurationError,
    KernelConnectionNotFoundError,
    KernelError,
    KernelTransportError,
)
from airflow_provider_kernel.api.settings import KernelSettings, looks_like_token, shown
from airflow_provider_kernel.transport.proxy_tls import with_proxy

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

log = logging.getLogger(__name__)
#: Seconds after which Airflow is asked again for a connection that it does not find.
ASK_AGAIN_AFTER = 2.0
T = TypeVar("T")


async def ask_in_thread(function: Callable[..., T], *arguments: object) -> T:
    """
    Call a function, in a trigger, that may ask Airflow's supervisor synchronously.

    Not with :func:`asyncio.to_thread`: from such a thread, Airflow before 3.2 reads the supervisor's answers in another event
    loop, gets those of other triggers, and the triggerer ends with all its triggers.
    """
    from asgiref.sync import sync_to_async

    return await sync_to_async(function, thread_sensitive=False)(*arguments)


def settings_of(connection: Connection) -> KernelSettings:
    """
    Read an Airflow connection.

    :raises KernelConfigurationError: it cannot be used.
    """
    if connection.conn_type not in ("kernel", "generic", "", None):
        # The password belongs to another service, and its host would receive it.
        raise KernelConfigurationError(
            f"The Airflow connection {shown(connection.conn_id, 200)} has the type {_shown_type(connection.conn_type)}. "
            "Pass or make one of type 'kernel'."
        )
    try:
        # Not extra_dejson, which asks the supervisor synchronously to mask secrets; see mask_proxy_password.
        extra = json.loads(connection.extra or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise KernelConfigurationError(
            f"The extra of the Airflow connection {shown(connection.conn_id, 200)} is not a JSON object."
        )
    settings = KernelSettings.from_connection(
        connection.conn_id,
        password=connection.password,
        host=connection.host,
        login=connection.login,
        schema=connection.schema,
        port=connection.port,
        extra=extra,
    )
    for warning in settings.warnings:
        warn_once(warning)
    return with_proxy(settings)


def _shown_type(conn_type: str) -> str:
    """Return a connection's type as a message may quote it: Airflow accepts any text, also a token."""
    is_type = re.fullmatch(r"[A-Za-z]+[0-9]?(_[A-Za-z]+)*", conn_type) and not looks_like_token(conn_type)
    return repr(conn_type) if is_type else "an unknown type"


@lru_cache(maxsize=256)
def warn_once(text: str) -> None:
    """Log a warning once in this process: a connection is read many times."""
    log.warning("%s", text)


def read_settings(conn_id: str, get_connection: Callable[[str], Connection]) -> KernelSettings:
    """
    Read a connection, or the environment instead of the default one. This may wait for Airflow.

    :param get_connection: Airflow's.
    :raises KernelConnectionNotFoundError: it does not exist.
    :raises KernelConfigurationError: it cannot be used, nor can the environment.
    :raises KernelTransportError: Airflow cannot be asked, or reports a missing connection because it cannot look it up.
    """
    if not (isinstance(conn_id, str) and conn_id.strip()):
        raise KernelConnectionNotFoundError(
            f"There is no Airflow connection {shown(str(conn_id), 200)}. Pass the id of one as kernel_conn_id."
        )
    if settings := _ask(conn_id, get_connection):
        return settings
    check_variable(conn_id, os.environ)
    could_look = _is_missing(conn_id) is not False
    if could_look and conn_id == DEFAULT_CONN_ID and os.environ.get("KERNEL_API_KEY", "").strip():
        settings = with_proxy(KernelSettings.from_environment(os.environ))
        _mask(settings.api_key)
        return settings
    time.sleep(ASK_AGAIN_AFTER)
    if settings := _ask(conn_id, get_connection):
        return settings
    is_missing = _is_missing(conn_id)
    what = how_to_make(conn_id, or_key=conn_id == DEFAULT_CONN_ID)
    if is_missing or is_dag_test():
        raise KernelConnectionNotFoundError(what)
    raise KernelTransportError(
        f"{what} If it exists: Airflow does not find it while its API, its database or its secrets backend is away.",
        sent=False,
    )


def _ask(conn_id: str, get_connection: Callable[[str], Connection]) -> KernelSettings | None:
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    try:
        settings = settings_of(get_connection(conn_id))
        mask_proxy_password(settings)
        return settings
    except AirflowNotFoundException:
        return None
    except KernelError:
        raise
    except Exception as error:  # noqa: BLE001 - Airflow raises anything when it is away
        raise unreadable(conn_id, error) from None


def _is_missing(conn_id: str) -> bool | None:
    """
    Return whether the connection certainly does not exist; False if Airflow could not look it up, None if unknown.

    Airflow asks one secrets backend after the other, and ignores failures.
    """
    is_missing: bool | None = True
    try:
        for backend in _secrets_backends():
            if type(backend).__name__ == "ExecutionAPISecretsBackend":
                is_unknown = _api_does_not_know(conn_id)
                if is_unknown is False:
                    return False
                is_missing = is_missing and is_unknown
            elif backend.get_connection(conn_id=conn_id):
                return None  # it was created just now
            elif not type(backend).__module__.startswith(("airflow.secrets.", "airflow.sdk.")):
                is_missing = (
                    None  # it may hide its failures; Airflow's API, which asks it, too, hides them all
                )
    except Exception:  # noqa: BLE001 - a backend raises anything when it is away
        return False
    return is_missing


def _secrets_backends() -> list[Any]:
    try:
        from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded
    except ImportError:  # Airflow 2
        from airflow.configuration import ensure_secrets_loaded

        return list(ensure_secrets_loaded())
    return list(ensure_secrets_backend_loaded())


def _api_does_not_know(conn_id: str) -> bool | None:
    from airflow.sdk.exceptions import ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse, GetConnection, GetDRCount

    if not _answers_counts():
        return None
    reply = _supervisor().send(GetConnection(conn_id=conn_id))
    if not (isinstance(reply, ErrorResponse) and reply.error == ErrorType.CONNECTION_NOT_FOUND):
        return False
    # The API answers the same if its database is away; it cannot count then.
    return not isinstance(_supervisor().send(GetDRCount(dag_id="kernel")), ErrorResponse)


def _answers_counts() -> bool:
    """Return whether this process's supervisor answers such questions; that of the Dag processor never replies."""
    decoder = getattr(_supervisor(), "body_decoder", None)  # dag.test() has none
    try:
        return decoder is None or bool(decoder.validate_python({"type": "DRCount", "count": 0}))
    except ValueError:
        return False


def is_dag_test() -> bool:
    """Return whether this is ``dag.test()`` of Airflow 3 (in a trigger: 3.1), which runs everything in one process."""
    return type(_supervisor()).__name__ == "InProcessSupervisorComms"


def _supervisor() -> Any:
    """Return this process's channel to Airflow's supervisor; None if it has none."""
    try:
        from airflow.sdk.execution_time import task_runner
    except ImportError:  # Airflow 2
        return None
    return getattr(task_runner, "SUPERVISOR_COMMS", None)


def mask_proxy_password(settings: KernelSettings) -> None:
    """Have Airflow mask the proxy's password. This may wait for Airflow's supervisor."""
    for password in settings.proxy_passwords():
        _mask(password)


def _mask(secret: str) -> None:
    try:  # only recent compat packages have it
        from airflow.sdk.log import mask_secret
    except ImportError:
        from airflow.utils.log.secrets_masker import mask_secret  # type: ignore[no-redef]

    mask_secret(secret)


def unreadable(conn_id: str, error: Exception) -> KernelTransportError:
    """Return the exception for a connection that Airflow could not be asked for; a transient error."""
    # Without the error's text: it may contain the connection.
    return KernelTransportError(
        f"The Airflow connection {shown(conn_id, 200)} could not be read ({type(error).__name__}).",
        sent=False,
    )
