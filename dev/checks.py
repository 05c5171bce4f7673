"""
Runs the tests in parts, each a process of its own, and counts over all of them: ``make test``, ``make test-all``.

The last line is ``N passed, N failed``, with ``, N skipped`` if there are any; an error is a failure.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from dev.processes import REPOSITORY, RunFolder

#: How many tests run at a time: they wait as long as they compute.
JOBS = min(2 * (os.cpu_count() or 1), 24)
#: Seconds that a part has after a Ctrl-C to end what it has started; then it is killed.
TO_END = 60
FOLDER = REPOSITORY / ".run" / "checks"
PYTEST = (sys.executable, "-u", "-m", "pytest", "--durations=5", "--junitxml={report}/junit.xml")
#: The tests of a module stay together, and with them the emulator or the database that they share.
DISTRIBUTION = "--dist=worksteal"
#: The oldest, the first of Airflow 3, and the next. Those between are left to ``make versions``.
OTHER_AIRFLOWS = ("2.11.2", "3.0.6", "3.4.0b2")
PARALLEL = (*PYTEST, DISTRIBUTION, "-n{jobs}")
MAIN_PATH = "tests/system/test_main_path.py"


class Part(NamedTuple):
    """Some of the tests; the minutes are those of two idle cores."""

    title: str
    minutes: int
    command: Sequence[str]


PARTS = {
    "unit": Part("unit tests", 1, (*PARALLEL, "tests/unit")),
    "integration": Part("integration tests", 6, (*PARALLEL, "tests/integration")),
    "fast": Part("unit and integration tests", 7, (*PARALLEL, "tests/unit", "tests/integration")),
    "main-path": Part("the main path on a real Airflow", 1, (*PYTEST, "-v", MAIN_PATH)),
    # Two at a time: tests/system/conftest.py says which.
    "rest": Part(
        "all else on a real Airflow", 12, (*PYTEST, "-v", "-n2", "tests/system", f"--ignore={MAIN_PATH}")
    ),
    "system": Part("all tests on a real Airflow", 12, (*PYTEST, "-v", "-n2", "tests/system")),
    "versions": Part(
        f"what touches Airflow on {', '.join(OTHER_AIRFLOWS)}",
        8,
        (
            *(sys.executable, "-u", "-m", "dev.versions", "--jobs={jobs}", "--reports={report}"),
            *(f"--airflow={airflow}" for airflow in OTHER_AIRFLOWS),
        ),
    ),
}


class Counts:
    """What came of the tests in these reports, which are of the kind ``--junitxml``."""

    def __init__(self, reports: Sequence[Path]) -> None:
        self.passed = 0
        self.failed: list[str] = []
        self.skipped: Counter[str] = Counter()
        for report in reports:
            for case in ElementTree.parse(report).iter("testcase"):
                if case.find("failure") is not None or case.find("error") is not None:
                    self.failed.append(f"{case.get('classname')}: {case.get('name')}")
                elif (skipped := case.find("skipped")) is not None:
                    self.skipped[skipped.get("message", "")] += 1
                else:
                    self.passed += 1

    def __str__(self) -> str:
        skipped = f", {self.skipped.total()} skipped" if self.skipped else ""
        return f"{self.passed} passed, {len(self.failed)} failed{skipped}"


def say(text: str) -> None:
    """Print a line with the time."""
    print(f"\n--- {time.strftime('%H:%M:%S')} {text}", flush=True)


def run(command: Sequence[str]) -> int:
    """Run a command to its end; return its exit status."""
    # A session of its own: a Ctrl-C in the terminal reaches it by way of this process, and so does a SIGTERM.
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(TO_END)
        raise


def main() -> int:
    """Run the parts; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS, help="tests at a time; default: %(default)s")
    parser.add_argument("parts", nargs="+", choices=PARTS)
    options = parser.parse_args()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda received, _: sys.exit(128 + received))
    parts = {name: PARTS[name] for name in options.parts}
    minutes = sum(part.minutes for part in parts.values())
    print(f"Running the tests: {minutes} min on two idle cores. The last line counts them all.")
    for part in parts.values():
        print(f"  {part.title}: {part.minutes} min", flush=True)

    unexplained = []
    with RunFolder(FOLDER / "-".join(parts)) as folder:
        for name, part in parts.items():
            say(f"{part.title}: begins")
            began = time.monotonic()
            report = folder.path / name
            status = run([word.format(report=report, jobs=options.jobs) for word in part.command])
            counts = Counts(list(report.rglob("*.xml")))
            if status and not counts.failed:
                unexplained.append(f"{part.title}: exit status {status}")
            say(f"{part.title}: {counts} in {time.monotonic() - began:.0f} s")
        counts = Counts(list(folder.path.rglob("*.xml")))

    counts.failed += unexplained
    print()
    for failed in counts.failed:
        print(f"FAILED {failed}")
    for reason, number in counts.skipped.items():
        print(f"{number} skipped: {reason}")
    print(counts, flush=True)
    return 0 if counts.passed and not counts.failed else 1


if __name__ == "__main__":
    sys.exit(main())
