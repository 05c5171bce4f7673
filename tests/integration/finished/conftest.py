"""An emulator for the watcher's tests alone, because a watcher sees every invocation; and short pauses."""

from __future__ import annotations

from collections.abc import Iterator

import kernel
import pytest

from airflow_provider_kernel.testing import KernelEmulator
from airflow_provider_kernel.triggers import cursor_store
from airflow_provider_kernel.triggers import finished as triggers
from airflow_provider_kernel.watch import ends as decisions
from tests.integration.conftest import APP, client_of


@pytest.fixture(scope="module")
def emulator() -> Iterator[KernelEmulator]:
    """Start an emulator for these tests alone."""
    with KernelEmulator([APP]) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def client(emulator: KernelEmulator) -> Iterator[kernel.Kernel]:
    """Return a client of Kernel's SDK for the emulator."""
    with client_of(emulator) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_runs(client, until):
    """Wait until the invocations of the previous test have ended."""
    until(lambda: not any(i.status in ("queued", "running") for i in client.invocations.list(limit=100)))


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Scan many times per second, without pauses."""
    monkeypatch.setattr(decisions, "EVENT_SPACING", 0.0)
    monkeypatch.setattr(triggers, "MIN_POLL_INTERVAL", 0.01)
    monkeypatch.setattr(decisions, "SECONDS_PER_REQUEST", 0.001)
    monkeypatch.setattr(decisions, "MAX_RETRY_PAUSE", 0.05)
    monkeypatch.setattr(cursor_store, "STORE_PAUSE", 0.01)
