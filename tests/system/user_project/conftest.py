"""The emulator has version 1 of the reports, too, which another team's Dag still asks for."""

from pathlib import Path

import pytest

from airflow_provider_kernel.testing import KernelEmulator

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def kernel_emulator_env():
    return {"SHOP_NAME": "The shop of the tests"}


@pytest.fixture(scope="session")
def kernel_emulator_session(kernel_emulator_apps, kernel_emulator_env):
    versions = {"1": HERE / "apps/reports/version_1.py"}
    with KernelEmulator(kernel_emulator_apps, env=kernel_emulator_env, versions=versions) as emulator:
        yield emulator
