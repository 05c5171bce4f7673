"""Example Dags through Airflow's own command: the main paths, for real, on whichever Airflow this is."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from airflow_provider_kernel.testing import KernelEmulator
from dev.processes import REPOSITORY

EXAMPLES = REPOSITORY / "example_dags"


@pytest.fixture
def airflow(tmp_path):
    """Run an ``airflow`` command to its end, in an AIRFLOW_HOME of its own; return what it printed."""
    with KernelEmulator([EXAMPLES / "apps" / "bookshop" / "main.py"]) as emulator:
        env = os.environ | {
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json,
            "COLUMNS": "500",
        }

        def airflow(*arguments):
            done = subprocess.run(
                [sys.executable, "-m", "airflow", *arguments],
                env=env,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stdout
            return done.stdout

        yield airflow


def test_the_example_runs_its_action_to_the_end_and_shows_the_apps_lines(airflow):
    airflow("db", "migrate")
    said = airflow("dags", "test", "example_kernel_invoke")
    [invocation_id] = set(re.findall(r"Kernel accepted invocation (\w+) of bookshop/price-report", said))
    for number in range(1, 11):
        assert f"[app] {number}/10 " in said
    assert f"Kernel invocation {invocation_id} succeeded." in said
    assert re.search(r"Marking run .* successful", said)


def test_a_function_makes_the_payload_of_what_another_task_returned_and_the_next_gets_the_output(airflow):
    airflow("db", "migrate")
    said = airflow("dags", "test", "example_kernel_decorator")
    assert "[app] 2/2 Travel" in said
    assert "Returned value was: The Little Mountain, vol. 2223" in said
    assert re.search(r"Marking run .* successful", said)
