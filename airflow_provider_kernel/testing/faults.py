"""Faults that a test has the emulator make."""

from __future__ import annotations

from typing import Any

from airflow_provider_kernel.testing.client import EmulatorClient

FAULTS = "/_emulator/faults"


class Fault:
    """
    A fault of the emulator, from :meth:`~airflow_provider_kernel.testing.KernelEmulator.fault`.

    As a context manager, it is removed at the end of the block; otherwise at the end of the test.

    :param client: sends requests to the emulator.
    :param fields: the body of ``POST /_emulator/faults``.
    """

    def __init__(self, client: EmulatorClient, fields: dict[str, Any]) -> None:
        self._client = client
        self.id: str = client.request("POST", FAULTS, fields)["id"]
        self._applied: int | None = None

    @property
    def applied(self) -> int:
        """How many requests the fault has affected so far."""
        if self._applied is not None:
            return self._applied
        faults = self._client.request("GET", FAULTS)["faults"]
        return next((int(fault["applied"]) for fault in faults if fault["id"] == self.id), 0)

    def remove(self) -> None:
        """Remove the fault. :attr:`applied` stays."""
        if self._applied is None:
            self._applied = self.applied
            self._client.request("DELETE", f"{FAULTS}/{self.id}")

    def __enter__(self) -> Fault:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()
