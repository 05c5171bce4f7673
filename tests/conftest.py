"""What holds for all tests: they see nothing of the machine's own Airflow or Kernel, and leave nothing there."""

import asyncio
import inspect
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

from dev import chromium

#: Where this is set, only the modules that are marked ``no_airflow`` are collected, and Airflow cannot be imported.
WITHOUT_AIRFLOW = "TESTS_WITHOUT_AIRFLOW" in os.environ
if WITHOUT_AIRFLOW:
    sys.modules["airflow"] = None

# Before any test module imports Airflow, which reads them then and writes its configuration there.
for name in list(os.environ):
    if name.startswith(("AIRFLOW", "KERNEL_")):
        del os.environ[name]
# Without bytecode on disk every process that a test starts compiles Airflow anew, which takes seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Each Airflow has a configuration and a database of its own: the suite may run on two of them at the same time.
home = f"tests-{version('apache-airflow')}-py{sys.version_info.major}.{sys.version_info.minor}"
os.environ["AIRFLOW_HOME"] = str(Path(__file__).parents[1] / ".run" / home)

# In CI the generated inputs are the same every time: a new find belongs to whoever is looking for it.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("default", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if not WITHOUT_AIRFLOW:
        return None
    files = [collection_path] if collection_path.is_file() else collection_path.rglob("test_*.py")
    return not any("mark.no_airflow" in file.read_text() for file in files) or None


@pytest.fixture(scope="module")
def no_line_is_late() -> Iterator[None]:
    """The app's lines never show their own time, however slow the machine; when they do is in test_logs.py."""
    from airflow_provider_kernel.lifecycle import log_buffer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_buffer, "MAX_DELAY", float("inf"))
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine, in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("browser") and not chromium.find():
        pytest.skip(chromium.MISSING)
