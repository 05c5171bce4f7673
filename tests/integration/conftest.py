"""Fixtures for the tests that talk to an emulator over real HTTP."""

import asyncio
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import kernel
import pytest
from tenacity import wait_none

from airflow_provider_kernel.lifecycle import lookup, wait_machine
from airflow_provider_kernel.testing import KernelEmulator
from airflow_provider_kernel.transport import errors
from airflow_provider_kernel.triggers import min_deferral
from dev import chromium
from dev.processes import is_alive
from dev.wait import wait_until
from tests.faulty import FaultyProxy
from tests.integration.browsing import serving_site
from tests.integration.scripted import ScriptedServer, serving
from tests.integration.tls import Tls

if TYPE_CHECKING:
    from playwright.sync_api import Browser


#: Defines the app ``tests``.
APP = Path(__file__).parent / "apps" / "app.py"
#: What a scripted server is reached with.
TOKEN = "sk_canary_0123456789"


def client_of(emulator: KernelEmulator) -> kernel.Kernel:
    """Return the official SDK's client of an emulator; it repeats nothing."""
    return kernel.Kernel(base_url=emulator.base_url, api_key=emulator.api_key, max_retries=0)


def heed_ctrl_c() -> None:
    """For ``preexec_fn``: a shell that starts these tests in the background makes them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send again at once what is sent again; Retry-After is still waited for."""
    monkeypatch.setattr(errors, "_backoff", wait_none())


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set an Airflow connection by its fields: ``connect(host=…)``, ``connect("other_id", host=…)``."""

    def connect(conn_id: str = "kernel_default", **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "kernel", **fields}))

    return connect


@pytest.fixture
def server(connect: Callable[..., None]) -> Iterator[ScriptedServer]:
    """A server that answers by a script, as ``kernel_default``."""
    with serving() as server:
        connect(host=server.url, password=TOKEN)
        yield server


@pytest.fixture(params=["requests", "aiohttp"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``ask("get_invocation", …)`` calls a method that both hooks have, through ``kernel_default``."""
    from airflow_provider_kernel.hooks.kernel import KernelHook
    from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

    def by_requests(method: str, *args: Any, **options: Any) -> Any:
        with KernelHook() as hook:
            return getattr(hook, method)(*args, **options)

    async def by_aiohttp(method: str, *args: Any, **options: Any) -> Any:
        async with KernelAsyncHook() as hook:
            return await getattr(hook, method)(*args, **options)

    if request.param == "requests":
        return by_requests
    return lambda *args, **options: asyncio.run(by_aiohttp(*args, **options))


@pytest.fixture
def wait(ask: Callable[..., Any], request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``wait(invocation_id, timeout=…, on_log=…)`` waits by either hook."""
    is_async = request.node.callspec.params["ask"] == "aiohttp"

    def wait(invocation_id: str, timeout: float = 30.0, **options: Any) -> Any:
        limit = {"deadline": time.time() + timeout} if is_async else {"timeout": timeout}
        return ask("wait_for_invocation", invocation_id, **limit, **options)

    return wait


@pytest.fixture
def proxy(
    emulator: KernelEmulator, monkeypatch: pytest.MonkeyPatch, no_backoff: None
) -> Iterator[FaultyProxy]:
    """A faulty way to the session's emulator, as ``kernel_default``; what must not be waited for is short."""
    monkeypatch.setattr(lookup, "LOOKUP_SECONDS", 0.5)
    monkeypatch.setattr(wait_machine, "RECONNECT_SPREAD", 0.01)
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
    monkeypatch.setattr(min_deferral, "min_deferral_seconds", lambda: 0.0)


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """Return all that was logged since it was last asked, by Airflow's logger and by Python's."""
    caplog.set_level(logging.DEBUG)
    root = logging.getLogger()
    # Airflow, once its logging is configured, prints what Python's logger has got, so that it would be told twice.
    printing = [handler for handler in root.handlers if not type(handler).__module__.startswith("_pytest.")]
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
    """The official SDK's client of the session's emulator."""
    with client_of(emulator) as client:
        yield client


@pytest.fixture(scope="session")
def http(emulator: KernelEmulator) -> Iterator[httpx.Client]:
    """A plain HTTP client of the session's emulator."""
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    with httpx.Client(base_url=emulator.base_url, headers=headers, timeout=20) as http:
        yield http


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The URL of pages for browsers to visit."""
    with serving_site() as url:
        yield url


@pytest.fixture(scope="module")
def chrome() -> Iterator["Browser"]:
    """A browser that looks at the emulator's own pages."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**chromium.launch_options())
        yield browser
        browser.close()


@pytest.fixture
def status(client: kernel.Kernel) -> Callable[[str], str]:
    """Return the status of an invocation."""
    return lambda invocation_id: client.invocations.retrieve(invocation_id).status


@pytest.fixture
def submit(client: kernel.Kernel, status: Any, until: Any) -> Callable[..., str]:
    """
    Start an action of the app ``tests``, asynchronously; return the invocation's id.

    With ``wait_for``, return when it has that status.
    """

    def submit(action: str, payload: Any = None, *, wait_for: str | None = None, **options: Any) -> str:
        if payload is not None:
            options["payload"] = json.dumps(payload)
        options = {"app_name": "tests", "version": "latest", "async_": True} | options
        invocation_id = client.invocations.create(action_name=action, **options).id
        if wait_for:
            until(lambda: status(invocation_id) == wait_for)
        return invocation_id

    return submit


@pytest.fixture
def running(submit: Callable[..., str]) -> str:
    """The id of an invocation that runs for a minute."""
    return submit("sleep", {"seconds": 60}, wait_for="running")


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait until ``condition()`` is true, at most ``seconds`` (10), and return what it returned."""

    def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
        return wait_until(condition, seconds, "the condition", interval=0.005)

    return until


@pytest.fixture
def alive() -> Callable[[Any], list[int]]:
    """Return those of the given pids that are of living processes."""
    return lambda pids: [pid for pid in pids if is_alive(pid)]
