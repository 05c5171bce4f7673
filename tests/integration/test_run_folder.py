"""A run that is killed leaves no process behind, and neither does a run within it."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import psutil

from dev.processes import REPOSITORY, marked
from dev.wait import wait_until

SLEEP = dedent("""
    import subprocess, sys
    from pathlib import Path
    from dev.processes import RunFolder

    with RunFolder(Path(sys.argv[1])):
        subprocess.run(sys.argv[2:])
""")


def test_a_killed_run_leaves_nothing_behind_not_even_of_a_run_within_it(tmp_path):
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    python = [sys.executable, "-c", SLEEP]
    run = subprocess.Popen([*python, outer, *python, inner, "sleep", "600"], cwd=REPOSITORY)

    def asleep() -> list[psutil.Process]:
        return [process for process in marked(f"{inner}#") if process.name() == "sleep"]

    wait_until(asleep, 120, "the run within the run has begun")
    run.kill()
    run.wait()

    wait_until(lambda: not marked(f"{outer}#") + marked(f"{inner}#"), 120, "nothing is left")
