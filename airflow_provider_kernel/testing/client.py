"""The requests of tests to the emulator. The standard library sends them, so a test of an app needs no HTTP client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from airflow_provider_kernel.api.endpoints import is_success, raise_for_status
from airflow_provider_kernel.api.errors import KernelTransportError


class EmulatorClient:
    """
    Sends requests to an emulator, each on a connection of its own, without a proxy.

    :param base_url: the emulator's URL.
    :param api_key: its API key.
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        self._address = urlsplit(base_url)
        self._api_key = api_key

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Any:
        """
        Send a request; return the decoded JSON of the reply, None if it has no body.

        :param timeout: maximum seconds without a byte of the reply.
        :raises KernelApiError: the emulator answers with an error.
        :raises KernelTransportError: there is no reply.
        """
        __tracebackhide__ = True
        assert self._address.hostname is not None  # noqa: S101 - an http URL
        connection = http.client.HTTPConnection(self._address.hostname, self._address.port, timeout=timeout)
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            connection.request(method, target, None if body is None else json.dumps(body), self._headers())
            reply = connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise KernelTransportError(
                f"There was no reply of the emulator to {method} {path}: {type(error).__name__}."
            ) from None  # With --showlocals, pytest shows the headers that http.client has.
        finally:
            connection.close()
        if not is_success(reply.status):
            raise_for_status(reply.status, cast(Mapping[str, str], reply.headers), content)
        return json.loads(content) if content else None

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json"}
