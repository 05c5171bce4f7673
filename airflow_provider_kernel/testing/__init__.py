"""
Tests of Kernel apps, and of Dags that use them, without Kernel: the emulator, and a plugin for pytest.

pytest loads the plugin by itself. Install this provider with the extra ``emulator``, and name the app files in
``pyproject.toml``::

    [tool.pytest.ini_options]
    kernel_apps = ["apps/shop.py"]

The fixture ``kernel_emulator`` sets the environment of a test: the SDK finds the emulator through ``KERNEL_BASE_URL`` and
``KERNEL_API_KEY``, and Airflow through the connection ``kernel_default``. :func:`run_operator` and :func:`run_dag` run tasks
and Dags in the test's process; nothing else here needs Airflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_kernel.testing.airflow import DagResult, run_dag, run_operator
    from airflow_provider_kernel.testing.browser_server import BrowserServer, PageRequest
    from airflow_provider_kernel.testing.emulator import (
        EmulatedInvocation,
        KernelEmulator,
        KernelEmulatorError,
    )
    from airflow_provider_kernel.testing.faults import EmulatorFault

__all__ = [
    "BrowserServer",
    "DagResult",
    "EmulatedInvocation",
    "EmulatorFault",
    "KernelEmulator",
    "KernelEmulatorError",
    "PageRequest",
    "run_dag",
    "run_operator",
]

#: The module of each public name, imported at its first use: pytest imports this package in every project.
_MODULES = {
    "BrowserServer": "browser_server",
    "DagResult": "airflow",
    "EmulatedInvocation": "emulator",
    "EmulatorFault": "faults",
    "KernelEmulator": "emulator",
    "KernelEmulatorError": "emulator",
    "PageRequest": "browser_server",
    "run_dag": "airflow",
    "run_operator": "airflow",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
