"""How an Airflow connection of type ``kernel``, or the environment in its place, is read."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_kernel.api.errors import (
    KernelConfigurationError,
    KernelConnectionNotFoundError,
    KernelTransportError,
)
from airflow_provider_kernel.api.settings import KernelSettings

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

log = logging.getLogger(__name__)
DEFAULT_CONN_ID = "kernel_default"
T = TypeVar("T")


async def ask_in_thread(function: Callable[..., T], *arguments: object) -> T:
    """
    Call, in a trigger, what may ask Airflow's supervisor synchronously.

    Not by :func:`asyncio.to_thread`: from such a thread Airflow before 3.2 reads the supervisor's answers in an event
    loop of its own, gets those of others, and the triggerer ends with all its triggers.
    """
    from asgiref.sync import sync_to_async

    return await sync_to_async(function, thread_sensitive=False)(*arguments)


def settings_of(connection: Connection) -> KernelSettings:
    """
    Read an Airflow connection.

    :raises KernelConfigurationError: it cannot be used.
    """
    if connection.conn_type not in ("kernel", "generic", "", None):
        # Its password is somebody else's, and its host would be sent it.
        raise KernelConfigurationError(
            f"The Airflow connection {connection.conn_id!r} is of the type {connection.conn_type!r}. "
            "Name one of type 'kernel', or make one."
        )
    try:
        # Not extra_dejson: that asks the supervisor, synchronously, to mask secrets; see mask_proxy_password.
        extra = json.loads(connection.extra or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise KernelConfigurationError(
            f"The extra of the Airflow connection {connection.conn_id!r} is no JSON object."
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
    return settings


@lru_cache(maxsize=256)
def warn_once(text: str) -> None:
    """Warn, once in this process: a connection is read again and again."""
    log.warning("%s", text)


def settings_without_connection(conn_id: str) -> KernelSettings:
    """
    Read the environment in place of the default connection; call it where that does not exist.

    :raises KernelConnectionNotFoundError: it is not the default connection, or there is no ``KERNEL_API_KEY``.
    :raises KernelConfigurationError: the environment cannot be used.
    """
    if conn_id != DEFAULT_CONN_ID:
        raise KernelConnectionNotFoundError(
            f"There is no Airflow connection {conn_id!r}. Make one of type 'kernel', or set AIRFLOW_CONN_{str(conn_id).upper()}."
        )
    try:
        settings = KernelSettings.from_environment(conn_id, os.environ)
    except KernelConfigurationError as error:
        if os.environ.get("KERNEL_API_KEY", "").strip():
            raise
        raise KernelConnectionNotFoundError(str(error)) from None
    _mask(settings.api_key)
    return settings


def mask_proxy_password(settings: KernelSettings) -> None:
    """Have Airflow mask the proxy's password, if there is one; that may wait for Airflow's supervisor."""
    for password in settings.proxy_passwords():
        _mask(password)


def _mask(secret: str) -> None:
    try:  # the compat package has it only of late
        from airflow.sdk.log import mask_secret
    except ImportError:
        from airflow.utils.log.secrets_masker import mask_secret  # type: ignore[no-redef]

    mask_secret(secret)


def unreadable(conn_id: str, error: Exception) -> KernelTransportError:
    """Return the exception for a connection that Airflow could not be asked for; it may pass."""
    # Not the error's text: it may hold the connection's.
    return KernelTransportError(
        f"The Airflow connection {conn_id!r} could not be read ({type(error).__name__}).", sent=False
    )
