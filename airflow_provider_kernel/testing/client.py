"""The requests of tests to the emulator, by the standard library alone."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from airflow_provider_kernel.api.errors import KernelApiError, KernelTransportError


class EmulatorClient:
    """
    Sends requests to an emulator, each on a connection of its own; no proxy is used.

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
        data = _decode(content)
        if reply.status >= 400:
            said = data if isinstance(data, dict) else {}
            retry_after = reply.headers.get("Retry-After", "")
            raise KernelApiError(
                str(said.get("message", reply.reason)),
                status_code=reply.status,
                code=said.get("code"),
                retry_after=float(retry_after) if retry_after.isdigit() else None,
            )
        return data

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json"}


def _decode(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None
