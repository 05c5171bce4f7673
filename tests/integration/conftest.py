"""Fixtures for the tests that talk to an emulator over real HTTP."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import kernel
import psutil
import pytest
from tenacity import wait_none

from airflow_provider_kernel.api import settling, waiting
from airflow_provider_kernel.hooks import transport
from airflow_provider_kernel.testing import KernelEmulator
from airflow_provider_kernel.triggers import hold
from dev.wait import wait_until
from tests.faulty import FaultyProxy
from tests.integration.tls import Tls

#: Defines the app ``tests``.
APP = Path(__file__).parent / "apps" / "app.py"


@pytest.fixture(scope="session")
def emulator() -> Iterator[KernelEmulator]:
    """An emulator that serves the app ``tests``, for the whole session; it sends heartbeats twice a second."""
    with KernelEmulator([APP], heartbeat=0.5) as emulator:
        yield emulator


@pytest.fixture
def emulator_env(emulator: KernelEmulator, monkeypatch: pytest.MonkeyPatch) -> KernelEmulator:
    """The session's emulator, set in the environment for the SDK and as the connection ``kernel_default``."""
    for name, value in emulator.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", emulator.connection_json)
    return emulator


@pytest.fixture
def proxy(emulator: KernelEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A faulty way to the session's emulator, as ``kernel_default``; what must not be waited for is short."""
    monkeypatch.setattr(transport, "_backoff", wait_none())
    monkeypatch.setattr(settling, "SETTLING_SECONDS", 0.5)
    monkeypatch.setattr(waiting, "RECONNECT_SPREAD", 0.01)
    with FaultyProxy(emulator.base_url) as proxy:
        monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", proxy.connection_json())
        yield proxy


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate authority that nobody knows, and what a server needs."""
    return Tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def fire_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have triggers fire as soon as they can: no scheduler is misled here."""
    monkeypatch.setattr(hold, "SHORTEST_DEFERRAL", 0.0)


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """Return all that was logged since it was last asked, by Airflow's logger and by Python's."""
    caplog.set_level(logging.DEBUG)
    root = logging.getLogger()
    # Airflow 2 prints what Python's logger has got, so that it would be told twice.
    printing = [handler for handler in root.handlers if type(handler).__module__.startswith("airflow.")]
    for handler in printing:
        root.removeHandler(handler)
    yield lambda: "".join(capfd.readouterr()) + caplog.text
    for handler in printing:
        root.addHandler(handler)


@pytest.fixture
def start_emulator() -> Iterator[Callable[..., KernelEmulator]]:
    """Start a further emulator, of the app ``tests`` unless told; takes what ``KernelEmulator`` takes."""
    started = []

    def start(app_files: Any = (APP,), **options: Any) -> KernelEmulator:
        emulator = KernelEmulator(app_files, **options).start()
        started.append(emulator)
        return emulator

    yield start
    for emulator in started:
        emulator.stop()


@pytest.fixture(scope="session")
def client(emulator: KernelEmulator) -> Iterator[kernel.Kernel]:
    """The official SDK's client of the session's emulator; it repeats nothing."""
    with kernel.Kernel(base_url=emulator.base_url, api_key=emulator.api_key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def http(emulator: KernelEmulator) -> Iterator[httpx.Client]:
    """A plain HTTP client of the session's emulator."""
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    with httpx.Client(base_url=emulator.base_url, headers=headers, timeout=20) as http:
        yield http


@pytest.fixture
def submit(client: kernel.Kernel) -> Callable[..., str]:
    """Start an action of the app ``tests``, asynchronously; return the invocation's id."""

    def submit(action: str, payload: Any = None, **options: Any) -> str:
        if payload is not None:
            options["payload"] = json.dumps(payload)
        options = {"app_name": "tests", "version": "latest", "async_": True} | options
        return client.invocations.create(action_name=action, **options).id

    return submit


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait until ``condition()`` is true, at most ``seconds`` (10), and return what it returned."""

    def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
        return wait_until(condition, seconds, "the condition", interval=0.005)

    return until


@pytest.fixture
def alive() -> Callable[[Any], list[int]]:
    """Return those of the given pids that are of living processes."""

    def is_alive(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return lambda pids: [pid for pid in pids if is_alive(pid)]
