"""A project of a user, with apps, a Dag and twelve tests: it runs as it is, where only its documented parts are known."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.browsing import needs_chromium
from tests.integration.pytest_plugin import ARGUMENTS

pytestmark = pytest.mark.system
PROJECT = Path(__file__).parent / "user_project"
FAILING_TEST = """
def test_a_price_is_missing(kernel_emulator):
    kernel_emulator.invoke("reports", "write", {"prices": [{"product": "Lamp"}], "day": "2026-01-01"})
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the project, beside an empty home and an empty folder for temporary files."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    return shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))


def run_pytest(project, *arguments):
    """Run pytest in the project as a user does, who has configured neither Airflow nor Kernel."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "KERNEL", "PYTEST"))
    }
    env |= {"HOME": str(project.parent / "home"), "TMPDIR": str(project.parent / "tmp")}
    command = [sys.executable, "-m", "pytest", *ARGUMENTS, *arguments]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=900)


@needs_chromium
def test_twelve_tests_of_a_user_pass_side_by_side_and_leave_their_home_alone(project):
    done = run_pytest(project, "-n4", "--durations=12")

    print(done.stdout[-4000:], done.stderr)
    assert re.search(r"^=+ 12 passed[^f]* in ", done.stdout, re.MULTILINE)
    assert list((project.parent / "home").iterdir()) == []
    assert not [path for path in (project.parent / "tmp").iterdir() if "airflow" in path.name]


def test_a_failed_test_names_the_line_of_the_app(project):
    (project / "tests/test_apps.py").write_text(FAILING_TEST)
    app = project / "apps/reports/main.py"
    [line] = [
        number for number, text in enumerate(app.read_text().splitlines(), 1) if "key=lambda price" in text
    ]

    done = run_pytest(project, "-n2", "tests/test_apps.py")

    assert "1 failed" in done.stdout
    assert "| Traceback (most recent call last):" in done.stdout
    assert f'File "{app}", line {line}, in' in done.stdout
    assert "KeyError: 'price'" in done.stdout
