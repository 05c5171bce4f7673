"""
The plugin for pytest. pytest imports it in every project where this provider is installed.

So it imports pytest and the standard library alone; what a fixture needs is imported when the fixture is used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow_provider_kernel.testing.browser_server import BrowserServer
    from airflow_provider_kernel.testing.emulator import KernelEmulator

_ISOLATED_AIRFLOW = "kernel_isolated_airflow"
#: The emulator that a test uses.
_emulator_key: pytest.StashKey[KernelEmulator] = pytest.StashKey()
#: What a report says of the invocations of a test that is over.
_teardown_key: pytest.StashKey[str] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of ``pyproject.toml``."""
    parser.addini(
        "kernel_apps",
        "Files that define Kernel apps, for the fixture kernel_emulator; relative to this file.",
        type="paths",
        default=[],
    )
    parser.addini(
        _ISOLATED_AIRFLOW,
        "Whether the tests have an Airflow of their own: default settings, and a new database in a temporary folder.",
        type="bool",
        default=False,
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Isolate Airflow before a conftest.py imports it."""
    if early_config.getini(_ISOLATED_AIRFLOW):
        from airflow_provider_kernel.testing.isolated_airflow import isolate_airflow

        early_config.add_cleanup(isolate_airflow())


@pytest.fixture(scope="session")
def kernel_emulator_apps(pytestconfig: pytest.Config) -> Sequence[str | Path]:
    """The app files that the emulator serves: those of the option ``kernel_apps``. Override this fixture to name others."""
    files: list[Path] = pytestconfig.getini("kernel_apps")
    if not files:
        raise pytest.UsageError(
            'No Kernel apps are configured. Write kernel_apps = ["apps/shop.py"] under [tool.pytest.ini_options] in '
            "pyproject.toml, with the files that define your apps."
        )
    return files


@pytest.fixture(scope="session")
def kernel_emulator_env() -> Mapping[str, str]:
    """The environment variables for the apps, as in ``kernel deploy --env``. Override this fixture; default: no variables."""
    return {}


@pytest.fixture(scope="session")
def kernel_emulator_session(
    kernel_emulator_apps: Sequence[str | Path], kernel_emulator_env: Mapping[str, str]
) -> Iterator[KernelEmulator]:
    """The emulator of ``kernel_emulator_apps``, one for each session or worker of pytest-xdist. Override this fixture to set options."""
    from airflow_provider_kernel.testing.emulator import KernelEmulator

    with KernelEmulator(kernel_emulator_apps, env=kernel_emulator_env) as emulator:
        yield emulator


@pytest.fixture
def kernel_emulator(
    kernel_emulator_session: KernelEmulator, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[KernelEmulator]:
    """The emulator, which the SDK and the connection ``kernel_default`` use in this test. Tests do not see each other's invocations."""
    from airflow_provider_kernel.testing.report import describe_invocations

    _set_environment(monkeypatch, kernel_emulator_session)
    with kernel_emulator_session.isolated():
        request.node.stash[_emulator_key] = kernel_emulator_session
        yield kernel_emulator_session
        del request.node.stash[_emulator_key]
        # A fixture that failed before this one is reported when the emulator may have ended.
        request.node.stash[_teardown_key] = describe_invocations(kernel_emulator_session)


def _set_environment(monkeypatch: pytest.MonkeyPatch, emulator: KernelEmulator) -> None:
    # Not in the fixture: with --showlocals, pytest would show the API key.
    for name, value in emulator.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", emulator.connection_json)


@pytest.fixture
def kernel_browser_server() -> Iterator[BrowserServer]:
    """A web server on this machine, for pages that the browsers of apps visit."""
    from airflow_provider_kernel.testing.browser_server import BrowserServer

    with BrowserServer() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the invocations of a failed test to its report."""
    report = yield
    if report.failed and (section := _section(item, call.when)):
        from airflow_provider_kernel.testing.report import SECTION

        report.sections.append((SECTION, section))
    return report


def _section(item: pytest.Item, when: str) -> str | None:
    emulator = item.stash.get(_emulator_key, None)
    if emulator is None:
        return item.stash.get(_teardown_key, None) if when == "teardown" else None
    from airflow_provider_kernel.testing.report import describe_invocations

    return describe_invocations(emulator)
