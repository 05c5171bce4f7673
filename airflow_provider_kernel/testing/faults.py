"""Faults that a test adds to the emulator."""

from __future__ import annotations

from typing import Any

from airflow_provider_kernel.testing.client import EmulatorClient

FAULTS = "/_emulator/faults"


class EmulatorFault:
    """
    A fault of the emulator, from :meth:`~airflow_provider_kernel.testing.KernelEmulator.fault`.

    As a context manager, it removes itself at the end of the block; otherwise the end of the test removes it.

    :param client: sends requests to the emulator.
    :param fields: the body of ``POST /_emulator/faults``.
    """

    def __init__(self, client: EmulatorClient, fields: dict[str, Any]) -> None:
        self._client = client
        self.id: str = client.request("POST", FAULTS, fields)["id"]
        self._applied: int | None = None

    @property
    def applied(self) -> int:
        """The number of requests that have had the fault so far."""
        if self._applied is not None:
            return self._applied
        faults = self._client.request("GET", FAULTS)["faults"]
        return next((int(fault["applied"]) for fault in faults if fault["id"] == self.id), 0)

    def remove(self) -> None:
        """Remove the fault. :attr:`applied` keeps its value."""
        if self._applied is None:
            self._applied = self.applied
            self._client.request("DELETE", f"{FAULTS}/{self.id}")

    def __enter__(self) -> EmulatorFault:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()
