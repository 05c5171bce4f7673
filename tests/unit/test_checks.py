"""The commands that check this project: what they count, how they exit, and that a Ctrl-C leaves nothing behind."""

import signal
import subprocess
import sys

import psutil
import pytest

from dev import checks
from dev.wait import wait_until

pytestmark = pytest.mark.no_airflow

EVERYTHING = """
import pytest

@pytest.fixture
def broken():
    yield
    raise ValueError

def test_passes(): pass
def test_fails(): assert not "failed"
def test_ends_badly(broken): pass
def test_cannot_begin(nothing): pass

@pytest.mark.parametrize("number", [1, 2])
def test_is_skipped(number): pytest.skip("install it")
"""
SLEEPS = """
import subprocess, time
from pathlib import Path

def test_sleeps():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path("child").write_text(str(child.pid))
    time.sleep(600)
"""


@pytest.fixture
def start(tmp_path):
    """Run parts, each with the tests in a text; the output goes to a file."""

    def start(*texts: str) -> subprocess.Popen:
        names = [f"part{number}" for number in range(len(texts))]
        parts = {}
        for name, text in zip(names, texts, strict=True):
            (tmp_path / f"test_{name}.py").write_text(text)
            command = (*checks.PYTEST, "-n2", f"--rootdir={tmp_path}", str(tmp_path / f"test_{name}.py"))
            parts[name] = (name, 1, command)
        script = (
            "import os, sys; from pathlib import Path; from dev import checks\n"
            f"checks.FOLDER = checks.REPOSITORY = Path({str(tmp_path)!r})\n"
            f"checks.PARTS = {{name: checks.Part(*part) for name, part in {parts!r}.items()}}\n"
            "sys.exit(checks.main())"
        )
        with (tmp_path / "output").open("w") as output:
            return subprocess.Popen([sys.executable, "-c", script, *names], stdout=output, stderr=output)

    return start


def test_the_last_line_counts_all_parts_and_the_lines_before_it_list_failures(start, tmp_path):
    status = start(EVERYTHING, "def test_passes(): pass").wait(120)

    *_, failed_1, failed_2, failed_3, skipped, last = (tmp_path / "output").read_text().splitlines()
    assert (status, last) == (1, "2 passed, 3 failed, 2 skipped")
    assert {line.partition(": ")[2] for line in (failed_1, failed_2, failed_3)} == {
        "test_fails",
        "test_ends_badly",
        "test_cannot_begin",
    }
    assert skipped == "2 skipped: install it"


@pytest.mark.parametrize(
    ("text", "status", "last"),
    [
        ("def test_passes(): pass", 0, "1 passed, 0 failed"),
        ("", 1, "0 passed, 1 failed"),
        ("no Python", 1, "0 passed, 1 failed"),
        ("import pytest\ndef test_is_skipped(): pytest.skip()", 1, "0 passed, 0 failed, 1 skipped"),
        ("import os\ndef test_dies(): os._exit(0)", 1, "0 passed, 1 failed"),
    ],
)
def test_the_exit_status_is_0_if_tests_ran_and_none_failed(start, tmp_path, text, status, last):
    assert start(text).wait(120) == status
    assert (tmp_path / "output").read_text().splitlines()[-1] == last


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_ending_it_ends_all_its_processes(start, tmp_path, number, status):
    process = start(SLEEPS)
    child = tmp_path / "child"
    wait_until(lambda: child.exists() and child.read_text(), 120, "the test has started")

    process.send_signal(number)

    assert process.wait(120) == status
    wait_until(lambda: not psutil.pid_exists(int(child.read_text())), 30, "the test's child is gone")
